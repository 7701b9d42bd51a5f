"""What `scooter watch` does: follow the channel of changes, as a table or as lines."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from itertools import islice
from operator import itemgetter
from typing import Any, Final

from rich.console import Console
from rich.live import Live
from rich.table import Table

from devices.console.output import as_text, print_json_line, talk, write
from devices.console.spans import rfc3339, say_age
from devices.registry import Registry
from gateway.console import stores
from gateway.errors import ServerAway
from gateway.settings import read_settings
from gateway.storage.postgres import AWAY
from gateway.telemetry.changes import Change, changes
from gateway.telemetry.state_store import LAST_SEEN, SCOOTER, redis_translated
from gateway.telemetry.typed_state import Value, typed_state

_AGAIN_S: Final = 1.0
_TAGS_AGAIN_S: Final = 5.0
_ROOM: Final = 4
"""Lines of the terminal that the table's frame needs."""


class Board:
    """The scooters of a live table: those that changed last, in the order of their ids."""

    def __init__(self) -> None:
        self._states: dict[str, dict[str, Value]] = {}

    def note(self, scooter_id: str, fields: dict[str, str | None]) -> None:
        """Fold a change (or a whole state) in."""
        self._states[scooter_id] = self._states.pop(scooter_id, {}) | typed_state(fields)

    def table(self, *, most: int, now: datetime) -> Table:
        table = Table("scooter", "presence", "battery", "km/h", "lock", "position", "age")
        for scooter_id, state in sorted(
            islice(reversed(self._states.items()), most), key=itemgetter(0)
        ):
            seen, at = state.get("received_at"), (state.get("lat"), state.get("lon"))
            table.add_row(
                scooter_id,
                *(as_text(state.get(name)) for name in ("presence", "battery_percent")),
                *(as_text(state.get(name)) for name in ("speed_kmh", "lock")),
                "-" if None in at else f"{at[0]:.5f} {at[1]:.5f}",
                say_age((now - seen).total_seconds()) if isinstance(seen, datetime) else "-",
            )
        return table


class Wanted:
    """Which scooters are watched: by a pattern of ids, and by tags as the registry has them.

    With tags it needs Postgres, asks again every few seconds, and keeps what it knows while
    Postgres is away.
    """

    def __init__(self, pattern: str, tags: Sequence[str], registry: Registry | None) -> None:
        self._pattern = pattern
        self._tags = tags
        self._registry = registry
        self._tagged: frozenset[str] = frozenset()
        self._asked_at = -math.inf

    async def refresh(self) -> None:
        """Ask the registry if it is time to; raises what Postgres says only the first time."""
        if self._registry is None or time.monotonic() - self._asked_at < _TAGS_AGAIN_S:
            return
        is_first = self._asked_at == -math.inf
        self._asked_at = time.monotonic()
        try:
            found = self._registry.find(tags=self._tags)
            self._tagged = frozenset([each.scooter_id async for each in found])
        except AWAY as error:
            if is_first:
                raise
            talk(f"postgres is away: {error}; tags are as they were")

    def __contains__(self, scooter_id: str) -> bool:
        is_tagged = self._registry is None or scooter_id in self._tagged
        return is_tagged and fnmatchcase(scooter_id, self._pattern)


async def watch(
    pattern: str, *, tags: Sequence[str], lasting: timedelta | None, as_json: bool
) -> None:
    """Tell changes of the ids that match until `lasting` is over, or for ever.

    Raises SettingsError for tags with a gateway that runs on Redis alone.
    """
    settings = read_settings()
    try:
        async with (
            asyncio.timeout(lasting.total_seconds() if lasting else None) as limit,
            stores.redis(settings) as redis,
            stores.postgres(settings) if tags else nullcontext() as pool,
        ):
            wanted = Wanted(pattern, tags, Registry(pool) if tags else None)
            await wanted.refresh()
            await _watch(redis, wanted, as_json=as_json)
    except TimeoutError:
        if not limit.expired():
            raise


async def _watch(redis: Any, wanted: Wanted, *, as_json: bool) -> None:  # noqa: ANN401 - Redis, of bytes
    console = Console()
    if console.is_terminal and not as_json:
        await _draw(redis, wanted, console)
    else:
        await _tell(redis, wanted, as_json=as_json)


async def _tell(redis: Any, wanted: Wanted, *, as_json: bool) -> None:  # noqa: ANN401 - Redis, of bytes
    async for change in _follow(redis, wanted):
        if change is None:
            continue
        at, state = datetime.now(UTC), typed_state(change.fields)
        if as_json:
            print_json_line({"at": at, "scooter_id": change.scooter_id, "fields": state})
        else:
            told = " ".join(
                f"{name}={as_text(value)}"
                for name, value in state.items()
                if not name.endswith(("_at", "_ms")) and name != "version"
            )
            if told:  # else it was only heard of again
                write(f"{rfc3339(at)} {change.scooter_id} {told}\n", at_once=True)


async def _draw(redis: Any, wanted: Wanted, console: Console) -> None:  # noqa: ANN401 - Redis, of bytes
    board, drawn_at = Board(), 0.0
    for scooter_id, fields in await _last_seen(redis, wanted, console.height):
        board.note(scooter_id, fields)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        async for change in _follow(redis, wanted):
            if change is not None:
                board.note(change.scooter_id, change.fields)
            if time.monotonic() - drawn_at >= 0.25:  # noqa: PLR2004 - more is not readable
                drawn_at = time.monotonic()
                table = board.table(most=console.height - _ROOM, now=datetime.now(UTC))
                live.update(table, refresh=True)


async def _last_seen(
    redis: Any,  # noqa: ANN401 - Redis, of bytes
    wanted: Wanted,
    most: int,
) -> list[tuple[str, dict[str, str | None]]]:
    """The states to begin with, the one seen last at the end."""
    with redis_translated():
        found = [each.decode() for each in await redis.zrange(LAST_SEEN, 0, -1, desc=True)]
        ids = [each for each in found if each in wanted][:most]
        states = [await redis.hgetall(f"{SCOOTER}{each}") for each in ids]
    return [
        (scooter_id, {name.decode(): text.decode() for name, text in state.items()})
        for scooter_id, state in zip(reversed(ids), reversed(states), strict=True)
    ]


async def _follow(redis: Any, wanted: Wanted) -> AsyncIterator[Change | None]:  # noqa: ANN401
    """Changes across outages of Redis, each told once on stderr."""
    subscribed = asyncio.Event()
    while True:
        try:
            async for change in changes(redis, subscribed=subscribed):
                await wanted.refresh()
                if change is None or change.scooter_id in wanted:
                    yield change
        except ServerAway as error:
            if not subscribed.is_set():
                raise
            talk(f"{error}; changes until it is back are missed")
            yield None
        await asyncio.sleep(_AGAIN_S)

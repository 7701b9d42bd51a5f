"""What the reading commands do: ask the servers, and print what they say."""

from base64 import b64encode
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg

from devices.console.exits import CommandFailed, Exit
from devices.console.output import (
    Form,
    as_text,
    print_json,
    print_rows,
    print_table,
    printable,
    talk,
)
from devices.console.spans import Span, counted, rfc3339, say_age
from devices.registry import Registry
from gateway.console import stores
from gateway.settings import Settings, read_settings
from gateway.telemetry import archive
from gateway.telemetry.reader import Found, Refiller, read_through
from gateway.telemetry.state_store import StateStore, redis_translated
from gateway.telemetry.typed_state import GROUPS, Value, ages_s, typed_state

_NEAR: Final = ("scooter_id", "distance_m", "lat", "lon", "presence", "battery_percent", "lock")
_HEAD_SHOWN: Final = 60


async def show_state(scooter_id: str, *, as_json: bool) -> None:
    """Raises CommandFailed when neither server knows the scooter, ServerAway when none can say."""
    settings = read_settings()
    async with (
        stores.postgres_if_any(settings) as pool,
        stores.redis(settings) as redis,
    ):
        found = await read_through(
            scooter_id,
            states=_states(settings, redis),
            refiller=Refiller(redis, pool, stale_after_s=settings.stale_after_s),
        )
        if found is None:
            with redis_translated():
                await redis.ping()  # it may be new, and only Redis would know
            raise CommandFailed(await _unheard(pool, scooter_id), code=Exit.NOT_FOUND)
    state, now = typed_state(found.state), datetime.now(UTC)
    ages = ages_s(state, now=now)
    if as_json:
        document = {"scooter_id": scooter_id, "source": found.source, "asked_at": now}
        print_json({**document, "ages_s": ages, "state": state})
        return
    _print_groups(state, ages)
    talk(f"{scooter_id} is {state.get('presence', 'of unknown presence')}; {_source(found)}")


async def _unheard(pool: asyncpg.Pool | None, scooter_id: str) -> str:
    registered = pool and await Registry(pool).get(scooter_id)
    if not registered:
        return f"no scooter {scooter_id} is known"
    return f"{scooter_id} is registered ({registered.standing}), but was never heard"


async def show_near(lat: float, lon: float, *, within_m: float, as_json: bool) -> None:
    """Ids come from the index of positions, the rest from each scooter's state."""
    settings = read_settings()
    async with stores.redis(settings) as redis:
        states = _states(settings, redis)
        found = []
        for scooter_id, distance_m in await states.near(lat, lon, within_m=within_m):
            # It may have gone since the index was asked; then the id and distance must do.
            state = typed_state(await states.read(scooter_id) or {})
            found.append({"scooter_id": scooter_id, "distance_m": round(distance_m, 1), **state})
    if as_json:
        print_json(found)
    elif found:
        print_table(_NEAR, [[each.get(name) for name in _NEAR] for each in found])
    talk(f"{counted(len(found), 'scooter')} within {within_m:g} m")


async def show_snapshots(scooter_id: str, span: Span, form: Form) -> None:
    """Raises CommandFailed when Postgres has none and does not know the scooter either."""
    brief = ("period_start", "presence", "battery_percent", "speed_kmh", "lock", "lat", "lon")
    async with stores.postgres(read_settings()) as pool:
        rows = archive.snapshots(pool, scooter_id, since=span.start, until=span.end)
        columns = archive.SNAPSHOT_COLUMNS
        count = await print_rows(rows, form, columns=columns, brief=(*brief, "position_at"))
        await _tell(count, "snapshot", pool, scooter_id, span)


async def show_events(scooter_id: str, span: Span, form: Form) -> None:
    """Raises CommandFailed when Postgres has none and does not know the scooter either."""
    brief = ("received_at", "recorded_at", "event_type", "event_id", "lat", "lon", "detail")
    async with stores.postgres(read_settings()) as pool:
        rows = archive.events(pool, scooter_id, since=span.start, until=span.end)
        count = await print_rows(rows, form, columns=archive.EVENT_COLUMNS, brief=brief)
        await _tell(count, "event", pool, scooter_id, span)


async def show_rejects(scooter_id: str | None, span: Span, form: Form) -> None:
    """Identical rejects of a day are one row with a count."""
    kept = [name for name in archive.REJECT_COLUMNS if name != "head"]
    async with stores.postgres(read_settings()) as pool:
        rows = archive.rejects(pool, since=span.start, until=span.end, scooter_id=scooter_id)
        count = await print_rows(
            _readable(rows),
            form,
            columns=(*kept, "head_base64"),
            brief=("last_at", "count", "topic", "reason", "head"),
        )
    talk(f"{counted(count, 'kind')} of rejects since {rfc3339(span.start)}")


def _states(settings: Settings, redis: Any) -> StateStore:  # noqa: ANN401 - Redis, of bytes
    return StateStore(
        redis,
        stale_after_s=settings.stale_after_s,
        history_max_bytes=settings.history_max_mib << 20,
    )


def _print_groups(state: dict[str, Value], ages: dict[str, float]) -> None:
    rows = []
    for group, names in GROUPS.items():
        known = [f"{name} {as_text(state[name])}" for name in names if name in state]
        rows.append((group, _say(ages.get(group)), ", ".join(known)))
    others = ("recorded_at", "interval_s", "wake_s", "presence", "presence_at")
    known = [f"{name} {as_text(state[name])}" for name in others if name in state]
    rows.append(("received", _say(ages.get("received")), ", ".join(known)))
    print_table(("group", "age", "values"), rows)


def _say(age_s: float | None) -> str | None:
    return None if age_s is None else say_age(age_s)


def _source(found: Found) -> str:
    if found.source == "redis":
        return "from Redis, live"
    return "from Postgres, as it was at its last snapshot"


async def _tell(count: int, what: str, pool: Any, scooter_id: str, span: Span) -> None:  # noqa: ANN401
    if count == 0 and not await archive.is_known(pool, scooter_id):
        raise CommandFailed(
            f"Postgres knows no scooter {scooter_id}: a new one is there after its first "
            "snapshot period",
            code=Exit.NOT_FOUND,
        )
    talk(f"{counted(count, what)} since {rfc3339(span.start)}")


async def _readable(rows: AsyncIterator[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    """Payload heads as base64 for programs, and escaped and short for people."""
    async for row in rows:
        head: bytes = row["head"]
        text = printable(head.decode("utf-8", errors="backslashreplace"))
        row["head_base64"] = b64encode(head).decode()
        row["head"] = text if len(text) <= _HEAD_SHOWN else f"{text[: _HEAD_SHOWN - 1]}…"
        yield row

"""What `scooter commands …` does: read the ledger, follow it, call a command off."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import asyncpg
import orjson

from devices.console.exits import CommandFailed, Exit
from devices.console.output import (
    Form,
    as_text,
    print_json,
    print_json_line,
    print_rows,
    print_table,
    talk,
    write,
)
from devices.console.spans import Span, counted, rfc3339
from devices.contract.commands import CANCEL, CommandStatus
from gateway.commands.lifecycle import is_open
from gateway.console import commanding_options, ledger_rows, stores
from gateway.console.commanding_order import Order, exit_of
from gateway.console.ledger_rows import COLUMNS, Follower, Wanted
from gateway.errors import ServerAway
from gateway.settings import read_settings
from gateway.storage.postgres import AWAY

_PERIOD_S: Final = 0.5
_AGAIN_S: Final = 2.0
_BRIEF: Final = (
    *("received_at", "request_id", "scooter_id", "command", "params"),
    *("status", "detail", "login"),
)
_ABOUT: Final = (
    *("request_id", "scooter_id", "command", "params", "status", "detail", "login", "ref"),
    *("reason", "force", "ttl_s", "requested_at", "received_at", "expires_at", "sends"),
)
_TOLD: Final = (
    *("request_id", "scooter_id", "command", "operator", "login"),
    *("at", "status", "detail", "done_by"),
)


async def show_commands(
    wanted: Wanted, span: Span, form: Form, *, limit: int | None = None
) -> None:
    """Oldest first; of more than `limit` the newest."""
    async with stores.postgres(read_settings()) as pool:
        rows = ledger_rows.commands(pool, wanted, since=span.start, until=span.end, limit=limit)
        if form is not Form.JSON:
            rows = _flat(rows)
        count = await print_rows(rows, form, columns=COLUMNS, brief=_BRIEF)
        left_out = 0
        if count == limit:
            found = await ledger_rows.count(pool, wanted, since=span.start, until=span.end)
            left_out = found - count
    talk(f"{counted(count, 'command')} since {rfc3339(span.start)}")
    if left_out > 0:
        talk(f"the oldest {left_out} were left out: a larger --limit, or --until, shows them")


async def show_command(request_id: str, *, as_json: bool) -> None:
    """One command with every move; raises CommandFailed when the ledger has none."""
    async with stores.postgres(read_settings()) as pool:
        row = await _known(pool, request_id)
        moves = await ledger_rows.moves(pool, request_id)
    if as_json:
        # `moves` is their number in a list of commands; here it is they themselves.
        print_json({**row, "moves": moves})
        return
    row["params"] = _text_of(row["params"])
    print_table(("what", "value"), [(name, row[name]) for name in _ABOUT])
    write("\n")
    print_table(
        ("move", "at", "after_s", "status", "by", "detail", "evidence"),
        [_move_row(each, moves[0]["at"]) for each in moves],
    )


async def follow_command(request_id: str, *, as_json: bool) -> None:
    """Every move from the first to the end; raises CommandFailed unless it succeeded."""
    told = 0
    async with stores.postgres(read_settings()) as pool:
        row = await _known(pool, request_id)
        while True:
            for move in (await ledger_rows.moves(pool, request_id))[told:]:
                told = move["number"]
                _tell({**_named(row), **move}, as_json=as_json)
            row = await _known(pool, request_id)
            status = CommandStatus(row["status"])
            if not is_open(status) and told >= row["moves"]:
                break
            await asyncio.sleep(_PERIOD_S)
    code = exit_of(status, row["detail"])
    if code is not Exit.OK:
        detail = f" ({row['detail']})" if row["detail"] else ""
        said = f"{row['command']} of {row['scooter_id']}: {status}{detail}"
        raise CommandFailed(said, code=code)


async def follow(wanted: Wanted, *, lasting: timedelta | None, as_json: bool) -> None:
    """Every move from now on; outages of Postgres are told and waited for."""
    try:
        async with (
            asyncio.timeout(lasting.total_seconds() if lasting else None) as limit,
            stores.postgres(read_settings()) as pool,
        ):
            follower = Follower(pool, wanted)
            await follower.start()
            talk("following; Ctrl-C ends it")
            while True:
                for move in await _news(follower):
                    _tell(move, as_json=as_json)
                await asyncio.sleep(_PERIOD_S)
    except TimeoutError:
        if not limit.expired():
            raise


async def scooter_of(request_id: str) -> str:
    """Whose command it is; raises CommandFailed when the ledger has none."""
    async with stores.postgres(read_settings()) as pool:
        return str((await _known(pool, request_id))["scooter_id"])


def cancel(
    request_id: str,
    *,
    scooter_id: str,
    login: str | None,
    key_file: Path | None,
    reason: str | None,
    as_json: bool,
) -> None:
    """Ask the gateway to call it off, as an operator; raises CommandFailed when it does not."""
    order = Order(
        command=CANCEL,
        params={"request_id": request_id},
        scooter_ids=[scooter_id],
        reason=reason,
        as_json=as_json,
    )
    commanding_options.carry_out(order, login=login, key_file=key_file)


async def _news(follower: Follower) -> list[dict[str, Any]]:
    is_away = False
    while True:
        try:
            return await follower.news()
        except (ServerAway, *AWAY) as error:  # type: ignore[misc]
            if not is_away:
                talk(f"postgres is away: {error}; its moves are told when it is back")
            is_away = True
        await asyncio.sleep(_AGAIN_S)


async def _known(pool: asyncpg.Pool, request_id: str) -> dict[str, Any]:
    row = await ledger_rows.command(pool, request_id)
    if row is None:
        raise CommandFailed(f"the ledger has no command {request_id}", code=Exit.NOT_FOUND)
    return row


def _named(row: dict[str, Any]) -> dict[str, Any]:
    names = ("request_id", "scooter_id", "command", "operator", "login")
    return {name: row[name] for name in names}


def _tell(move: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        plain = {name: each for name, each in move.items() if name in _TOLD}
        print_json_line({"move": move["number"], **plain})
        return
    fields = ("at", "request_id", "scooter_id", "command", "status", "done_by", "detail")
    cells = [as_text(move[name]) for name in fields if move[name] is not None]
    write("  ".join(cells) + "\n", at_once=True)


def _move_row(move: dict[str, Any], first_at: datetime) -> tuple[object, ...]:
    after_s = f"{(move['at'] - first_at).total_seconds():.3f}"
    evidence = ", ".join(f"{name} {value}" for name, value in move["evidence"].items())
    what = (move["number"], move["at"], after_s, move["status"], move["done_by"])
    return *what, move["detail"], evidence


async def _flat(rows: AsyncIterator[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    async for row in rows:
        yield row | {"params": _text_of(row["params"])}


def _text_of(params: dict[str, Any]) -> str | None:
    return orjson.dumps(params).decode() if params else None

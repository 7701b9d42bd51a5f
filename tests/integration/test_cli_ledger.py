"""`scooter commands …` on a real Postgres: the ledger as requests and acks made it."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest
from redis.asyncio import Redis

from devices.console.exits import Exit
from tests.command_line import Ended, scooter, start
from tests.command_office import Office, is_there, open_office, ref_of, request
from tests.command_town import interrupt, prints, says

Run = Callable[..., Awaitable[Ended]]

ONE, TWO = "SC-0001", "SC-0002"


@dataclass
class Ledger:
    """An office that writes, and the command line that reads."""

    office: Office
    url: str

    async def scooter(self, *arguments: str) -> Ended:
        return await scooter("commands", *arguments, postgres_url=self.url, env_file="/nonexistent")

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await start("commands", *arguments, postgres_url=self.url, env_file="/nonexistent")

    async def ask(self, scooter_id: str, command: str, **members: object) -> str:
        """Returns the request id."""
        asked = request(scooter_id, command, **members)  # type: ignore[arg-type]
        await self.office.ask(asked)
        await self.office.dispatch()
        return str((await self.office.row(ref_of(asked)))["request_id"])


@pytest.fixture
async def ledger(postgres_url: str, redis: Redis) -> AsyncIterator[Ledger]:
    for each in (ONE, TWO):
        await is_there(redis, each)
    async with open_office(postgres_url, redis) as office:
        yield Ledger(office, postgres_url)


async def test_commands_are_listed_by_scooter_operator_status_command_and_time(
    ledger: Ledger,
) -> None:
    first = await ledger.ask(ONE, "lock", reason="=parked, badly")
    await ledger.office.ack(ONE, first, "success")
    second = await ledger.ask(TWO, "set_speed_limit", params={"kmh": 20}, login="bob.desk")
    third = await ledger.ask(TWO, "set_speed_limit", params={"kmh": 99})

    async def ids(*arguments: str) -> list[str]:
        ended = await ledger.scooter("list", "--json", *arguments)
        assert ended.code == Exit.OK, ended.err
        return [each["request_id"] for each in ended.json]

    assert await ids() == [first, second, third]
    assert await ids("--scooter", TWO) == [second, third]
    assert await ids("--operator", "bob") == [second]
    assert await ids("--status", "refused", "--status", "succeeded") == [first, third]
    assert await ids("--command", "set-speed-limit") == [second, third]
    assert await ids("--until", "1h", "--since", "2h") == []
    table = await ledger.scooter("list")
    rows = list(csv.DictReader(io.StringIO((await ledger.scooter("list", "--csv")).out)))
    assert [line.split()[1] for line in table.lines[1:]] == [first, second, third]
    assert "3 commands since" in table.err
    assert (rows[0]["reason"], rows[0]["status"]) == ("=parked, badly", "succeeded")
    assert rows[1]["params"] == '{"kmh":20}'


async def test_of_more_commands_than_the_limit_the_newest_are_listed_and_the_rest_is_counted(
    ledger: Ledger,
) -> None:
    _, second, third = [await ledger.ask(ONE, "get_state") for _ in range(3)]

    limited = await ledger.scooter("list", "--limit", "2", "--json")
    all_of_them = await ledger.scooter("list", "--limit", "3", "--csv")
    none = await ledger.scooter("list", "--limit", "0")

    assert [each["request_id"] for each in limited.json] == [second, third]
    assert "the oldest 1 were left out" in limited.err
    assert (len(all_of_them.lines), "left out" in all_of_them.err) == (4, False)
    assert none.code == Exit.USAGE


async def test_a_command_is_shown_with_who_when_why_and_the_evidence(ledger: Ledger) -> None:
    request_id = await ledger.ask(ONE, "unlock", reason="a rental")
    await ledger.office.ack(ONE, request_id, "received")
    await ledger.office.ack(ONE, request_id, "error", error="jammed")

    shown = await ledger.scooter("show", request_id)
    document = (await ledger.scooter("show", request_id, "--json")).json
    unknown = await ledger.scooter("show", "0" * 16)

    assert shown.code == Exit.OK
    assert "a rental" in shown.out
    assert "scooter:SC-0001" in shown.out
    assert [each["status"] for each in document["moves"]] == ["sent", "received", "failed"]
    assert [each["number"] for each in document["moves"]] == [1, 2, 3]
    assert document["moves"][0]["evidence"]["lock"] == "locked"
    assert (document["status"], document["login"]) == ("failed", "alice.laptop")
    assert (unknown.code, "the ledger has no command" in unknown.err) == (Exit.NOT_FOUND, True)


async def test_a_command_is_followed_to_its_end_and_with_its_exit_code(ledger: Ledger) -> None:
    request_id = await ledger.ask(ONE, "lock")
    following = await ledger.start("follow", request_id, "--json")
    first = orjson.loads(await prints(following, '"sent"'))
    await ledger.office.ack(ONE, request_id, "received")
    await prints(following, '"received"')
    await ledger.office.ack(ONE, request_id, "error", error="jammed")
    out, err = await following.communicate()

    assert (first["move"], first["done_by"], first["operator"]) == (1, "alice.laptop", "alice")
    assert orjson.loads(out)["status"] == "failed"
    assert following.returncode == Exit.FAILED
    assert b"lock of SC-0001: failed (jammed)" in err


async def test_every_move_from_now_on_is_told_once_and_in_order(ledger: Ledger) -> None:
    old = await ledger.ask(ONE, "lock")
    following = await ledger.start("follow", "--operator", "alice", "--json")
    await says(following, "following")
    await ledger.ask(TWO, "lock", login="bob.desk")
    new = await ledger.ask(TWO, "get_state")
    await ledger.office.ack(ONE, old, "success")
    await ledger.office.ack(TWO, new, "success")
    told = [orjson.loads(await prints(following, "request_id")) for _ in range(3)]
    interrupt(following)
    out, _ = await following.communicate()

    assert [(each["request_id"], each["status"]) for each in told] == [
        (new, "sent"),
        (old, "succeeded"),
        (new, "succeeded"),
    ]
    assert (out, following.returncode) == (b"", Exit.INTERRUPTED)


async def test_without_the_ledger_it_is_told_in_a_sentence(tmp_path: Path) -> None:
    folder = await scooter("commands", "list", env_file=tmp_path)
    unset = await scooter("commands", "list", env_file="/nonexistent")
    away = await scooter(
        *("commands", "show", "0" * 16), postgres_url="postgresql://127.0.0.1:1/nothing"
    )

    assert (unset.code, "SCOOTER_POSTGRES_URL" in unset.err) == (Exit.USAGE, True)
    assert "SCOOTER_ENV_FILE names /nonexistent, which does not exist" in unset.err
    assert "No setting was found" not in unset.err
    assert f"names {tmp_path}, which cannot be read: Is a directory" in folder.err
    assert (away.code, "postgres is away" in away.err) == (Exit.FAILED, True)

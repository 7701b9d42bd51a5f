"""Commands to many scooters on real servers: all complete, or it is told which did not."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from devices.console.exits import Exit
from gateway.console.commanding import give
from gateway.console.commanding_order import Order
from gateway.console.operator_key import read_key
from gateway.local.servers import Servers
from tests.command_town import Town, crowd, interrupt, last_words, prints, statuses, town
from tests.proxy import Proxy
from tests.registration import register

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
async def place(
    own_servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Town]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    async with town(own_servers, tmp_path) as found:
        yield found


async def test_requests_cut_off_anywhere_are_asked_again_and_carried_out_once(
    place: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = [f"T-{number:04d}" for number in range(60)]
    key = read_key(await place.key())
    await register(place.desk.address.postgres_url, ids)
    await place.gateway.knows(len(ids))
    async with Proxy(key.host, key.port) as proxy, crowd(place.servers, ids) as sent:
        await place.known(ids[-1], presence="online")
        order = Order(command="lock", scooter_ids=ids, rate=50, at_once=10)
        giving = asyncio.create_task(give(order, replace(key, port=proxy.port)))
        for recorded in (5, 20, 40):
            await place.recorded(recorded)
            proxy.cut()
        async with asyncio.timeout(100):
            await giving
        connections = proxy.connections

    assert connections >= 4
    assert Counter(sent) == dict.fromkeys(ids, 1)
    assert await place.recorded(len(ids)) == len(ids)
    assert "the connection is lost" in capsys.readouterr().err


async def test_a_thousand_commands_to_a_thousand_scooters_complete(place: Town) -> None:
    ids = [f"T-{number:04d}" for number in range(1000)]
    await place.key()
    await register(place.desk.address.postgres_url, ids)
    await place.gateway.knows(1000)
    key = ("--key", str(place.bundle()))
    async with crowd(place.servers, ids):
        await place.known(ids[-1], presence="online")
        ended = await place.scooter(
            *("lock", *ids, "--yes", "--json", "--rate", "1000", "--at-once", "200"), *key
        )

    lines = [orjson.loads(line) for line in ended.lines]
    assert ended.code == Exit.OK, ended.err
    assert {each["scooter_id"] for each in lines if each["final"]} == set(ids)
    assert {each["status"] for each in lines if each["final"]} == {"succeeded"}
    assert "lock of 1000 scooters: 1000 succeeded in" in last_words(ended)


async def test_many_end_with_the_worst_code_and_stop_when_too_many_fail(place: Town) -> None:
    there = [f"T-{number:04d}" for number in range(12)]
    gone = [f"G-{number:04d}" for number in range(20)]
    await place.key()
    await register(place.desk.address.postgres_url, there)
    await place.gateway.knows(len(there))
    key = ("--key", str(place.bundle()))
    async with crowd(place.servers, there, silent=frozenset(there[:1])):
        await place.known(there[-1], presence="online")
        unasked = await place.scooter("unlock", *there[1:3], *key)
        mixed = await place.scooter("lock", *there, "--ttl", "6s", "--yes", *key)
        aborted = await place.scooter(
            *("lock", *gone, *there[1:], "--yes", "--json", "--at-once", "1"), *key
        )

    assert (unasked.code, "--yes" in unasked.err) == (Exit.REFUSED, True)
    assert mixed.code == Exit.TIMED_OUT
    assert mixed.lines[0].split()[:2] == ["scooter_id", "status"]
    assert [line.split()[:2] for line in mixed.lines[1:]] == [[there[0], "timed_out"]]
    assert "11 succeeded, 1 timed_out" in mixed.err
    assert "1 of 12 did not succeed" in last_words(mixed)
    assert aborted.code == Exit.FAILED
    assert statuses(aborted).count("refused") == 10
    assert statuses(aborted).count("not_asked") == 21
    assert "more than 50% did not succeed" in last_words(aborted)


async def test_ctrl_c_in_the_middle_of_many_tells_what_goes_on_and_what_was_not_asked(
    place: Town,
) -> None:
    ids = [f"T-{number:04d}" for number in range(20)]
    await place.key()
    await register(place.desk.address.postgres_url, ids)
    await place.gateway.knows(len(ids))
    async with crowd(place.servers, ids, silent=frozenset(ids[5:])):
        await place.known(ids[-1], presence="online")
        process = await place.start(
            *("lock", *ids, "--yes", "--json", "--at-once", "2", "--key", str(place.bundle()))
        )
        for each in (ids[5], ids[6]):
            await prints(process, f'"{each}"')
        interrupt(process)
        ended = await place.end(process)

    assert ended.code == Exit.INTERRUPTED
    assert "interrupted: 2 commands go on without you" in ended.err
    assert "ended so far: 5 succeeded" in ended.err
    assert "13 of 20 scooters were not asked for" in ended.err

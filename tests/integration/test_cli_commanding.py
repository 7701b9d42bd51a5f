"""`scooter lock` and the rest on real servers: TLS, a gateway process, simulated scooters."""

import asyncio
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import mqtt5
import orjson
import pytest

from devices.console.exits import CommandFailed, Exit
from devices.contract import topics
from gateway.console.commanding import give, wall_ms
from gateway.console.commanding_order import Order
from gateway.console.operator_key import read_key
from gateway.local.servers import Servers
from tests.accounts import LOAD
from tests.command_town import (
    KEY,
    Town,
    crowd,
    interrupt,
    last_words,
    prints,
    says,
    statuses,
    town,
)
from tests.desk import BY

pytestmark = pytest.mark.timeout(300)  # many processes, one after the other

ONE, TWO = "SC-0001", "SC-0002"
PUBACK, NO_MATCHING_SUBSCRIBERS = 0x40, b"\x10"


@pytest.fixture
async def place(
    own_servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Town]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    async with town(own_servers, tmp_path) as found:
        yield found


async def test_each_verb_is_carried_out_and_told_move_by_move(place: Town) -> None:
    bundle = await place.key()
    async with place.fleet(ONE):
        kept = await place.scooter("login", str(bundle))
        unlocked = await place.scooter("unlock", ONE, "--json", "--reason", "a rental")
        refused = await place.scooter("reboot", ONE, "--yes", "--json")
        locked = await place.scooter("lock", ONE)
        done = [
            await place.scooter(*arguments.split())
            for arguments in (
                f"unlock-battery {ONE}",
                f"locate {ONE} --seconds 1 --no-horn",
                f"headlight {ONE} --on",
                f"alarm {ONE} --off",
                f"get-state {ONE} --ttl 10s",
                f"set-speed-limit {ONE} --kmh 20",
                f"set-report-interval {ONE} --riding 5s --parked 1m",
            )
        ]
        recorded = await place.scooter("reboot", ONE, "--yes", "--no-wait", "--json")

    assert kept.code == Exit.OK, kept.err
    assert unlocked.code == Exit.OK, unlocked.err
    assert statuses(unlocked) == ["sent", "received", "succeeded"]
    first, *_, last = map(orjson.loads, unlocked.lines)
    assert set(first) == {
        *("ref", "request_id", "scooter_id", "command", "status", "at", "move", "detail"),
        *("elapsed_s", "final"),
    }
    assert (first["move"], first["final"], last["final"]) == (1, False, True)
    assert first["at"].endswith("Z")
    assert (refused.code, statuses(refused)) == (Exit.REFUSED, ["refused"])
    assert "not_locked: the lock is unlocked" in last_words(refused)
    assert locked.code == Exit.OK, locked.err
    assert [line.split()[:3] for line in locked.lines] == [
        [ONE, "lock", status] for status in ("sent", "received", "succeeded")
    ]
    assert [each.code for each in done] == [Exit.OK] * 7, [each.err for each in done]
    assert (recorded.code, statuses(recorded)) == (Exit.OK, ["sent"])


async def test_a_refusal_says_why_and_has_its_exit_code(place: Town) -> None:
    await place.key(commands=["lock", "set_speed_limit"], tags=["munich"])
    key = ("--key", str(place.bundle()))
    async with place.fleet(ONE, tags=("munich",)):
        no_right = await place.scooter("unlock", ONE, *key)
        unknown = await place.scooter("lock", "SC-9999", *key)
        by_tag = await place.scooter("lock", "--tag", "munich", "--yes", *key)
        tagged = await place.scooter(
            "lock", "--tag", "munich", "--yes", *key, **place.store_settings
        )
        nobody = await place.scooter("lock", "--tag", "bonn", "--yes", *key, **place.store_settings)
    await place.known(ONE, presence="offline")
    away = await place.scooter("lock", ONE, *key)
    kept = await place.scooter("login")

    assert (no_right.code, "no_right" in last_words(no_right)) == (Exit.REFUSED, True)
    assert (unknown.code, "unknown_scooter" in last_words(unknown)) == (Exit.NOT_FOUND, True)
    assert by_tag.code == Exit.USAGE
    assert "SCOOTER_POSTGRES_URL is not set: name the scooters" in last_words(by_tag)
    assert tagged.code == Exit.OK, tagged.err
    assert (nobody.code, "no active scooter has the tag bonn" in nobody.err) == (3, True)
    assert (away.code, "away: the scooter is offline" in last_words(away)) == (Exit.REFUSED, True)
    assert (kept.code, kept.out) == (Exit.OK, "")  # --key keeps nothing


async def test_a_key_is_kept_privately_remembered_and_worthless_once_revoked(place: Town) -> None:
    await place.key()
    await place.key("bob.desk")
    async with place.fleet(ONE):
        unnamed = await place.scooter("lock", ONE)
        await place.scooter("login", str(place.bundle()))
        await place.scooter("login", str(place.bundle("bob.desk")))
        unkept = await place.scooter("lock", ONE, "--as", "carol.phone")
        as_alice = await place.scooter("lock", ONE, "--as", KEY)
        again = await place.scooter("lock", ONE)
        listed = await place.scooter("login", "--json")
        await place.desk.keys.revoke_key(KEY, by=BY)
        revoked = await place.scooter("lock", ONE)
        login_again = await place.scooter("login", str(place.bundle()))
        bundle = await place.scooter("lock", ONE, operator_bundle=place.bundle("bob.desk"))
        bobs = {"operator_bundle": place.bundle("bob.desk")}
        kept_in_vain = await place.scooter("login", str(place.bundle("bob.desk")), **bobs)
        listed_in_vain = await place.scooter("login", "--json", **bobs)
        logout = await place.scooter("logout", KEY)
        by_operator = await place.scooter("commands", "list", "--csv", **place.store_settings)

    assert (unnamed.code, "scooter login BUNDLE" in unnamed.err) == (Exit.USAGE, True)
    assert (unkept.code, "no key carol.phone is kept here" in unkept.err) == (Exit.USAGE, True)
    assert (as_alice.code, again.code) == (Exit.OK, Exit.OK), again.err
    assert [(each["key"], each["used"]) for each in listed.json] == [
        (KEY, True),
        ("bob.desk", False),
    ]
    assert (revoked.code, "the broker refuses alice.laptop" in revoked.err) == (Exit.REFUSED, True)
    assert login_again.code == Exit.REFUSED
    assert "used from now on" not in kept_in_vain.err
    for each in (kept_in_vain, listed_in_vain):
        assert (each.code, "SCOOTER_OPERATOR_BUNDLE is set" in each.err) == (Exit.OK, True)
    assert "`--as bob.desk` names this key" in kept_in_vain.err
    assert [each["used"] for each in listed_in_vain.json] == [False, False]
    assert (bundle.code, logout.code) == (Exit.OK, Exit.OK), bundle.err
    assert [line.count("alice.laptop") for line in by_operator.lines[1:]] == [1, 1, 0]
    kept = place.bundle().parent / "config" / "scooter" / "keys"
    assert [each.name for each in kept.glob("*.json")] == ["bob.desk.json"]
    assert stat.S_IMODE((kept / "bob.desk.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700


async def test_when_a_command_has_ended_the_broker_keeps_nothing_for_its_key(place: Town) -> None:
    bundle = await place.key()
    await place.bundles(ONE, TWO)
    async with crowd(place.servers, [ONE, TWO], silent=frozenset({TWO})):
        await place.known(TWO, presence="online")
        running = await place.start("lock", TWO, "--json", "--key", str(bundle))
        await prints(running, "sent")
        assert await is_heard(place, KEY)
        interrupt(running)
        await place.end(running)
        assert not await is_heard(place, KEY)
        assert (await place.scooter("lock", ONE, "--key", str(bundle))).code == Exit.OK
        assert not await is_heard(place, KEY)


async def is_heard(place: Town, login: str) -> bool:
    """Whether a session, connected or not, subscribes to the key's replies: a PUBACK tells."""
    host, port = place.servers.mqtt_host, place.servers.mqtt_port
    reader, writer = await asyncio.open_connection(host, port)
    connect = mqtt5.ConnectPacket(
        "", username=LOAD.username, password=LOAD.password.encode(), clean_start=True
    )
    publish = mqtt5.PublishPacket(topics.replies(login), b"?", qos=mqtt5.QoS(1), packet_id=1)
    writer.write(connect.write() + publish.write())
    kind, packet = 0, b""
    async with asyncio.timeout(10):
        while kind != PUBACK:
            kind, size = await reader.readexactly(2)
            packet = await reader.readexactly(size)
    writer.close()
    await writer.wait_closed()
    return packet[2:3] != NO_MATCHING_SUBSCRIBERS


async def test_without_a_gateway_it_says_so_waits_for_the_ttl_and_does_not_know(
    place: Town,
) -> None:
    keys = [str(await place.key()), str(await place.key("bob.desk"))]
    await place.gateway.terminate()

    person, program = await asyncio.gather(
        place.scooter("lock", ONE, "--ttl", "1s", "--key", keys[0]),
        place.scooter("lock", ONE, "--ttl", "1s", "--json", "--key", keys[1]),
    )

    assert person.code == program.code == Exit.TIMED_OUT
    assert "no gateway answers (gateway-1 is offline); waiting up to" in person.err
    assert "whether it was carried out is not known" in last_words(person)
    (line,) = map(orjson.loads, program.lines)
    assert (line["status"], line["final"], line["request_id"]) == ("unanswered", True, None)


async def test_a_broker_that_is_away_or_another_one_is_told_at_once(
    place: Town, tmp_path: Path
) -> None:
    document = orjson.loads((await place.key()).read_bytes())
    own = tmp_path / "wrong.json"
    own.write_bytes(orjson.dumps(document | {"port": 1}))
    nobody = await place.scooter("lock", ONE, "--key", str(own))
    other = Path(__file__).parent.parent / "certificates.py"
    wrong_kind = await place.scooter("lock", ONE, "--key", str(other))

    assert (nobody.code, "no broker for alice.laptop at 127.0.0.1:1" in nobody.err) == (1, True)
    assert (wrong_kind.code, "is no bundle" in wrong_kind.err) == (Exit.USAGE, True)


async def test_one_key_serves_one_command_and_ctrl_c_leaves_the_command_to_itself(
    place: Town,
) -> None:
    await place.key()
    await place.bundles(TWO)
    async with place.fleet(ONE):
        await place.sleeps(TWO)
        await place.scooter("login", str(place.bundle()))
        first = await place.start("set-speed-limit", TWO, "--kmh", "20", "--json")
        queued = orjson.loads(await prints(first, '"queued"'))
        second = await place.start("lock", ONE)
        waiting = await says(second, "is in use by")
        interrupt(first)
        interrupted = await place.end(first)
        locked = await place.end(second)
        request_id = queued["request_id"]
        shown = await place.scooter(
            "commands", "show", request_id, "--json", **place.store_settings
        )
        cancelled = await place.scooter(
            "commands", "cancel", request_id, "--json", **place.store_settings
        )
        too_late = await place.scooter("commands", "cancel", request_id, "--scooter", TWO)
        followed = await place.scooter("commands", "follow", request_id, **place.store_settings)

    assert "`scooter set-speed-limit SC-0002 --kmh 20 --json` (process" in waiting
    assert interrupted.code == Exit.INTERRUPTED
    assert f"scooter commands follow {request_id}" in interrupted.err
    assert locked.code == Exit.OK, locked.err
    assert [each["status"] for each in shown.json["moves"]] == ["queued"]
    assert shown.json["params"] == {"kmh": 20}
    assert (cancelled.code, statuses(cancelled)) == (Exit.OK, ["succeeded"]), cancelled.err
    assert (too_late.code, "not_waiting" in last_words(too_late)) == (Exit.REFUSED, True)
    assert followed.code == Exit.EXPIRED
    assert [line.split()[4] for line in followed.lines] == ["queued", "cancelled"]


async def test_a_lost_connection_is_made_again_and_no_reply_is_missed(place: Town) -> None:
    await place.key()
    await place.bundles(ONE)
    await place.sleeps(ONE)
    waiting = await place.start(
        "set-speed-limit", ONE, "--kmh", "20", "--json", "--key", str(place.bundle())
    )
    await prints(waiting, '"queued"')
    await asyncio.to_thread(place.servers.mosquitto.stop)
    await says(waiting, "the connection is lost")
    await asyncio.to_thread(place.servers.mosquitto.start)
    await place.gateway.ready(within_s=60)
    async with crowd(place.servers, [ONE]):
        ended = await place.end(waiting)

    assert ended.code == Exit.OK, ended.err
    assert statuses(ended) == ["sent", "received", "succeeded"]
    assert (await place.story(ONE))[0] == "queued"


async def test_a_key_that_is_revoked_while_it_waits_is_told(place: Town) -> None:
    await place.key()
    await place.bundles(ONE)
    await place.sleeps(ONE)
    waiting = await place.start(
        "set-speed-limit", ONE, "--kmh", "20", "--json", "--key", str(place.bundle())
    )
    request_id = orjson.loads(await prints(waiting, '"queued"'))["request_id"]
    await place.desk.keys.revoke_key(KEY, by=BY)
    ended = await place.end(waiting)

    assert ended.code == Exit.REFUSED
    assert "the broker refuses alice.laptop" in last_words(ended)
    assert f"scooter commands follow {request_id}" in ended.err


@pytest.mark.parametrize(
    ("ahead_s", "said"), [(90, "90 s ahead of the gateway's"), (-90, "90 s behind the gateway's")]
)
async def test_a_wrong_clock_is_told(
    place: Town, capsys: pytest.CaptureFixture[str], ahead_s: int, said: str
) -> None:
    key = read_key(await place.key())
    await place.bundles(ONE)
    await place.gateway.knows(1)
    order = Order(command="lock", scooter_ids=[ONE])

    with pytest.raises(CommandFailed) as failed:
        await give(order, key, now_ms=lambda: wall_ms() + ahead_s * 1000)

    assert failed.value.exit_code == Exit.REFUSED
    assert f"this machine's clock is {said}" in capsys.readouterr().err

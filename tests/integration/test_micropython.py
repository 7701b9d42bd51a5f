"""The reference client under a real MicroPython, against a real broker over TLS."""

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiomqtt
import orjson
import pytest

from broker.certificates import ensure_authority
from devices.bundle import Bundle
from devices.contract import mac, messages, topics
from devices.contract.commands import Command, build_command
from devices.contract.topics import Uplink
from gateway.local.servers import Servers
from tests.bundles import FLEET_SECRET, admit
from tests.eventually import eventually
from tests.reference_client import run_snippet, start_client

pytestmark = pytest.mark.integration

SCOOTER = "WVWZZZ1JZXW000001"
HOUR_MS = 3_600_000


@dataclass
class Bench:
    """A scooter on the bench, and the gateway's account that hears and commands it."""

    bundle: Path
    flash: Path
    client: aiomqtt.Client
    heard: list[tuple[Uplink, Any]] = field(default_factory=list)
    process: asyncio.subprocess.Process | None = None
    sent: int = 0

    async def start(self) -> None:
        self.process = await start_client(self.bundle, self.flash)

    async def kill(self) -> str:
        """End it without a word; returns what it printed."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.kill()
        printed, _ = await self.process.communicate()
        return printed.decode()

    async def command(
        self,
        name: str,
        *,
        request: int,
        key: bytes | None = None,
        retain: bool = False,
        **changes: Any,  # noqa: ANN401 - fields of Command
    ) -> None:
        """Send one as the gateway would: signed, with a fresh number, for this boot."""
        self.sent += 1
        boot = self.births()[-1]["boot"]
        command = Command(
            request_id=f"{request:016x}",
            command=name,
            params={},
            n=1_767_268_800_000 + self.sent,
            boot=boot,
            exp=HOUR_MS,
        )
        topic = topics.commands(SCOOTER)
        payload = build_command(replace(command, **changes))
        key = mac.command_key(FLEET_SECRET, SCOOTER, 1) if key is None else key
        await self.client.publish(
            topic, mac.sign(key, topic, payload) if key else payload, qos=1, retain=retain
        )

    def of(self, uplink: Uplink) -> list[Any]:
        return [said for kind, said in self.heard if kind is uplink]

    def births(self) -> list[Any]:
        return [said for said in self.of(Uplink.STATUS) if said["s"] == "online"]

    def acks(self, request: int) -> list[tuple[str, str | None]]:
        of_it = [each for each in self.of(Uplink.ACKS) if each["request_id"] == f"{request:016x}"]
        return [(each["status"], each.get("error")) for each in of_it]

    async def hears(self, uplink: Uplink, count: int) -> None:
        await self.becomes(lambda: len(self.of(uplink)) >= count, f"{count} of {uplink}")

    async def answers(self, request: int, *expected: tuple[str, str | None]) -> None:
        await self.becomes(lambda: self.acks(request) == list(expected), f"{request}: {expected}")

    async def becomes(self, probe: Any, what: str) -> None:  # noqa: ANN401 - a condition
        async def ask() -> bool:
            if self.process is not None and self.process.returncode not in (None, 0, -9):
                pytest.fail(await self.kill())
            return bool(probe())

        await eventually(ask, within_s=30, what=f"{what}, heard {self.heard}")

    async def listen(self) -> None:
        async for message in self.client.messages:
            source = topics.parse_uplink(message.topic.value)
            if source is None or source.scooter_id != SCOOTER:
                continue
            payload = bytes(message.payload)
            assert len(payload) <= messages.PAYLOAD_MAX
            adapter: Any = {
                Uplink.TELEMETRY: messages.TELEMETRY,
                Uplink.EVENTS: messages.EVENT,
                Uplink.STATUS: messages.STATUS,
                Uplink.ACKS: messages.ACK,
            }[source.uplink]
            self.heard.append((source.uplink, adapter.validate_json(payload)))


@asynccontextmanager
async def on_the_bench(servers: Servers, folder: Path, bundle: Bundle) -> AsyncIterator[Bench]:
    path = folder / "bundle.json"
    path.write_text(bundle.json())
    async with aiomqtt.Client(
        servers.mqtt_host,
        servers.mqtt_port,
        username=servers.mqtt_username,
        password=servers.mqtt_password,
    ) as client:
        await client.subscribe(topics.uplink(SCOOTER, Uplink.STATUS).replace("status", "+"), qos=1)
        bench = Bench(path, folder / "flash", client)
        listening = asyncio.create_task(bench.listen())
        try:
            yield bench
        finally:
            if bench.process is not None:
                await bench.kill()
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


@pytest.fixture
async def bench(own_mosquitto: Servers, tmp_path: Path) -> AsyncIterator[Bench]:
    bundles = await admit(own_mosquitto, [SCOOTER])
    async with on_the_bench(own_mosquitto, tmp_path, bundles[SCOOTER]) as bench:
        await bench.start()
        await bench.hears(Uplink.TELEMETRY, 2)
        yield bench


async def test_it_says_its_birth_first_then_reports_every_group_and_leaves_a_will(
    bench: Bench,
) -> None:
    kind, birth = bench.heard[0]
    assert (kind, birth["s"], birth["conn"]) == (Uplink.STATUS, "online", 1)
    told = {key for report in bench.of(Uplink.TELEMETRY) for key in report}
    assert all(told & set(group) for group in messages.GROUPS.values())
    assert bench.of(Uplink.TELEMETRY)[0]["lat"] == 52.520008
    assert bench.of(Uplink.TELEMETRY)[0]["ts"] > 1_767_268_800_000

    await bench.kill()
    await bench.hears(Uplink.STATUS, 2)
    assert bench.of(Uplink.STATUS)[-1] == {"s": "lost", "boot": birth["boot"], "conn": 1}


async def test_it_obeys_a_signed_command_and_says_what_changed(bench: Bench) -> None:
    await bench.command("unlock", request=1)
    await bench.answers(1, ("received", None), ("success", None))
    assert bench.of(Uplink.ACKS)[-1]["lock"] == "unlocked"

    await bench.command("lock", request=2)
    await bench.answers(2, ("received", None), ("success", None))
    assert bench.of(Uplink.ACKS)[-1]["lock"] == "locked"

    before = len(bench.of(Uplink.TELEMETRY))
    await bench.command("get_state", request=3)
    await bench.answers(3, ("received", None), ("success", None))
    assert len(bench.of(Uplink.TELEMETRY)) >= before + 2


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"key": b""}, "bad_mac"),
        ({"key": b"another key of thirty-two bytes!"}, "bad_mac"),
        ({"exp": 1}, "expired"),
        ({"boot": 7}, "expired"),
        ({"boot": None, "exp": None}, "expired"),
        ({"n": 1}, "replayed"),
        ({"command": "open_sesame"}, "unknown_command"),
        ({"command": "headlight"}, "bad_params"),
    ],
    ids=[
        *("unsigned", "of another key", "late", "of another boot", "without a time", "replayed"),
        *("unknown", "without its parameter"),
    ],
)
async def test_it_does_not_unlock_when_the_command_is(
    bench: Bench, changes: dict[str, Any], error: str
) -> None:
    await bench.command("lock", request=1)
    await bench.answers(1, ("received", None), ("success", None))
    await bench.command("unlock", request=2, **changes)
    await bench.answers(2, ("rejected", error))

    await bench.command("lock", request=3)
    await bench.answers(3, ("received", None), ("success", None))
    assert {each.get("lock") for each in bench.of(Uplink.ACKS)} == {None, "locked"}
    assert bench.of(Uplink.EVENTS) == []


async def test_a_known_request_gets_its_stored_answer_and_nothing_is_done_twice(
    bench: Bench,
) -> None:
    await bench.command("unlock", request=1)
    await bench.answers(1, ("received", None), ("success", None))
    await bench.command("lock", request=2)
    await bench.answers(2, ("received", None), ("success", None))
    await bench.command("unlock", request=1)
    await bench.answers(1, ("received", None), ("success", None), ("success", None))

    first, again = (
        each for each in bench.of(Uplink.ACKS) if each["request_id"][-1] == "1" and "lock" in each
    )
    assert first == again
    await bench.command("lock", request=3)
    await bench.answers(3, ("received", None), ("success", None))
    assert [each["ev"] for each in bench.of(Uplink.EVENTS)] == ["trip_start", "trip_end"]


async def test_commands_that_come_at_once_are_all_obeyed_in_their_order(bench: Bench) -> None:
    for request in range(1, 7):
        await bench.command("unlock" if request % 2 else "lock", request=request)
    for request in range(1, 7):
        await bench.answers(request, ("received", None), ("success", None))
    locks = [each["lock"] for each in bench.of(Uplink.ACKS) if "lock" in each]
    assert locks == ["unlocked", "locked"] * 3


async def test_a_retained_command_is_refused_and_reported(bench: Bench) -> None:
    await bench.kill()
    await bench.command("unlock", request=1, boot=bench.births()[-1]["boot"] + 1, retain=True)
    known = len(bench.births())
    await bench.start()
    await bench.becomes(lambda: len(bench.births()) > known, "its second boot")
    await bench.answers(1, ("rejected", "retained"))
    await bench.command("unlock", request=1)  # the real one, whose id is not taken by the answer
    await bench.answers(1, ("rejected", "retained"), ("received", None), ("success", None))


async def test_an_event_is_kept_over_a_reboot_until_its_receipt(bench: Bench) -> None:
    await bench.command("unlock", request=1)
    await bench.hears(Uplink.EVENTS, 1)
    (event,) = bench.of(Uplink.EVENTS)

    await bench.kill()
    await bench.start()
    await bench.hears(Uplink.EVENTS, 2)
    assert bench.of(Uplink.EVENTS) == [event, event]
    assert bench.births()[-1]["boot"] == event["boot"] + 1

    receipt = orjson.dumps({"ids": ["9-9", event["id"]]})
    await bench.client.publish(topics.receipts(SCOOTER), receipt)
    kept = bench.flash / "events" / event["id"]
    await bench.becomes(lambda: not kept.exists(), "the event deleted")
    known = len(bench.of(Uplink.TELEMETRY))
    await bench.kill()
    await bench.start()
    await bench.hears(Uplink.TELEMETRY, known + 2)
    assert bench.of(Uplink.EVENTS) == [event, event]


async def test_a_command_of_the_boot_before_is_foreign(bench: Bench) -> None:
    await bench.command("unlock", request=1)
    await bench.answers(1, ("received", None), ("success", None))
    known, before = len(bench.births()), bench.births()[-1]["boot"]
    await bench.kill()
    await bench.start()
    await bench.becomes(lambda: len(bench.births()) > known, "its second boot")
    await bench.command("unlock", request=1, boot=before)
    await bench.answers(1, ("received", None), ("success", None), ("rejected", "expired"))


async def test_it_switches_itself_off_after_the_answer_is_out(bench: Bench) -> None:
    await bench.command("power_off", request=1)
    await bench.answers(1, ("received", None), ("success", None))
    await bench.becomes(lambda: bench.of(Uplink.STATUS)[-1]["s"] == "offline", "its goodbye")
    assert bench.process is not None
    async with asyncio.timeout(20):
        assert await bench.process.wait() == 0


async def test_it_comes_back_after_the_broker_was_killed(
    bench: Bench, own_mosquitto: Servers
) -> None:
    assert bench.births()[-1]["conn"] == 1
    await asyncio.to_thread(own_mosquitto.mosquitto.kill)
    await asyncio.to_thread(own_mosquitto.mosquitto.start)
    async with aiomqtt.Client(
        own_mosquitto.mqtt_host,
        own_mosquitto.mqtt_port,
        username=own_mosquitto.mqtt_username,
        password=own_mosquitto.mqtt_password,
    ) as client:
        await client.subscribe(topics.uplink(SCOOTER, Uplink.STATUS))
        async with asyncio.timeout(60):
            async for message in client.messages:
                said = orjson.loads(bytes(message.payload))
                if said["s"] == "online" and said["conn"] > 1:
                    break


@pytest.mark.parametrize("wrong", ["secret", "authority"])
async def test_it_gives_nothing_away_and_does_not_get_in_with_a_wrong(
    own_mosquitto: Servers, tmp_path: Path, wrong: str
) -> None:
    bundle = (await admit(own_mosquitto, [SCOOTER]))[SCOOTER]
    if wrong == "secret":
        bundle = replace(bundle, secret="wrong" * 8)
    else:
        other = ensure_authority(tmp_path / "other")
        bundle = replace(bundle, authority_pem=other.ca.read_text())
    async with on_the_bench(own_mosquitto, tmp_path, bundle) as bench:
        await bench.start()
        assert bench.process is not None
        assert bench.process.stdout is not None
        async with asyncio.timeout(30):
            printed = await bench.process.stdout.readline()
        assert printed.startswith(b"not connected:")
        assert bundle.secret.encode() not in printed
        assert bench.heard == []


async def test_it_pings_so_that_a_quiet_connection_stays(
    own_mosquitto: Servers, tmp_path: Path
) -> None:
    bundle = (await admit(own_mosquitto, [SCOOTER]))[SCOOTER]
    (tmp_path / "bundle.json").write_text(bundle.json())
    printed = await asyncio.to_thread(
        run_snippet,
        "from flash import read_bundle; from mqtt import Connection\n"
        f"bundle = read_bundle({str(tmp_path / 'bundle.json')!r})\n"
        "link = Connection(host=bundle['host'], port=bundle['port'],\n"
        "    authority=bundle['authority'], login=(bundle['username'], bundle['secret']),\n"
        "    will=(bundle['topics']['status'], b'{\"s\":\"lost\"}'), keepalive_s=2)\n"
        "link.wait(6000)\n"  # the broker gives up after three seconds of silence
        "link.publish(bundle['topics']['status'], b'{\"s\":\"online\"}')\n"
        "link.disconnect(); print('still there')",
    )
    assert printed == "still there"


@pytest.mark.parametrize("left", [None, "", "x"], ids=["nothing", "an empty one", "garbage"])
def test_a_counter_that_cannot_be_read_begins_where_no_life_before_it_did(
    tmp_path: Path, left: str | None
) -> None:
    begun = set()
    for life in range(3):
        flash = tmp_path / str(life)
        flash.mkdir()
        if left is not None:
            (flash / "boot").write_text(left)
        count = f"from flash import Flash; print(Flash({str(flash)!r}).count_boot())"
        first, second = (int(run_snippet(count)) for _ in range(2))
        assert 1 <= first < second == first + 1 <= 2**24 + 1
        begun.add(first)
    assert len(begun) > 1


@pytest.mark.parametrize("size", [0, 20, 32, 64, 65, 131])
def test_its_hmac_is_that_of_the_standard(size: int) -> None:
    key, message = bytes(range(size)), b"scooters/SC-0001/commands\0{}"
    printed = run_snippet(
        f"from wire import hmac_sha256, same; digest = hmac_sha256({key!r}, {message!r})\n"
        "print(digest.hex(), same(digest, digest), same(digest, digest[:-1] + b'!'))",
    )
    assert printed == f"{hmac.digest(key, message, hashlib.sha256).hex()} True False"


def test_its_uptime_goes_on_when_the_ticks_wrap() -> None:
    printed = run_snippet(
        "import time; from wire import Uptime\n"
        "now = [time.ticks_add(0, -1000)]\n"
        "uptime = Uptime(lambda: now[0])\n"
        "steps = []\n"
        "for step in (400, 599, 1, 1, 2000, 2**29, 2**29, 2**29):\n"
        "    now[0] = time.ticks_add(now[0], step); steps.append(uptime.ms())\n"
        "print(steps)",
    )
    assert orjson.loads(printed) == [
        *(400, 999, 1000, 1001, 3001),
        *(3001 + 2**29, 3001 + 2**30, 3001 + 3 * 2**29),
    ]


def test_its_numbers_lose_nothing() -> None:
    printed = run_snippet(
        "from wire import encode\n"
        "print(encode([('ts', 1767268800123), ('lat', -7), ('lon', -179999999), ('ok', None)])"
        ".decode())",
    )
    assert printed == '{"ts":1767268800123,"lat":-0.000007,"lon":-179.999999,"ok":null}'

"""Bad messages end as rejects that a person can look at; the good ones beside them count."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg

from tests.e2e.system import System
from tests.eventually import eventually
from tests.load import publish
from tests.wire import Message

HEAD_BYTES = 256


@dataclass(frozen=True)
class Bad:
    """One message nobody can use, and words that its reason has."""

    kind: str
    payload: bytes
    why: str
    uplink: str = "telemetry"
    retain: bool = False
    id: str | None = None

    @property
    def scooter_id(self) -> str:
        return f"BAD-{self.kind.replace(' ', '-')}" if self.id is None else self.id

    @property
    def topic(self) -> str:
        return f"scooters/{self.scooter_id}/{self.uplink}"


BAD = [
    Bad("not utf-8", b'{"fw":"\xff\xfe"}', "payload"),
    Bad("not json", b"batt=80", "payload"),
    Bad("truncated", b'{"batt":80', "payload"),
    Bad("nan", b'{"batt":NaN}', "payload"),
    Bad("infinity", b'{"spd":Infinity}', "payload"),
    Bad("an array", b"[1,2]", "payload"),
    Bad("wrong type", b'{"batt":"80"}', "batt"),
    Bad("one for true", b'{"tip":1}', "tip"),
    Bad("out of range", b'{"batt":101}', "batt"),
    Bad("latitude", b'{"lat":91,"lon":13}', "lat"),
    Bad("half a position", b'{"lat":52.5}', "lat, lon"),
    Bad("beyond 64 bits", b'{"seq":99999999999999999999999,"boot":1,"batt":1}', "seq"),
    Bad("absurd clock", b'{"ts":999999999999999999,"batt":1}', "ts"),
    Bad("nul", b'{"bid":"a\\u0000b"}', "NUL"),
    Bad("empty", b"", "payload"),
    Bad("oversize", b'{"fw":"%s"}' % (b"x" * 9000), "at most 8192"),
    Bad("unknown lock", b'{"lock":"ajar"}', "lock"),
    Bad("event without id", b'{"ev":"fall"}', "id", uplink="events"),
    Bad("event id too long", b'{"id":"%s","ev":"fall"}' % (b"1" * 17), "id", uplink="events"),
    Bad("empty batch", b"[]", "payload", uplink="telemetry_batch"),
    Bad("batch no array", b'{"batt":1}', "payload", uplink="telemetry_batch"),
    Bad("status unknown", b'{"s":"asleep"}', "s", uplink="status"),
    Bad("ack without id", b'{"status":"success"}', "request_id", uplink="acks"),
    Bad("id too short", b'{"batt":1}', "topic", id="x"),
    Bad("id too long", b'{"batt":1}', "topic", id="x" * 33),
    Bad("id with a blank", b'{"batt":1}', "topic", id="SC 0001"),
    Bad("id with a quote", b'{"batt":1}', "topic", id="SC'0001"),
    Bad("id with a dot", b'{"batt":1}', "topic", id="alice.laptop"),
    Bad("id not ascii", b'{"batt":1}', "topic", id="Röller"),
    Bad("id empty", b'{"batt":1}', "topic", id=""),
    Bad("deep", b"[" * 3000 + b"]" * 3000, "payload"),
]


async def _rejects(system: System, count: int) -> list[asyncpg.Record]:
    async def probe() -> list[asyncpg.Record] | None:
        rows = await system.ask("SELECT * FROM rejects ORDER BY first_at")
        return rows if len(rows) >= count else None

    return await eventually(probe, within_s=30, what=f"{count} rejects")


async def test_each_kind_of_bad_message_becomes_a_reject_and_harms_nothing_beside_it(
    system: System,
) -> None:
    goods = [f"GOOD-{number:03d}" for number in range(len(BAD))]
    await system.register(*goods, *(bad.scooter_id for bad in BAD if bad.id is None))
    gateway = await (await system.gateway()).ready()
    began = datetime.now(tz=UTC) - timedelta(seconds=1)
    messages = []
    for number, bad in enumerate(BAD):
        good = Message(f"scooters/{goods[number]}/telemetry", b'{"batt":%d}' % number)
        messages += [good, Message(bad.topic, bad.payload, bad.retain)]
    await publish(system.mqtt_port, *messages)

    rows = {row["topic"]: row for row in await _rejects(system, len(BAD))}
    assert len(rows) == len(BAD)
    for bad in BAD:
        row = rows[bad.topic]
        assert bad.why in row["reason"], bad
        assert row["head"] == bad.payload[:HEAD_BYTES]
        assert row["size"] == len(bad.payload)
        assert row["count"] == 1
        assert began <= row["first_at"] <= row["last_at"] <= datetime.now(tz=UTC)
        known = bad.id is None
        assert row["scooter_id"] == (bad.topic.split("/")[1] if known else None)
    states = await system.states(goods)
    assert [state["battery_percent"] for state in states] == [str(n) for n in range(len(BAD))]
    page = await gateway.balanced()
    assert (page.outcome("rejected"), page.outcome("applied")) == (len(BAD), len(BAD))


async def test_a_retained_report_of_before_is_a_reject_when_the_gateway_comes(
    system: System,
) -> None:
    await system.register("RETAINED-1")
    stale = Message("scooters/RETAINED-1/telemetry", b'{"batt":1}', retain=True)
    status = Message("scooters/RETAINED-1/status", b'{"s":"online","ivl":60}', retain=True)
    await publish(system.mqtt_port, stale, status)
    await (await system.gateway()).ready()
    (row,) = await _rejects(system, 1)
    assert "retain" in row["reason"]

    async def rebuilt() -> bool:
        (state,) = await system.states(["RETAINED-1"])
        return state.get("presence") == "online"

    await eventually(rebuilt, what="presence from the retained status")
    (state,) = await system.states(["RETAINED-1"])
    assert "battery_percent" not in state
    assert "received_at" not in state


async def test_a_report_that_is_retained_while_the_gateway_listens_is_a_reject_too(
    system: System,
) -> None:
    await system.register("RETAINED-2")
    gateway = await (await system.gateway()).ready()
    birth = Message("scooters/RETAINED-2/status", b'{"s":"online","ivl":60}', retain=True)
    retained = Message("scooters/RETAINED-2/telemetry", b'{"batt":1}', retain=True)
    await publish(system.mqtt_port, birth, retained)
    (row,) = await _rejects(system, 1)
    assert "retain" in row["reason"]
    (state,) = await system.states(["RETAINED-2"])
    assert state["presence"] == "online"
    assert "received_at" in state, "a live birth is seen now, retained or not"
    assert "battery_percent" not in state
    assert (await gateway.balanced()).outcome("rejected") == 1


async def test_the_same_bad_message_many_times_is_one_row_with_a_count(system: System) -> None:
    await system.register("SC-0001")
    await (await system.gateway()).ready()
    bad = Message("scooters/SC-0001/telemetry", b"?")
    await publish(system.mqtt_port, *[bad] * 50)
    await _rejects(system, 1)

    async def counted() -> bool:
        rows = await system.ask("SELECT count FROM rejects")
        return [row["count"] for row in rows] == [50]

    await eventually(counted, what="a count of 50")


async def test_the_good_samples_of_a_batch_are_kept_and_the_batch_is_filed_too(
    system: System,
) -> None:
    await system.register("SC-0001")
    await (await system.gateway()).ready()
    batch = (
        b'[{"boot":1,"seq":1,"batt":90},{"boot":1,"seq":2,"batt":900},{"boot":1,"seq":3,"batt":88}]'
    )
    await publish(system.mqtt_port, Message("scooters/SC-0001/telemetry_batch", batch))
    (row,) = await _rejects(system, 1)
    assert "batt" in row["reason"]
    await system.clean()
    kept = await system.ask("SELECT seq FROM late_reports ORDER BY seq")
    assert [row["seq"] for row in kept] == [1, 3]
    (state,) = await system.states(["SC-0001"])
    assert state["battery_percent"] == "88"


async def test_a_clock_that_cannot_be_right_is_not_believed(system: System) -> None:
    clocks = {"SC-1970": b"1", "SC-5138": b"99999999999999", "SC-2026": b"1767268800123"}
    await system.register(*clocks)
    await (await system.gateway()).ready()
    messages = [
        Message(f"scooters/{scooter_id}/telemetry", b'{"ts":%s,"boot":1,"seq":1,"batt":50}' % ts)
        for scooter_id, ts in clocks.items()
    ]
    await publish(system.mqtt_port, *messages)

    async def applied() -> bool:
        return all(await system.states(list(clocks)))

    await eventually(applied, what="the states")
    states = await system.states(list(clocks))
    assert [state["battery_percent"] for state in states] == ["50"] * 3
    assert ["recorded_at" in state for state in states] == [False, False, True]

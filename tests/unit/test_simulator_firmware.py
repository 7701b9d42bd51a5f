"""The simulated scooters' heads: what they say obeys the contract, in every mishap."""

import itertools
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from devices.contract import messages
from devices.contract.messages import MESSAGE_MAX, PAYLOAD_MAX
from devices.contract.topics import Uplink
from devices.simulator.city import City
from devices.simulator.firmware import Firmware, Link
from devices.simulator.model import Clock
from devices.simulator.outbox import Message
from devices.simulator.plan import FleetPlan, Mishaps, Totals

CITY = City(seed=1)
VIN = "WVWZZZ1JZXW000001"
NOW_MS = 1_767_268_800_000
ROUGH = Mishaps(
    coverage_losses_per_h=40, reboots_per_h=20, falls_per_h=20, sleeps_per_h=40, clockless_share=0.3
)
ADAPTERS: dict[Uplink, TypeAdapter[Any]] = {
    Uplink.TELEMETRY: messages.TELEMETRY,
    Uplink.TELEMETRY_BATCH: messages.TELEMETRY_BATCH,
    Uplink.EVENTS: messages.EVENT,
    Uplink.STATUS: messages.STATUS,
}


def firmware(plan: FleetPlan, *, boot: int = 1, scooter_id: str = VIN) -> Firmware:
    return Firmware(scooter_id, plan, CITY, boot=boot, now_ms=NOW_MS, totals=Totals())


def live(scooter: Firmware, *, for_s: float, receipts: bool = True) -> Iterator[Message]:
    """Run a scooter against a broker that takes everything at once."""
    now_ms, connected = NOW_MS, False
    while now_ms < NOW_MS + for_s * 1000:
        if scooter.link is Link.UP and not connected:
            connected = True
            yield Message(Uplink.STATUS, scooter.dial(), retain=True)  # its will
            yield Message(Uplink.STATUS, scooter.birth(), retain=True)
            scooter.connected()
        scooter.step(now_ms)
        if connected and scooter.link is not Link.UP:
            if scooter.link is Link.ASLEEP:
                yield Message(Uplink.STATUS, scooter.goodbye("sleeping"), retain=True)
            connected = False
            scooter.outbox.went_offline()
        while connected and (message := scooter.outbox.next(now_ms)) is not None:
            yield message
            scooter.outbox.sent(message, now_ms)
            if receipts and message.event_id is not None:
                scooter.outbox.receipted(orjson.dumps({"ids": [message.event_id]}))
        now_ms += max(1, round(scooter.due_in_s() * 1000))


def decoded(message: Message) -> Any:  # noqa: ANN401 - an object or an array
    return orjson.loads(message.payload)


def reports(said: list[Message]) -> list[dict[str, Any]]:
    """Every report, live or from a batch, in the order it was sent."""
    found: list[dict[str, Any]] = []
    for message in said:
        if message.uplink is Uplink.TELEMETRY:
            found.append(decoded(message))
        elif message.uplink is Uplink.TELEMETRY_BATCH:
            found += decoded(message)
    return found


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    small=st.booleans(),
    boot=st.integers(0, 2**32 - 1000),
    pace=st.sampled_from([0.5, 1.0, 7.0]),
)
def test_every_message_obeys_the_contract_and_fits_the_client(
    seed: int, *, small: bool, boot: int, pace: float
) -> None:
    plan = FleetPlan(seed=seed, pace=pace, small_share=float(small), mishaps=ROUGH)
    most = PAYLOAD_MAX if small else MESSAGE_MAX
    for message in live(firmware(plan, boot=boot), for_s=900 / pace):
        assert len(message.payload) <= most
        assert ADAPTERS[message.uplink].validate_json(message.payload) == decoded(message)
        assert message.retain == (message.uplink is Uplink.STATUS)


@pytest.mark.parametrize("seed", range(4))
def test_numbers_grow_within_a_boot_and_are_never_used_twice(seed: int) -> None:
    plan = FleetPlan(seed=seed, mishaps=ROUGH)
    said = list(live(firmware(plan, boot=12), for_s=3600))
    told = reports(said) + [decoded(each) for each in said if each.uplink is Uplink.EVENTS]
    orders = [(each["boot"], each["seq"]) for each in told]

    assert len(set(orders)) == len(orders)
    assert min(orders)[0] == 12
    assert max(orders)[0] > 12
    in_order = [(each["boot"], each["seq"]) for each in reports(said)]
    assert in_order == sorted(in_order)


@pytest.mark.parametrize("seed", range(4))
def test_every_connection_has_its_own_number_in_its_will_and_its_birth(seed: int) -> None:
    plan = FleetPlan(seed=seed, mishaps=ROUGH)
    statuses = [
        decoded(each)
        for each in live(firmware(plan), for_s=3600)
        if each.uplink is Uplink.STATUS and decoded(each)["s"] != "sleeping"
    ]
    wills, births = statuses[::2], statuses[1::2]

    assert {each["s"] for each in wills} == {"lost"}
    assert {each["s"] for each in births} == {"online"}
    numbers = [(each["boot"], each["conn"]) for each in births]
    assert [(each["boot"], each["conn"]) for each in wills] == numbers
    assert len(set(numbers)) == len(numbers) > 5
    assert numbers == sorted(numbers)


def test_the_same_plan_gives_the_same_messages() -> None:
    plan = FleetPlan(seed=4, mishaps=ROUGH)

    one, other = (list(live(firmware(plan), for_s=1800)) for _ in range(2))

    assert one == other


def test_reports_of_a_coverage_loss_come_in_batches_before_live_ones() -> None:
    plan = FleetPlan(seed=2, small_share=0.0, mishaps=Mishaps(coverage_losses_per_h=60))
    scooter = firmware(plan)
    said = list(live(scooter, for_s=1800))

    assert scooter.totals.coverage_losses > 3
    assert scooter.totals.batches > 3
    assert scooter.totals.reports_lost == 0
    times = [each["up"] for each in reports(said) if each["boot"] == 1]
    assert times == sorted(times)


def test_a_small_scooter_loses_its_reports_in_a_reboot_but_no_event() -> None:
    plan = FleetPlan(seed=2, small_share=1.0, mishaps=Mishaps(reboots_per_h=60))
    scooter = firmware(plan)
    said = list(live(scooter, for_s=3600, receipts=False))

    assert scooter.totals.reboots > 5
    sent = {decoded(each)["id"] for each in said if each.uplink is Uplink.EVENTS}
    assert set(scooter.outbox.unreceipted) <= sent
    assert len(sent) == scooter.totals.events_sent


@pytest.mark.parametrize(
    ("share", "clocks"),
    [
        (Mishaps(clockless_share=1.0), {Clock.UNSET}),
        (
            Mishaps(clockless_share=0.0, wrong_clock_share=1.0),
            {Clock.AHEAD, Clock.BEHIND, Clock.EPOCH},
        ),
        (Mishaps.none(), {Clock.RIGHT}),
    ],
)
def test_clocks_are_wrong_at_first_and_right_a_minute_later(
    share: Mishaps, clocks: set[Clock]
) -> None:
    for seed in range(6):
        scooter = firmware(FleetPlan(seed=seed, mishaps=share))
        assert scooter.model.clock in clocks
        told = reports(list(live(scooter, for_s=70)))
        right = ["ts" in each and abs(each["ts"] - NOW_MS - 35_000) <= 35_000 for each in told]
        assert right[0] == (scooter.model.clock is Clock.RIGHT)
        if scooter.totals.reboots == 0:
            assert right[-1]


def test_after_a_connect_a_scooter_tells_every_group() -> None:
    for seed in range(10):
        scooter = firmware(FleetPlan(seed=seed, mishaps=Mishaps.none()))
        told = {key for each in reports(list(live(scooter, for_s=1))) for key in each}
        assert told >= {"batt", "bid", "lock", "tip", "odo", "fw"}


def test_intervals_and_uptimes_are_those_of_the_real_clock_at_any_pace() -> None:
    plan = FleetPlan(seed=3, pace=10.0, mishaps=Mishaps.none())
    told = reports(list(live(firmware(plan), for_s=60)))

    gaps_ms = [b["up"] - a["up"] for a, b in itertools.pairwise(told)]
    assert max(told[-1]["up"] - 60_000, 0) == 0
    assert told[-1]["up"] > 55_000
    promised_ms = [each["ivl"] * 1000 for each in told]
    assert all(gap <= promise + 200 for gap, promise in zip(gaps_ms, promised_ms, strict=False))

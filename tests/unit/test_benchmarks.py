"""The arithmetic of the benchmark's figures, its load and its plots."""

import os
import xml.etree.ElementTree as ET

import pytest

from devices.contract import messages, topics
from devices.contract.topics import Uplink
from tests.benchmarks.accounting import CpuMeter, cpu_of_stat, peak_mib, resident_mib
from tests.benchmarks.figures import Figure, percentile, ratios
from tests.benchmarks.load import SIZES, Load, packets, report
from tests.benchmarks.report import short
from tests.benchmarks.svg import Panel, draw, nice_top


def test_a_figure_is_the_median_of_its_repetitions_with_their_spread() -> None:
    told = Figure("x", "what", "µs", (3.0, 1.0, 2.0)).as_json()
    assert (told["value"], told["low"], told["high"]) == (2.0, 1.0, 3.0)


@pytest.mark.parametrize(
    ("at_most", "at_least", "reached"),
    [(2.0, None, True), (1.9, None, False), (None, 2.0, True), (None, 2.1, False), (None,) * 3],
)
def test_a_target_is_judged_by_the_median(
    at_most: float | None,
    at_least: float | None,
    reached: bool | None,  # noqa: FBT001 - a parameter of the test
) -> None:
    figure = Figure("x", "what", "", (1.0, 2.0, 9.0), at_most=at_most, at_least=at_least)
    assert figure.reached is reached


def test_ratios_are_taken_within_a_repetition() -> None:
    assert ratios([10.0, 30.0], [5.0, 10.0]) == [2.0, 3.0]


@pytest.mark.parametrize(("percent", "value"), [(0, 1), (50, 50), (99, 99), (100, 100)])
def test_a_percentile_is_one_of_the_values(percent: float, value: float) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == value


def test_cpu_is_user_and_system_time_of_a_process_and_of_its_ended_children() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    line = f"7 (a) name) S {' '.join(['0'] * 10)} {ticks} {ticks} {ticks} {2 * ticks} 20 0 1"
    assert cpu_of_stat(line) == 5.0


def test_a_process_used_no_less_than_nothing_and_holds_memory() -> None:
    meter = CpuMeter.start({"me": os.getpid()})
    assert meter.used_s()["me"] >= 0
    assert resident_mib(os.getpid()) > 1
    assert peak_mib(os.getpid()) > 1


@pytest.mark.parametrize("size", SIZES)
def test_every_report_of_the_load_is_valid_and_of_about_its_size(size: int) -> None:
    payload = report(99_999, 4_000, size=size)
    assert messages.TELEMETRY.validate_json(payload)["seq"] == 4_000
    assert size <= len(payload) <= size * 1.1


def test_the_connections_of_a_load_carry_each_report_once_and_a_scooters_in_order() -> None:
    load = Load(prefix="T", scooters=10, laps=3, first_seq=5, connections=4)
    seqs: dict[str, list[int]] = {}
    for connection in range(load.connections):
        for number, packet in enumerate(packets(load, connection)):
            topic, packet_id, payload = _read(packet)
            assert packet_id == number + 1
            source = topics.parse_uplink(topic)
            assert source is not None
            assert source.uplink is Uplink.TELEMETRY
            seq = messages.TELEMETRY.validate_json(payload)["seq"]
            assert seq is not None
            seqs.setdefault(source.scooter_id, []).append(seq)
    assert seqs == {each: [5, 6, 7] for each in load.scooter_ids()}


def test_a_plot_is_well_formed_and_has_a_point_for_each_value() -> None:
    panel = Panel("CPU <µs>", "scooters", [100, 1000], {"a": [1.0, 2.0], "b": [2.0, 0.0]}, True)  # noqa: FBT003
    root = ET.fromstring(draw("title & more", [panel, panel, panel]))  # noqa: S314 - our own
    assert len(root.findall(".//{*}circle")) == 12
    assert len(root.findall(".//{*}polyline")) == 6


@pytest.mark.parametrize(
    ("highest", "top"), [(0.0, 1.0), (0.3, 0.5), (1.0, 1.0), (21.0, 25.0), (9_999.0, 10_000.0)]
)
def test_an_axis_ends_at_a_round_number_above_every_value(highest: float, top: float) -> None:
    assert nice_top(highest) == pytest.approx(top)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (0.0123, "0.012"), (1.234, "1.23"), (56.78, "56.8"), (1e4, "10,000")],
)
def test_a_number_is_told_with_the_digits_that_count(number: float, text: str) -> None:
    assert short(number) == text


def _read(packet: bytes) -> tuple[str, int, bytes]:
    """Topic, packet id and payload of an MQTT 3.1.1 PUBLISH at QoS 1."""
    assert packet[0] == 0x32
    start = 2 if packet[1] < 0x80 else 3
    size = int.from_bytes(packet[start : start + 2])
    topic = packet[start + 2 : start + 2 + size].decode()
    rest = packet[start + 2 + size :]
    return topic, int.from_bytes(rest[:2]), rest[2:]

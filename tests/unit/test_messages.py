"""The payloads of the contract: what is taken, what is refused, and that the examples are both."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from devices.contract import messages
from devices.contract.commands import check_params, parse_command
from devices.contract.topics import Uplink, parse_uplink
from tests.examples import README, examples

INTEGER_RANGES = {
    "ts": (0, 10**14 - 1),
    "boot": (0, 2**32 - 1),
    "seq": (0, 2**32 - 1),
    "up": (0, 10**14 - 1),
}
NUMBER_RANGES = {
    "ivl": (0, 31 * 86_400),
    "lat": (-90, 90),
    "lon": (-180, 180),
    "acc": (0, 1_000_000),
    "spd": (0, 200),
    "hdg": (0, 360),
    "batt": (0, 100),
    "mv": (0, 200_000),
    "rng": (0, 1_000_000),
    "odo": (0, 1_000_000_000),
    "sig": (-200, 0),
}
RANGES = INTEGER_RANGES | NUMBER_RANGES
FLAGS = ["chg", "tip"]
WORDS = ["bid", "fw"]
EVERY_FIELD = [*RANGES, *FLAGS, *WORDS, "lock"]

ADAPTERS: dict[Uplink, TypeAdapter[Any]] = {
    Uplink.TELEMETRY: messages.TELEMETRY,
    Uplink.TELEMETRY_BATCH: messages.TELEMETRY_BATCH,
    Uplink.EVENTS: messages.EVENT,
    Uplink.STATUS: messages.STATUS,
    Uplink.ACKS: messages.ACK,
}

EDGES = [(field, edge) for field, edges in RANGES.items() for edge in edges]
BEYOND = [
    (field, beyond) for field, (low, high) in RANGES.items() for beyond in (low - 1, high + 1)
]


def telemetry(text: str) -> dict[str, Any]:
    return dict(messages.TELEMETRY.validate_json(text))


def refused(adapter: TypeAdapter[Any], text: str) -> bool:
    try:
        adapter.validate_json(text)
    except ValidationError:
        return True
    return False


def test_the_readme_and_the_types_name_the_same_fields() -> None:
    assert set(EVERY_FIELD) == set(messages.Telemetry.__annotations__)
    assert all(f"`{field}`" in README.read_text("utf-8") for field in EVERY_FIELD)


@pytest.mark.parametrize(("field", "edge"), EDGES)
def test_a_value_at_the_edge_of_its_range_is_taken(field: str, edge: int) -> None:
    assert telemetry(json.dumps({field: edge})) == {field: edge}


@pytest.mark.parametrize(("field", "beyond"), BEYOND)
def test_a_value_beyond_its_range_is_refused(field: str, beyond: int) -> None:
    assert refused(messages.TELEMETRY, json.dumps({field: beyond}))


@pytest.mark.parametrize("field", RANGES)
@pytest.mark.parametrize(
    "value",
    [
        '"1"',
        "true",
        "NaN",
        "Infinity",
        "-Infinity",
        "[1]",
        "{}",
        str(2**64),
        f"-{2**63 + 1}",
        "1e999",
    ],
)
def test_what_is_no_number_of_ours_is_refused(field: str, value: str) -> None:
    assert refused(messages.TELEMETRY, f'{{"{field}":{value}}}')


@pytest.mark.parametrize("field", INTEGER_RANGES)
@pytest.mark.parametrize("value", ["1.5", "1.0", "1e3"])
def test_a_counter_or_a_time_with_a_fraction_is_refused(field: str, value: str) -> None:
    assert refused(messages.TELEMETRY, f'{{"{field}":{value}}}')


@pytest.mark.parametrize("field", NUMBER_RANGES)
@pytest.mark.parametrize("value", ["-0", "0", "0.0", "0e0"])
def test_a_quantity_may_come_in_any_spelling_of_a_number(field: str, value: str) -> None:
    assert telemetry(f'{{"{field}":{value}}}')[field] == 0


@pytest.mark.parametrize("field", FLAGS)
@pytest.mark.parametrize("value", ["0", "1", '"true"', '""', "1.0"])
def test_what_is_neither_true_nor_false_is_no_flag(field: str, value: str) -> None:
    assert refused(messages.TELEMETRY, f'{{"{field}":{value}}}')


@pytest.mark.parametrize("field", WORDS)
def test_a_text_has_at_most_32_characters(field: str) -> None:
    assert telemetry(json.dumps({field: "ü" * 32})) == {field: "ü" * 32}
    assert refused(messages.TELEMETRY, json.dumps({field: "u" * 33}))
    assert refused(messages.TELEMETRY, json.dumps({field: 7}))


@pytest.mark.parametrize("lock", ["locked", "unlocked", "moving", "jammed"])
def test_a_lock_is_one_of_four_words(lock: str) -> None:
    assert telemetry(json.dumps({"lock": lock})) == {"lock": lock}
    assert refused(messages.TELEMETRY, json.dumps({"lock": lock.upper()}))


@pytest.mark.parametrize("field", EVERY_FIELD)
def test_null_is_kept_and_differs_from_a_field_that_was_not_sent(field: str) -> None:
    assert telemetry(json.dumps({field: None})) == {field: None}
    assert telemetry("{}") == {}


@given(
    st.dictionaries(
        st.text(max_size=12).filter(lambda key: key not in EVERY_FIELD),
        st.one_of(st.none(), st.booleans(), st.floats(allow_nan=False), st.text(max_size=8)),
        max_size=5,
    )
)
def test_unknown_keys_are_ignored(unknown: dict[str, Any]) -> None:
    assert telemetry(json.dumps(unknown | {"batt": 80})) == {"batt": 80}


@given(
    st.fixed_dictionaries(
        {},
        optional={
            **{field: st.integers(low, high) for field, (low, high) in INTEGER_RANGES.items()},
            **{field: st.floats(low, high) for field, (low, high) in NUMBER_RANGES.items()},
            **{field: st.none() for field in WORDS},
            **{field: st.booleans() for field in FLAGS},
        },
    )
)
def test_every_report_within_the_ranges_arrives_as_it_was_sent(report: dict[str, Any]) -> None:
    assert telemetry(json.dumps(report)) == report
    assert messages.TELEMETRY_BATCH.validate_json(orjson.dumps([report])) == [report]


@pytest.mark.parametrize("text", ["", "null", "1", "[]", '"x"', "{", '{"batt":1}x', "{'batt':1}"])
def test_what_is_no_json_object_is_no_report(text: str) -> None:
    assert refused(messages.TELEMETRY, text)


@pytest.mark.parametrize("text", ["[]", "{}", "[null]", '[{"batt":1},{"batt":101}]'])
def test_a_batch_is_an_array_of_at_least_one_report_and_all_of_them_good(text: str) -> None:
    assert refused(messages.TELEMETRY_BATCH, text)


@pytest.mark.parametrize(
    "change",
    [
        {"id": None},
        {"id": ""},
        {"id": "x" * 17},
        {"id": 17},
        {"ev": None},
        {"ev": ""},
        {"ev": "x" * 33},
        {"d": "x" * 257},
        {"lat": 91},
        {"ts": "2026-01-01"},
    ],
)
def test_an_event_needs_a_short_id_and_a_type_and_values_in_range(change: dict[str, Any]) -> None:
    event = {"id": "12-17", "ev": "fall"}

    assert not refused(messages.EVENT, json.dumps(event))
    assert refused(messages.EVENT, json.dumps(event | change))


@pytest.mark.parametrize("missing", ["id", "ev"])
def test_an_event_without_id_or_type_is_refused(missing: str) -> None:
    event = {"id": "12-17", "ev": "fall"}
    del event[missing]

    assert refused(messages.EVENT, json.dumps(event))


@pytest.mark.parametrize("s", ["online", "sleeping", "offline", "lost"])
def test_a_status_is_one_of_four_words(s: str) -> None:
    assert messages.STATUS.validate_json(json.dumps({"s": s})) == {"s": s}


@pytest.mark.parametrize("text", ["{}", '{"s":null}', '{"s":"stale"}', '{"s":"online","conn":-1}'])
def test_any_other_status_is_refused(text: str) -> None:
    assert refused(messages.STATUS, text)


@given(st.lists(st.text(min_size=1, max_size=16), max_size=60))
def test_receipts_name_every_event_once_in_order_within_200_bytes(ids: list[str]) -> None:
    receipts = list(messages.build_receipts(ids))

    assert [each for receipt in receipts for each in orjson.loads(receipt)["ids"]] == ids
    assert all(len(receipt) <= messages.PAYLOAD_MAX for receipt in receipts)


def test_every_json_block_of_the_readme_is_an_example_on_a_topic() -> None:
    assert len(examples()) == README.read_text("utf-8").count("```json")
    assert {parse_uplink(topic).uplink for topic, _ in examples() if parse_uplink(topic)} >= {  # type: ignore[union-attr]
        Uplink.TELEMETRY,
        Uplink.TELEMETRY_BATCH,
        Uplink.EVENTS,
        Uplink.STATUS,
        Uplink.ACKS,
    }


@pytest.mark.parametrize(("topic", "payload"), examples())
def test_an_example_fits_a_small_client_and_obeys_the_contract(topic: str, payload: bytes) -> None:
    longest_topic = topic.replace("SC-0001", "WVWZZZ1JZXW000001")

    assert len(payload) <= messages.PAYLOAD_MAX
    assert 5 + 2 + len(longest_topic) + 2 + len(payload) <= 256
    source = parse_uplink(longest_topic)
    if topic.endswith("/commands"):
        check_params((command := parse_command(payload)).command, command.params)
    elif source is None:
        assert topic.endswith("/receipts")
        assert payload in list(messages.build_receipts(orjson.loads(payload)["ids"]))
    else:
        message = ADAPTERS[source.uplink].validate_json(payload)
        assert message == orjson.loads(payload)  # no misspelt key was ignored

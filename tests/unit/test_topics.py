"""The topic tree: what is built can be parsed, and nothing else can."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.contract import topics
from devices.contract.topics import Source, Uplink

SCOOTER_IDS = st.from_regex(topics.SCOOTER_ID, fullmatch=True)
UPLINKS = st.sampled_from(Uplink)


@given(SCOOTER_IDS, UPLINKS)
def test_parsing_an_uplink_topic_is_the_inverse_of_building_it(
    scooter_id: str, kind: Uplink
) -> None:
    assert topics.parse_uplink(topics.uplink(scooter_id, kind)) == Source(scooter_id, kind)


@given(st.text(max_size=40).filter(lambda text: not topics.is_scooter_id(text)), UPLINKS)
def test_a_topic_with_a_bad_id_is_nobodys(scooter_id: str, kind: Uplink) -> None:
    assert topics.parse_uplink(topics.uplink(scooter_id, kind)) is None


@pytest.mark.parametrize(
    "scooter_id",
    ["", "ab", "-abc", "_abc", "a" * 33, "SC.0001", "SC/0001", "SC+1", "SC#1", "sc-0001\n", "ÄBC"],
)
def test_a_bad_scooter_id_is_refused(scooter_id: str) -> None:
    assert not topics.is_scooter_id(scooter_id)


@pytest.mark.parametrize("scooter_id", ["abc", "SC-0001", "WVWZZZ1JZXW000001", "a" * 32, "0_-"])
def test_a_good_scooter_id_is_accepted(scooter_id: str) -> None:
    assert topics.is_scooter_id(scooter_id)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "scooters/SC-0001",
        "scooters/SC-0001/",
        "scooters/SC-0001/telemetry/",
        "scooters/SC-0001/telemetry/x",
        "scooters/SC-0001/telemetry_batches",
        "scooters/SC-0001/Telemetry",
        "/scooters/SC-0001/telemetry",
        "x/scooters/SC-0001/telemetry",
        "scooters//telemetry",
        "scooters/SC-0001/telemetry\n",
        topics.commands("SC-0001"),
        topics.receipts("SC-0001"),
        topics.gateway_status("gateway-1"),
        topics.echo("gateway-1"),
    ],
)
def test_a_topic_that_no_scooter_writes_is_no_uplink(topic: str) -> None:
    assert topics.parse_uplink(topic) is None


@given(SCOOTER_IDS, UPLINKS)
def test_the_filter_of_an_uplink_matches_that_uplink_of_every_scooter(
    scooter_id: str, kind: Uplink
) -> None:
    assert topics.every(kind).replace("+", scooter_id) == topics.uplink(scooter_id, kind)


@given(SCOOTER_IDS)
def test_what_is_sent_to_a_scooter_never_looks_like_an_uplink(scooter_id: str) -> None:
    downlinks = {topics.commands(scooter_id), topics.receipts(scooter_id)}

    assert downlinks.isdisjoint({topics.uplink(scooter_id, kind) for kind in Uplink})

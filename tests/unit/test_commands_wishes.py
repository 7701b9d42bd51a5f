"""Operators' deliveries: what is read of them, and who hears what is wrong."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.contract import topics
from gateway.commands.recording import one_each
from gateway.commands.wishes import CORRELATION_MAX, NoWish, Wish, read, refusal
from gateway.links.delivery import Delivery

KEY = "alice.laptop"
BODY = {"ref": "r", "at": 1, "scooter_id": "SC-0001", "command": "lock"}


def delivery(
    body: object = None, *, topic: str = topics.requests(KEY), **members: object
) -> Delivery:
    payload = body if isinstance(body, bytes) else orjson.dumps(body or BODY)
    return Delivery(topic, payload, **members)  # type: ignore[arg-type]


def wish(**changes: object) -> Wish:
    found = read(delivery(BODY | changes))
    assert isinstance(found, Wish)
    return found


def test_the_key_of_the_topic_is_who_asks() -> None:
    asked = wish()
    assert asked.asker.login == KEY
    assert asked.asker.topic == topics.replies(KEY)
    assert asked.request.command == "lock"


@pytest.mark.parametrize("login", ["SC-0001", "gateway", "alice", "a.b.c", "Alice.laptop"])
def test_whoever_has_no_operators_key_is_not_answered(login: str) -> None:
    found = read(delivery(topic=f"operators/{login}/commands"))
    assert isinstance(found, NoWish)
    assert found.asker is None


def test_the_same_content_has_the_same_hash_however_it_is_spelt() -> None:
    spelt = orjson.dumps(dict(reversed(BODY.items())) | {"unknown": 1, "force": False})
    other = read(delivery(spelt))
    assert isinstance(other, Wish)
    assert other.content == wish().content


@pytest.mark.parametrize(
    "change",
    [
        {"at": 2},
        {"command": "unlock"},
        {"scooter_id": "SC-0002"},
        {"params": {"s": 1}},
        {"ttl": 5.0},
        {"force": True},
        {"reason": "why"},
    ],
)
def test_other_content_has_another_hash(change: dict[str, object]) -> None:
    assert wish(**change).content != wish().content


@pytest.mark.parametrize(
    ("given_topic", "kept"),
    [
        (topics.replies(KEY), True),
        (f"{topics.replies(KEY)}/1", True),
        (f"{topics.replies(KEY)}1", False),
        (topics.replies("bob.desk"), False),
        ("scooters/SC-0001/commands", False),
    ],
)
def test_a_response_topic_counts_under_the_keys_own_replies_only(
    given_topic: str,
    kept: bool,  # noqa: FBT001
) -> None:
    found = read(delivery(response_topic=given_topic))
    assert isinstance(found, Wish)
    assert found.asker.response_topic == (given_topic if kept else None)


@pytest.mark.parametrize("below", ["/\x01", "/\n", "/\ufffe", "/", "//", "/" + "a" * 65, "/a" * 5])
def test_a_response_topic_that_not_everybody_can_publish_on_does_not_count(below: str) -> None:
    found = read(delivery(response_topic=f"{topics.replies(KEY)}{below}"))
    assert found.asker is not None
    assert found.asker.topic == topics.replies(KEY)


@pytest.mark.parametrize("below", ["", "/7", "/a/b-c/4f_9.x:~/d", "/" + "a" * 64])
def test_a_response_topic_under_ones_own_replies_counts(below: str) -> None:
    found = read(delivery(response_topic=f"{topics.replies(KEY)}{below}"))
    assert found.asker is not None
    assert found.asker.topic == f"{topics.replies(KEY)}{below}"


def test_long_correlation_data_is_refused_and_not_sent_back() -> None:
    fits = read(delivery(correlation_data=b"c" * CORRELATION_MAX))
    assert isinstance(fits, Wish)
    found = read(delivery(correlation_data=b"c" * (CORRELATION_MAX + 1)))
    assert isinstance(found, NoWish)
    assert found.asker is not None
    assert found.asker.correlation is None


@given(payload=st.binary(max_size=80))
def test_no_bytes_break_the_reader_and_each_gets_a_reason(payload: bytes) -> None:
    found = read(delivery(payload))
    assert isinstance(found, NoWish)
    orjson.dumps(refusal(found.said, found.detail, now_ms=1))


@given(
    asked=st.lists(
        st.tuples(st.sampled_from(["r1", "r2", "r3"]), st.sampled_from(["SC-1", "SC-2", "SC-3"])),
        max_size=12,
    )
)
def test_in_a_round_each_scooter_and_each_ref_comes_once_and_their_order_is_kept(
    asked: list[tuple[str, str]],
) -> None:
    wishes = [wish(ref=ref, scooter_id=scooter_id) for ref, scooter_id in asked]
    rounds = one_each(wishes)
    assert sorted(map(id, wishes)) == sorted(id(each) for some in rounds for each in some)
    for some in rounds:
        for name in ("ref", "scooter_id"):
            values = [getattr(each.request, name) for each in some]
            assert len(values) == len(set(values))
    place = {id(each): number for number, some in enumerate(rounds) for each in some}
    for first, earlier in enumerate(wishes):
        for later in wishes[first + 1 :]:
            shares = (
                earlier.request.ref == later.request.ref
                or earlier.request.scooter_id == later.request.scooter_id
            )
            assert not shares or place[id(earlier)] < place[id(later)]

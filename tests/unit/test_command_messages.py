"""Commands on the wire: what fits, what is taken, what is refused and why."""

from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from devices.contract import mac, topics
from devices.contract.commands import (
    CANCEL,
    COMMANDS,
    NUMBER_MAX,
    REQUEST_MAX,
    UPTIME_MAX_MS,
    Command,
    CommandError,
    Request,
    build_command,
    build_request,
    check_params,
    parse_command,
    parse_reply,
    parse_request,
)
from devices.contract.messages import PAYLOAD_MAX

LONGEST_ID = "S" * 17
KEY = mac.command_key("s" * 43, LONGEST_ID, 1)

PARAMS: dict[str, st.SearchStrategy[dict[str, Any]]] = {name: st.just({}) for name in COMMANDS} | {
    "locate": st.fixed_dictionaries(
        {"s": st.integers(1, 30), "light": st.booleans(), "horn": st.booleans()}
    ),
    "headlight": st.fixed_dictionaries({"on": st.booleans()}),
    "alarm": st.fixed_dictionaries({"on": st.booleans()}),
    "set_speed_limit": st.fixed_dictionaries({"kmh": st.integers(0, 45)}),
    "set_report_interval": st.fixed_dictionaries(
        {"riding": st.integers(1, 3600), "parked": st.integers(1, 86_400)}
    ),
}


@st.composite
def commands(draw: st.DrawFn) -> Command:
    """Every command that the gateway can send."""
    name = draw(st.sampled_from(sorted(COMMANDS)))
    knows_uptime = draw(st.booleans())
    return Command(
        request_id=draw(st.integers(0, 2**64 - 1).map("{:016x}".format)),
        command=name,
        params=check_params(name, draw(PARAMS[name])),
        n=draw(st.integers(0, NUMBER_MAX - 1)),
        boot=draw(st.integers(0, 2**32 - 1)) if knows_uptime else None,
        exp=draw(st.integers(0, UPTIME_MAX_MS - 1)) if knows_uptime else None,
    )


LONGEST = Command(
    request_id="f" * 16,
    command="set_report_interval",
    params={"riding": 3600, "parked": 86_400},
    n=NUMBER_MAX - 1,
    boot=2**32 - 1,
    exp=UPTIME_MAX_MS - 1,
)


@given(command=commands())
@example(command=LONGEST)
def test_every_command_fits_signed_and_reads_back_the_same(command: Command) -> None:
    payload = mac.sign(KEY, topics.commands(LONGEST_ID), build_command(command))
    assert len(payload) <= PAYLOAD_MAX
    assert parse_command(payload) == command


def test_every_command_is_in_the_strategy() -> None:
    assert PARAMS.keys() == COMMANDS.keys()


@pytest.mark.parametrize(
    ("command", "params", "filled"),
    [
        ("locate", {}, {"s": 10, "light": True, "horn": True}),
        ("unlock", {}, {}),
        ("set_report_interval", {"parked": 300}, {"parked": 300}),
        (CANCEL, {"request_id": "00000000000000aa"}, {"request_id": "00000000000000aa"}),
    ],
)
def test_parameters_get_their_defaults(
    command: str, params: dict[str, Any], filled: dict[str, Any]
) -> None:
    assert check_params(command, params) == filled


@pytest.mark.parametrize(
    ("command", "params", "reason"),
    [
        ("explode", {}, "unknown_command"),
        ("unlock", {"now": True}, "bad_params"),
        ("locate", {"s": 0}, "bad_params"),
        ("locate", {"s": 31}, "bad_params"),
        ("locate", {"s": 1.5}, "bad_params"),
        ("locate", {"light": 1}, "bad_params"),
        ("headlight", {}, "bad_params"),
        ("headlight", {"on": "true"}, "bad_params"),
        ("set_speed_limit", {"kmh": 46}, "bad_params"),
        ("set_speed_limit", {"kmh": True}, "bad_params"),
        ("set_speed_limit", {"kmh": -1}, "bad_params"),
        ("set_report_interval", {}, "bad_params"),
        ("set_report_interval", {"riding": 0}, "bad_params"),
        ("set_report_interval", {"parked": 86_401}, "bad_params"),
        (CANCEL, {"request_id": "xyz"}, "bad_params"),
    ],
)
def test_wrong_parameters_are_named(command: str, params: dict[str, Any], reason: str) -> None:
    with pytest.raises(CommandError) as caught:
        check_params(command, params)
    assert caught.value.reason == reason


REQUEST: dict[str, Any] = {
    "ref": "r1",
    "at": 1_767_268_800_123,
    "scooter_id": "SC-0001",
    "command": "lock",
}


def test_a_request_reads_back_the_same() -> None:
    request = Request(**REQUEST, params={"on": True}, ttl=5.5, reason="a tip", force=True)
    assert parse_request(build_request(request)) == request
    assert parse_request(orjson.dumps({**REQUEST, "unknown": 1})) == Request(**REQUEST)


@pytest.mark.parametrize("member", sorted(REQUEST))
def test_what_must_be_there_is_missed(member: str) -> None:
    body = {name: value for name, value in REQUEST.items() if name != member}
    with pytest.raises(CommandError, match=member):
        parse_request(orjson.dumps(body))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"lock",
        b"[]",
        b"\xff{}",
        orjson.dumps({**REQUEST, "at": "now"}),
        orjson.dumps({**REQUEST, "at": 1.5}),
        orjson.dumps({**REQUEST, "ref": ""}),
        orjson.dumps({**REQUEST, "ref": "x" * 65}),
        orjson.dumps({**REQUEST, "ref": "a\0b"}),
        orjson.dumps({**REQUEST, "reason": "a\0b"}),
        orjson.dumps({**REQUEST, "scooter_id": "SC/0001"}),
        orjson.dumps({**REQUEST, "scooter_id": "SC-0001\n"}),
        orjson.dumps({**REQUEST, "ttl": 0}),
        orjson.dumps({**REQUEST, "ttl": "5"}),
        orjson.dumps({**REQUEST, "params": [1]}),
        orjson.dumps({**REQUEST, "force": 1}),
        orjson.dumps(REQUEST)[:-1] + b',"ttl":NaN}',
        orjson.dumps({**REQUEST, "reason": "x" * 257}),
        orjson.dumps({**REQUEST, "padding": "x" * REQUEST_MAX}),
    ],
)
def test_a_bad_request_says_what_is_wrong(payload: bytes) -> None:
    with pytest.raises(CommandError) as caught:
        parse_request(payload)
    assert caught.value.reason == "bad_request"
    assert len(str(caught.value)) > len("bad_request: ")


@given(payload=st.binary(max_size=64))
def test_no_bytes_break_the_parsers(payload: bytes) -> None:
    for parse in (parse_request, parse_command, parse_reply):
        try:
            parse(payload)
        except CommandError as error:
            assert error.reason == "bad_request"  # noqa: PT017 - most bytes are nothing


COMMAND = build_command(LONGEST)


@pytest.mark.parametrize(
    "payload",
    [
        COMMAND.replace(b'"n":', b'"m":'),
        COMMAND.replace(b'"request_id"', b'"id"'),
        COMMAND.replace(b'"command"', b'"cmd"'),
        COMMAND.replace(b"f" * 16, b"F" * 16),
        COMMAND[:-1] + b',"x":"' + b"x" * 200 + b'"}',
    ],
)
def test_a_scooter_refuses_what_no_gateway_sends(payload: bytes) -> None:
    with pytest.raises(CommandError):
        parse_command(payload)


def test_a_command_is_past_in_another_boot_or_after_its_uptime() -> None:
    command = Command(request_id="0" * 16, command="unlock", params={}, n=1, boot=7, exp=5000)
    assert not command.is_past(boot=7, up_ms=5000)
    assert command.is_past(boot=7, up_ms=5001)
    assert command.is_past(boot=8, up_ms=10)
    assert command.is_past(boot=6, up_ms=10)
    timeless = Command(request_id="0" * 16, command="lock", params={}, n=1)
    assert not timeless.is_past(boot=8, up_ms=10**10)


def test_a_reply_is_read_with_its_status() -> None:
    reply = parse_reply(b'{"ref":"r1","status":"sent","at":1767268800123,"move":1}')
    assert (reply["status"], reply["move"]) == ("sent", 1)


@pytest.mark.parametrize(
    ("login", "holds"),
    [
        ("alice.laptop", True),
        ("a.b", True),
        ("alice", False),
        ("alice.lap.top", False),
        ("Alice.laptop", False),
        ("SC-0001", False),
        (".laptop", False),
        ("alice.", False),
    ],
)
def test_an_operators_key_has_one_dot(login: str, holds: bool) -> None:  # noqa: FBT001
    assert topics.is_operator_key(login) is holds
    assert topics.parse_request(topics.requests(login)) == (login if holds else None)
    assert topics.parse_request(topics.replies(login)) is None

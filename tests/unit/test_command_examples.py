"""What the devices README says of commands is true to the byte."""

import re
import subprocess

import orjson
import pytest

from devices.contract import mac
from devices.contract.commands import COMMANDS, Command, build_command, parse_command
from devices.contract.messages import PAYLOAD_MAX
from tests.examples import README, examples

TEXT = README.read_text("utf-8")
KEY = bytes.fromhex(re.search(r"with the key `([0-9a-f]{64})`", TEXT)[1])  # type: ignore[index]
SENT = [(topic, payload) for topic, payload in examples() if topic.endswith("/commands")]
ACKS = [orjson.loads(payload) for topic, payload in examples() if topic.endswith("/acks")]


def test_there_are_signed_commands_and_an_unsigned_one() -> None:
    assert [b'"mac"' in payload for _, payload in SENT] == [True, True, False]


@pytest.mark.parametrize(("topic", "payload"), SENT)
def test_a_command_is_what_the_gateway_would_send(topic: str, payload: bytes) -> None:
    built = build_command(parse_command(payload))
    if b'"mac"' in payload:
        assert mac.verify(KEY, topic, payload)
        assert payload[-42:].startswith(b',"mac":"')
        built = mac.sign(KEY, topic, built)
    assert built == payload


def test_the_snippet_prints_the_signature_of_the_first_command() -> None:
    (snippet,) = (
        each for each in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) if "openssl" in each
    )
    done = subprocess.run(  # noqa: S603 - our own words
        ["/bin/sh", "-c", snippet], capture_output=True, text=True, check=True, timeout=60
    )
    digest = done.stdout.split()[-1]
    assert digest in snippet
    assert orjson.loads(SENT[0][1])["mac"] == digest[:32]


def test_every_command_is_in_the_table_with_its_time() -> None:
    table = TEXT[TEXT.index("| `command` | `params` |") :].split("\n\n")[0]
    told: dict[str, str] = {}
    for line in table.splitlines()[2:]:
        names, _, times = (cell.strip() for cell in line.split("|")[1:4])
        found = re.findall(r"`(\w+)`", names)
        parts = times.split(", ") if "," in times else [times] * len(found)
        told |= dict(zip(found, parts, strict=True))
    seconds = {
        name: int(text.split()[0]) * (86_400 if "day" in text else 1) for name, text in told.items()
    }
    assert seconds == {name: rule.ttl_s for name, rule in COMMANDS.items()}


def test_the_answers_are_to_commands_of_the_page_but_for_the_last() -> None:
    asked = {parse_command(payload).request_id for _, payload in SENT}
    assert [each["request_id"] in asked for each in ACKS] == [True] * (len(ACKS) - 1) + [False]
    assert {each["status"] for each in ACKS} == {"received", "success", "rejected", "error"}


def test_the_longest_command_has_exactly_as_many_bytes_as_may_be() -> None:
    longest = Command(
        request_id="f" * 16,
        command="set_report_interval",
        params={"riding": 3600, "parked": 86_400},
        n=10**13 - 1,
        boot=2**32 - 1,
        exp=10**11 - 1,
    )
    assert len(mac.sign(KEY, "t", build_command(longest))) == PAYLOAD_MAX

"""What the broker keeps: messages while the gateway is away, sessions through 100,000 logins."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.accounts import (
    fixed_accounts_file,
    read_logins,
    secret_hash,
    write_fixed_accounts,
    write_passwords,
)
from gateway.local.mosquitto_package import Mosquitto
from tests.broker_place import BrokerPlace

FLEET = 100_000
OLD = {"SC-0001": secret_hash("known to the tests")}
NEW = {"SC-0002": secret_hash("other"), **OLD}

# Ends itself with SIGKILL before line N of our own modules; tells how it went with each N.
KILLED_AT_EACH_LINE = """
import os, signal, sys
from pathlib import Path
from broker.accounts import read_logins, write_passwords

path, old, new = Path(sys.argv[1]), eval(sys.argv[2]), eval(sys.argv[3])
ours = ("broker/accounts.py", "broker/files.py")

def die_at(number):
    def count(frame, event, argument):
        nonlocal number
        if not frame.f_code.co_filename.endswith(ours):
            return None
        if event == "line":
            number -= 1
            if number == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return count
    sys.settrace(count)

killed = 0
while True:
    child = os.fork()
    if child == 0:
        die_at(killed + 1)
        write_passwords(path, new)
        os._exit(0)
    _, ended = os.waitpid(child, 0)
    assert read_logins(path) in (old, new), f"killed at line {killed}"
    if ended == 0:
        break
    assert os.WTERMSIG(ended) == signal.SIGKILL
    killed += 1
    write_passwords(path, old)
assert read_logins(path) == new
print(killed)
"""


@pytest.fixture
def place(tmp_path: Path, mosquitto_program: Mosquitto | None) -> Iterator[BrokerPlace]:
    """A broker that lets two scooters in."""
    place = BrokerPlace(tmp_path / "broker", mosquitto_program)
    for name in ("SC-0001", "SC-0002"):
        place.scooter(name)
    write_passwords(place.passwords, place.logins)
    with place:
        yield place


async def test_what_is_sent_while_the_gateway_is_away_arrives_after_a_restart_on_new_ports(
    place: BrokerPlace,
) -> None:
    sent: list[bytes] = []

    async def report(count: int) -> None:
        for name in ("SC-0001", "SC-0002"):
            async with place.client(place.scooter(name)) as scooter:
                for number in range(count):
                    payload = f"{name} {len(sent)} {number}".encode()
                    await scooter.publish(f"scooters/{name}/events", payload, qos=1)
                    sent.append(payload)

    async with place.kept(place.fixed("gateway"), client_id="gateway/events") as gateway:
        await gateway.subscribe("scooters/+/events", qos=1)
    await report(40)
    for _ in range(2):
        place.server.stop()
        place.move()
        place.server.start()
        await report(40)

    async with place.kept(place.fixed("gateway"), client_id="gateway/events") as gateway:
        arrived = [bytes((await anext(gateway.messages)).payload) for _ in sent]
    assert arrived == sent


async def test_a_reload_leaves_alone_who_stays_and_what_waits_for_them(place: BrokerPlace) -> None:
    async with place.kept(place.fixed("gateway"), client_id="gateway/events") as gateway:
        await gateway.subscribe("scooters/+/events", qos=1)
    async with place.client(place.scooter("SC-0001")) as scooter:
        await scooter.publish("scooters/SC-0001/events", b"before", qos=1)
        await place.admission().admit({"SC-0001": place.logins["SC-0001"]})
        await scooter.publish("scooters/SC-0001/events", b"after", qos=1)

    async with place.kept(place.fixed("gateway"), client_id="gateway/events") as gateway:
        arrived = [bytes((await anext(gateway.messages)).payload) for _ in range(2)]
    assert arrived == [b"before", b"after"]


async def test_a_hundred_thousand_logins_are_loaded_and_live_sessions_stay_up(
    place: BrokerPlace,
) -> None:
    known = secret_hash("nobody knows")
    fleet = {f"SC-{number:06}": known for number in range(FLEET)} | place.logins
    async with (
        place.client(place.scooter("SC-0001")) as one,
        place.client(place.scooter("SC-0002")) as two,
        place.client(place.fixed("gateway")) as gateway,
    ):
        await gateway.subscribe("scooters/+/events", qos=1)
        admitted = await place.admission().admit(fleet)
        for name, scooter in (("SC-0001", one), ("SC-0002", two)):
            await scooter.publish(f"scooters/{name}/events", name.encode(), qos=1)
        arrived = [bytes((await anext(gateway.messages)).payload) for _ in range(2)]

    assert admitted.logins == FLEET + 2
    assert arrived == [b"SC-0001", b"SC-0002"]
    assert len(read_logins(place.passwords)) == FLEET + 2


def test_a_password_file_is_whole_wherever_its_writer_is_killed(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    write_fixed_accounts(fixed_accounts_file(passwords), {"gateway": "g", "admin": "a"})
    write_passwords(passwords, OLD)
    done = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-c", KILLED_AT_EACH_LINE, str(passwords), str(OLD), str(NEW)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stderr == ""
    assert int(done.stdout) > 50  # lines, each of which was the last of a process
    assert {file.name for file in tmp_path.iterdir()} == {"passwords", "passwords.fixed"}

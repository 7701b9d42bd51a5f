"""Each way to have Mosquitto reload: what it reaches, what it spares, what it tells."""

import asyncio
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker.admission import BrokerAway, NotAdmitted
from broker.certificates import ensure_authority
from broker.mosquitto import PidFileReload, ServiceReload, WatchedReload
from gateway.local.mosquitto_package import Mosquitto
from tests.broker_place import WATCH, BrokerPlace, stand_in_for_systemd
from tests.eventually import eventually

SHELLS = ("sh", "dash", "bash", "busybox")
TOLD = """
import signal, sys, time
signal.signal(signal.SIGHUP, lambda *_: print("HUP", flush=True))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
print("up", flush=True)
while True:
    time.sleep(0.1)  # a pause would sleep over a signal that came just before it
"""


@pytest.fixture
def place(tmp_path: Path, mosquitto_program: Mosquitto | None) -> Iterator[BrokerPlace]:
    with BrokerPlace(tmp_path / "broker", mosquitto_program) as place:
        yield place


@contextmanager
def process_named(name: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that a SIGHUP would end."""
    program = folder / name
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen([program, "60"]) as process:  # noqa: S603 - our own copy
        while Path(f"/proc/{process.pid}/comm").read_text() != f"{name}\n":
            pass  # it is about to have its name
        try:
            yield process
        finally:
            process.kill()


async def test_a_broker_that_was_killed_leaves_a_pid_file_that_hurts_nobody(
    place: BrokerPlace,
) -> None:
    place.server.kill()
    assert place.pid_file.exists()

    with pytest.raises(BrokerAway, match="No Mosquitto runs"):
        await place.admission().admit({})


async def test_another_process_that_has_the_brokers_number_gets_no_signal(
    place: BrokerPlace, tmp_path: Path
) -> None:
    place.server.stop()
    with process_named("sleep", tmp_path) as bystander:
        place.pid_file.write_text(f"{bystander.pid}\n")
        with pytest.raises(NotAdmitted, match=f"process {bystander.pid} is sleep, not mosquitto"):
            await place.admission().admit({})

        assert bystander.poll() is None


async def test_a_broker_that_is_still_starting_is_not_ended_by_the_signal(
    mosquitto_program: Mosquitto | None, tmp_path: Path
) -> None:
    place = BrokerPlace(tmp_path / "broker", mosquitto_program)

    async def has_a_pid_file() -> bool:
        return place.pid_file.exists() and place.pid_file.read_text() != ""

    for _ in range(5):
        place.server.launch()
        try:
            await eventually(has_a_pid_file, what="the pid file")
            await PidFileReload(place.pid_file).request()
            place.server.wait_ready()
            await place.admission().admit({})
        finally:
            place.server.kill()
            place.pid_file.unlink()


async def test_a_broker_that_never_finishes_starting_is_told(
    place: BrokerPlace, tmp_path: Path
) -> None:
    place.server.stop()
    with process_named("mosquitto", tmp_path) as starting:
        place.pid_file.write_text(f"{starting.pid}\n")
        with pytest.raises(NotAdmitted, match="it has not finished starting"):
            await PidFileReload(place.pid_file, start_within_s=0.2).request()

        assert starting.poll() is None


@pytest.mark.parametrize("content", ["", "mosquitto", "0", "-1", "99999999999999999999"])
async def test_a_pid_file_with_something_else_is_told(tmp_path: Path, content: str) -> None:
    file = tmp_path / "mosquitto.pid"
    file.write_text(content)

    with pytest.raises(NotAdmitted, match="was not asked to reload") as caught:
        await PidFileReload(file).request()
    assert caught.value.written


async def test_a_service_that_does_not_reload_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in_for_systemd(tmp_path / "bin", monkeypatch)

    with pytest.raises(NotAdmitted, match="Unit not found: reload -- other"):
        await ServiceReload("other").request()

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotAdmitted, match="systemctl: No such file or directory"):
        await ServiceReload("mosquitto").request()


async def test_the_watcher_is_asked_by_a_file_for_whoever_reads_the_password_file(
    tmp_path: Path,
) -> None:
    passwords, asking = tmp_path / "passwords", tmp_path / "passwords.reload"
    passwords.touch(mode=0o600)
    await WatchedReload(passwords).request()
    first = asking.read_text()
    assert asking.stat().st_mode & 0o777 == 0o600

    passwords.chmod(0o640)
    await WatchedReload(passwords).request()
    assert asking.stat().st_mode & 0o777 == 0o640
    assert asking.read_text() != first


async def test_a_watcher_that_cannot_be_asked_is_told(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    passwords.touch()
    (tmp_path / "passwords.reload").mkdir()

    with pytest.raises(NotAdmitted, match=r"passwords\.reload cannot be written") as caught:
        await WatchedReload(passwords).request()
    assert caught.value.written


async def test_a_renewed_certificate_is_loaded_by_the_watcher(
    tmp_path: Path, mosquitto_program: Mosquitto | None
) -> None:
    async def serial(place: BrokerPlace) -> int:
        _, writer = await asyncio.open_connection(
            "127.0.0.1", place.ports.scooters, ssl=place.trusting()
        )
        certificate = writer.get_extra_info("ssl_object").getpeercert()
        writer.close()
        return int(certificate["serialNumber"], 16)

    with BrokerPlace(tmp_path / "broker", mosquitto_program, watched=True) as place:
        before = await serial(place)
        ensure_authority(place.folder / "authority", names=["new.example"])

        async def is_another() -> bool:
            return await serial(place) != before

        await eventually(is_another, what="the broker to show its new certificate")


@pytest.mark.parametrize("shell", [shell for shell in SHELLS if shutil.which(shell)])
def test_the_watcher_forwards_what_it_is_sent_in_every_shell(shell: str, tmp_path: Path) -> None:
    watched = tmp_path / "passwords"
    watched.write_text("one\n")
    prefix = [shell, "sh"] if shell == "busybox" else [shell]
    # A shell cannot trap what was ignored when it started, as under nohup.
    prefix = ["env", "--default-signal=HUP", *prefix]
    command = [*prefix, str(WATCH), str(watched), "--", sys.executable, "-c", TOLD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout
        try:
            assert process.stdout.readline() == "up\n"
            process.send_signal(signal.SIGHUP)
            assert process.stdout.readline() == "HUP\n"
            (tmp_path / "new").write_text("two\n")
            (tmp_path / "new").rename(watched)
            assert process.stdout.readline() == "HUP\n"
            for request in ("again\n", "and again\n"):
                (tmp_path / "new").write_text(request)
                (tmp_path / "new").rename(tmp_path / "passwords.reload")
                assert process.stdout.readline() == "HUP\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 3
        finally:
            process.terminate()

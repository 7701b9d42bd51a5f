"""Letting in and keeping out on a real Mosquitto: rendered, reloaded, proved, taken over."""

import asyncio
import base64
import hashlib
import os
import pwd
import stat
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic

import pytest
from aiomqtt import Client, MqttError

from broker.accounts import new_secret, read_logins
from broker.administration import Listener, Login, connected
from broker.admission import BrokerAway, NotAdmitted
from broker.mosquitto import PidFileReload, Reload, ServiceReload, WatchedReload
from gateway.local.mosquitto_package import Mosquitto
from tests.broker_place import Account, BrokerPlace, stand_in_for_systemd
from tests.eventually import eventually


@pytest.fixture
def place(tmp_path: Path, mosquitto_program: Mosquitto | None) -> Iterator[BrokerPlace]:
    with BrokerPlace(tmp_path / "broker", mosquitto_program) as place:
        yield place


@pytest.fixture
def dropped_place(mosquitto_program: Mosquitto | None) -> Iterator[BrokerPlace]:
    """A broker that was started as root and became `mosquitto`, as on a real machine."""
    if os.geteuid() != 0 or not any(each.pw_name == "mosquitto" for each in pwd.getpwall()):
        pytest.skip("needs root, and the user mosquitto that the system's package makes")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        with BrokerPlace(Path(name) / "b", mosquitto_program, owner="mosquitto") as place:
            process = Path("/proc") / place.pid_file.read_text().strip()
            assert process.owner() == "mosquitto"
            yield place


@pytest.fixture(params=["pid", "service", "watched"])
def way(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    mosquitto_program: Mosquitto | None,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[BrokerPlace, Reload]]:
    """A broker, and each way to have it reload."""
    kind = request.param
    with BrokerPlace(tmp_path / "broker", mosquitto_program, watched=kind == "watched") as place:
        if kind == "pid":
            yield place, PidFileReload(place.pid_file)
        elif kind == "watched":
            yield place, WatchedReload(place.passwords)
        else:
            stand_in_for_systemd(tmp_path / "bin", monkeypatch)
            monkeypatch.setenv("PID_FILE", str(place.pid_file))
            yield place, ServiceReload("mosquitto")


def costly_hash(secret: str) -> str:
    """As valid as ours, but one that a reload takes long for: 10 ms for each connected client."""
    salt = os.urandom(12)
    digest = hashlib.pbkdf2_hmac("sha512", secret.encode(), salt, 9999)
    return "$7$9999$" + "$".join(base64.b64encode(part).decode() for part in (salt, digest))


async def time_of_end(client: Client) -> float:
    with pytest.raises(MqttError, match="Disconnected"):
        await anext(client.messages)
    return monotonic()


def wrong(account: Account) -> Account:
    return Account(account.name, new_secret(), account.port)


async def test_exactly_who_was_named_gets_in_by_every_way_to_reload(
    way: tuple[BrokerPlace, Reload],
) -> None:
    place, reload = way
    scooter, operator = place.scooter("SC-0001"), place.operator("alice.laptop")
    broker = place.admission(reload)

    assert not await place.lets_in(scooter)
    admitted = await broker.admit(place.logins)
    assert (admitted.logins, admitted.reload, admitted.file) == (2, str(reload), place.passwords)
    for account in (scooter, operator, place.fixed("gateway"), place.fixed("admin")):
        assert await place.lets_in(account)
        assert not await place.lets_in(wrong(account))

    await broker.admit({"alice.laptop": place.logins["alice.laptop"]})
    assert not await place.lets_in(scooter)
    assert await place.lets_in(operator)
    assert read_logins(place.passwords).keys() == {"alice.laptop"}


async def test_a_revoked_scooter_is_out_within_two_seconds(
    way: tuple[BrokerPlace, Reload],
) -> None:
    place, reload = way
    scooter, other = place.scooter("SC-0001"), place.scooter("SC-0002")
    broker = place.admission(reload)
    await broker.admit(place.logins)
    async with place.client(other) as stays, place.client(scooter) as live:
        started = monotonic()
        gone = asyncio.create_task(time_of_end(live))
        await broker.admit({"SC-0002": place.logins["SC-0002"]})
        ended = await broker.end_session("SC-0001")

        assert await gone - started < 2
        assert not ended.returned
        assert ended.held_s >= 0.45
        assert not await place.lets_in(scooter)
        await stays.subscribe("still/there")


async def test_a_replaced_secret_ends_the_session_that_used_the_old_one(
    place: BrokerPlace,
) -> None:
    old = place.scooter("SC-0001")
    broker = place.admission()
    await broker.admit(place.logins)
    del place.logins["SC-0001"], place.secrets["SC-0001"]
    new = place.scooter("SC-0001")
    async with place.client(old) as live:
        await broker.admit(place.logins)
        with pytest.raises(MqttError, match="Disconnected"):
            await anext(live.messages)

    assert await place.lets_in(new)
    assert not await place.lets_in(old)


async def test_a_session_that_is_ended_is_forgotten(place: BrokerPlace) -> None:
    scooter = place.scooter("SC-0001")
    broker = place.admission()
    await broker.admit(place.logins)
    async with place.kept(scooter, client_id="SC-0001") as away:
        await away.subscribe("scooters/SC-0001/commands", qos=1)
    async with place.client(place.fixed("gateway")) as gateway:
        await gateway.publish("scooters/SC-0001/commands", b"stale", qos=1)
    await broker.end_session("SC-0001")

    async with place.kept(scooter, client_id="SC-0001") as back:
        await back.subscribe("until/now")
        assert len(back.messages) == 0


async def test_a_client_that_takes_its_session_back_is_seen(place: BrokerPlace) -> None:
    scooter = place.scooter("SC-0001")
    broker = place.admission()
    await broker.admit(place.logins)
    before = place.log().count("as SC-0001")

    async def taken_over() -> bool:
        return place.log().count("as SC-0001") > before

    ending = asyncio.create_task(broker.end_session("SC-0001"))
    await eventually(taken_over, what="the administration to have the session")
    assert await place.lets_in(scooter)

    assert (await ending).returned


async def test_a_broker_that_stops_while_a_session_is_held_is_told(place: BrokerPlace) -> None:
    async def taken_over() -> bool:
        return "as SC-0001" in place.log()

    ending = asyncio.create_task(place.admission().end_session("SC-0001"))
    await eventually(taken_over, what="the administration to have the session")
    place.server.kill()

    with pytest.raises(BrokerAway, match="does not answer"):
        await ending


async def test_the_administration_with_a_wrong_secret_is_told(place: BrokerPlace) -> None:
    place.secrets["admin"] = "guessed"

    with pytest.raises(BrokerAway, match="refuses the account `admin`") as caught:
        await place.admission().end_session("SC-0001")
    assert "guessed" not in str(caught.value)


async def test_whoever_is_admitted_while_the_broker_is_away_gets_in_when_it_is_back(
    place: BrokerPlace,
) -> None:
    scooter = place.scooter("SC-0001")
    place.server.stop()

    with pytest.raises(BrokerAway, match="No Mosquitto runs with the pid file"):
        await place.admission().admit(place.logins)
    with pytest.raises(BrokerAway, match="does not answer"):
        await place.admission(WatchedReload(place.passwords)).admit(place.logins)

    place.server.start()
    assert await place.lets_in(scooter)


async def test_a_broker_that_never_loads_the_file_is_told(place: BrokerPlace) -> None:
    unwatched = place.admission(WatchedReload(place.passwords), proof_within_s=0.5)

    with pytest.raises(NotAdmitted, match=r"did not load .* after it was asked to") as caught:
        await unwatched.admit({})
    assert caught.value.written


async def test_a_broker_that_lets_anybody_in_is_told(place: BrokerPlace) -> None:
    config = place.folder / "mosquitto.conf"
    text = config.read_text()
    opened = text.replace("allow_anonymous false", "allow_anonymous true")
    config.write_text(opened.replace(f"password_file {place.passwords}\n", ""))
    place.server.stop()
    place.server.start()

    with pytest.raises(NotAdmitted, match="lets in whoever comes"):
        await place.admission().admit({})


async def test_a_reload_that_was_lost_is_asked_for_again(place: BrokerPlace) -> None:
    class LosesTheFirst:
        asked = 0

        async def request(self) -> None:
            self.asked += 1
            if self.asked > 1:
                await PidFileReload(place.pid_file).request()

    reload = LosesTheFirst()
    await place.admission(reload).admit({})

    assert reload.asked == 2


async def test_whoever_is_removed_while_the_broker_reloads_for_another_command_is_out(
    way: tuple[BrokerPlace, Reload],
) -> None:
    place, reload = way
    removed = place.scooter("SC-0000")
    logins = dict.fromkeys([f"SC-{n:04}" for n in range(100)], costly_hash(removed.secret))
    broker = place.admission(reload, proof_within_s=15)
    await broker.admit(logins)
    async with AsyncExitStack() as stack:
        listener = Listener(host="127.0.0.1", port=place.ports.internal, tls=None)
        for name in logins:
            login = Login(name=name, secret=removed.secret, client_id=name)
            await stack.enter_async_context(connected(listener, login, within_s=10))
        before = place.log().count("Reloading config")

        async def reloads() -> bool:
            return place.log().count("Reloading config") > before

        interrupted = asyncio.create_task(broker.admit(logins))
        await eventually(reloads, what="the broker to begin its reload")
        interrupted.cancel()
        await asyncio.wait([interrupted])
        await broker.admit({name: each for name, each in logins.items() if name != removed.name})

        assert not await place.lets_in(removed)


async def test_who_cannot_be_written_keeps_nobody_from_their_session(place: BrokerPlace) -> None:
    scooter = place.scooter("SC-0001")
    broker = place.admission()
    await broker.admit(place.logins)
    async with place.client(scooter) as live:
        with pytest.raises(NotAdmitted) as caught:
            await broker.admit({"SC-0002": "no hash"})
        assert not caught.value.written
        await live.subscribe("still/there")
    assert await place.lets_in(scooter)


async def test_the_files_stay_readable_for_the_broker_and_private(place: BrokerPlace) -> None:
    broker = place.admission()
    for _ in range(3):
        await broker.admit(place.logins)

    for file in place.folder.glob("passwords*"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_a_broker_that_gave_up_roots_rights_reads_what_root_replaced(
    dropped_place: BrokerPlace,
) -> None:
    place = dropped_place
    scooter = place.scooter("SC-0001")
    for _ in range(2):
        await place.admission().admit(place.logins)
    assert await place.lets_in(scooter)
    assert place.passwords.owner() == "mosquitto"

    os.chown(place.passwords, 0, 0)
    with pytest.raises(NotAdmitted, match="whether it may read it"):
        await place.admission(proof_within_s=0.5).admit(place.logins)
    assert not await place.lets_in(scooter)


async def test_no_secret_is_in_the_brokers_log(place: BrokerPlace) -> None:
    scooter = place.scooter("SC-0001")
    broker = place.admission()
    await broker.admit(place.logins)
    await place.lets_in(scooter)
    await place.lets_in(wrong(scooter))
    await broker.end_session("SC-0001")

    assert not [secret for secret in place.secrets.values() if secret in place.log()]
    assert "$7$" not in place.log()


async def test_an_admission_that_is_cancelled_ends_with_a_whole_file(place: BrokerPlace) -> None:
    place.scooter("SC-0001")
    admitting = asyncio.create_task(place.admission().admit(place.logins))
    await asyncio.sleep(0)
    admitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await admitting

    assert read_logins(place.passwords) in ({}, place.logins)
    await place.admission().admit(place.logins)

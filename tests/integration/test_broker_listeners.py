"""The shipped listeners: who is refused and counted there, and what TLS they speak."""

import asyncio
import ssl
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import mqtt5
import pytest
from aiomqtt import Client, MqttError, ProtocolVersion

from broker.accounts import write_passwords
from broker.refusals import REFUSALS, is_refusal
from gateway.local.mosquitto_package import Mosquitto
from tests.broker_place import Account, BrokerPlace
from tests.eventually import eventually

LISTENERS = ["internal", "operators", "scooters"]
PROTOCOLS = [ProtocolVersion.V31, ProtocolVersion.V311, ProtocolVersion.V5]


@pytest.fixture(scope="module")
def place(
    mosquitto_program: Mosquitto | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrokerPlace]:
    place = BrokerPlace(tmp_path_factory.mktemp("listeners") / "broker", mosquitto_program)
    for account in (place.scooter("SC-0001"), place.operator("alice.laptop")):
        assert account.name in place.logins
    write_passwords(place.passwords, place.logins)
    with place:
        yield place


def account(place: BrokerPlace, listener: str) -> Account:
    if listener == "internal":
        return place.fixed("gateway")
    return place.scooter("SC-0001") if listener == "scooters" else place.operator("alice.laptop")


async def is_refused(client: Client) -> bool:
    try:
        async with client:
            return False
    except MqttError:
        return True


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("listener", LISTENERS)
async def test_strangers_are_refused_on_every_listener_and_counted(
    place: BrokerPlace, listener: str, protocol: ProtocolVersion
) -> None:
    right = account(place, listener)
    strangers = [
        replace(right, secret="guessed"),  # noqa: S106 - on purpose
        replace(right, secret=""),
        replace(right, name="nobody"),
        replace(right, name=right.name.swapcase()),
        replace(right, name=""),
        replace(right, name="canary", secret=""),
    ]
    tls = None if listener == "internal" else place.trusting()
    nobody = Client("127.0.0.1", right.port, identifier="me", protocol=protocol, tls_context=tls)
    counted = 0
    async with place.client(place.fixed("gateway")) as gateway:
        await gateway.subscribe(REFUSALS)
        for stranger in strangers:
            assert await is_refused(place.client(stranger, protocol=protocol)), stranger
        assert await is_refused(nobody)
        assert not await is_refused(place.client(right, protocol=protocol))

        async def all_are_counted() -> bool:
            nonlocal counted
            for _ in range(len(gateway.messages)):
                line = bytes((await anext(gateway.messages)).payload)
                counted += is_refusal(line)
            return counted >= len(strangers) + 1

        await eventually(all_are_counted, what="the broker to tell each refusal")
    assert counted == len(strangers) + 1


@pytest.mark.parametrize("listener", ["operators", "scooters"])
async def test_nobody_gets_in_without_tls(place: BrokerPlace, listener: str) -> None:
    its = account(place, listener)
    reader, writer = await asyncio.open_connection("127.0.0.1", its.port)
    packet = mqtt5.ConnectPacket("me", username=its.name, password=its.secret.encode())
    writer.write(packet.write())

    answer = b""
    with suppress(ConnectionError):
        answer = await reader.read(1)
    writer.close()
    assert answer != b"\x20"  # what a CONNACK starts with


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("listener", ["operators", "scooters"])
async def test_tls_1_2_and_later_are_spoken(
    place: BrokerPlace, listener: str, version: str
) -> None:
    context = place.trusting()
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    its = account(place, listener)

    assert not await is_refused(place.client(its, tls_context=context))


@pytest.mark.parametrize("listener", ["operators", "scooters"])
async def test_older_tls_is_refused(place: BrokerPlace, listener: str) -> None:
    context = place.trusting()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1

    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("127.0.0.1", account(place, listener).port, ssl=context)


async def test_every_account_may_use_every_listener_but_names_itself_on_those_with_tls(
    place: BrokerPlace,
) -> None:
    # The secret counts, not the port: what a login may do is the same everywhere.
    scooter = place.scooter("SC-0001")
    for port in (place.ports.operators, place.ports.internal):
        assert await place.lets_in(replace(scooter, port=port))

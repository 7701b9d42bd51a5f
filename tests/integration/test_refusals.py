"""The gateway counts the logins that its broker refused."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
from aiomqtt import Client, MqttError

from broker.accounts import write_passwords
from gateway.links.broker import BrokerAddress
from gateway.links.downlink import Downlink
from gateway.local.mosquitto_package import Mosquitto
from gateway.metrics import Metrics
from tests.broker_place import Account, BrokerPlace
from tests.eventually import eventually
from tests.mqtt_session import always

LISTENERS = ["internal", "operators", "scooters"]


@pytest.fixture(scope="module")
def place(
    mosquitto_program: Mosquitto | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrokerPlace]:
    place = BrokerPlace(tmp_path_factory.mktemp("refusals") / "broker", mosquitto_program)
    for account in (place.scooter("SC-0001"), place.operator("alice.laptop")):
        assert account.name in place.logins
    write_passwords(place.passwords, place.logins)
    with place:
        yield place


@dataclass(frozen=True)
class Counting:
    """A downlink that is connected, and what it counted."""

    metrics: Metrics

    def refused(self) -> int:
        return self.metrics.value("gateway_broker_refused_logins_total")

    async def until(self, count: int) -> None:
        async def probe() -> bool:
            return self.refused() >= count

        await eventually(probe, within_s=20, what=f"{count} refused logins counted")


@asynccontextmanager
async def counting(place: BrokerPlace, instance: str) -> AsyncIterator[Counting]:
    gateway = place.fixed("gateway")
    broker = BrokerAddress(
        host="127.0.0.1", port=gateway.port, username=gateway.name, password=gateway.secret
    )
    metrics = Metrics()
    downlink = Downlink(instance, broker, metrics, may_connect=always)
    task = asyncio.create_task(downlink.run())

    async def connected() -> bool:
        return downlink.connected

    try:
        await eventually(connected, what="the downlink to connect")
        yield Counting(metrics)
    finally:
        task.cancel()
        await asyncio.wait({task})


def account(place: BrokerPlace, listener: str) -> Account:
    if listener == "internal":
        return place.fixed("gateway")
    return place.scooter("SC-0001") if listener == "scooters" else place.operator("alice.laptop")


async def is_let_in(client: Client) -> bool:
    try:
        async with client:
            return True
    except MqttError:
        return False


@pytest.mark.parametrize("stranger", ["anonymous", "wrong secret", "unknown name"])
@pytest.mark.parametrize("listener", LISTENERS)
async def test_each_refused_login_is_counted_once(
    place: BrokerPlace, listener: str, stranger: str, fresh_id: str
) -> None:
    right = account(place, listener)
    tls = None if listener == "internal" else place.trusting()

    def strange() -> Client:
        if stranger == "wrong secret":
            return place.client(replace(right, secret="guessed"))  # noqa: S106 - on purpose
        if stranger == "unknown name":
            return place.client(replace(right, name="SC-9999"))
        return Client("127.0.0.1", right.port, identifier="me", tls_context=tls)

    async with counting(place, fresh_id) as count:
        assert count.refused() == 0
        for number in range(1, 4):
            assert not await is_let_in(strange())
            await count.until(number)
            assert await is_let_in(place.client(right))  # which is not counted

        assert not await is_let_in(strange())
        await count.until(4)
        assert count.refused() == 4


async def test_every_instance_counts_and_none_counts_again_what_was_before_it(
    place: BrokerPlace, fresh_id: str
) -> None:
    wrong = replace(place.scooter("SC-0001"), secret="guessed")  # noqa: S106 - on purpose
    async with counting(place, f"{fresh_id}-1") as first:
        assert not await is_let_in(place.client(wrong))
        await first.until(1)
        async with counting(place, f"{fresh_id}-2") as second:
            assert not await is_let_in(place.client(wrong))
            await first.until(2)
            await second.until(1)

            assert (first.refused(), second.refused()) == (2, 1)


async def test_nobody_else_can_raise_the_count(place: BrokerPlace, fresh_id: str) -> None:
    scooter = place.scooter("SC-0001")
    wrong = replace(scooter, secret="guessed")  # noqa: S106 - on purpose
    async with counting(place, fresh_id) as count, place.client(scooter) as client:
        line = b"1: Client x disconnected, not authorised."
        await client.publish("$SYS/broker/log/N", line, qos=1)
        assert not await is_let_in(place.client(wrong))
        await count.until(1)

        assert count.refused() == 1

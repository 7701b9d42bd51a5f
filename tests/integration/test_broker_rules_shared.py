"""Shared telemetry on a real broker: nobody but the gateways has a share of it.

Mosquitto lets anybody join a group that they can name, and gives them their share of the messages
although they may not read them.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr

from broker.accounts import write_passwords
from devices.contract import topics
from gateway.links.broker import BrokerAddress, broker_address
from gateway.links.delivery import Outcome
from gateway.links.plans import SessionPlan, session_plans
from gateway.local.mosquitto_package import Mosquitto
from gateway.settings import Settings
from tests.broker_place import Account, BrokerPlace
from tests.mqtt_session import Running, plan, running

TELEMETRY = "scooters/+/telemetry"
EARLIER = f"$share/gateway/{TELEMETRY}"
COUNT = 60
REPORTS = [str(number).encode() for number in range(COUNT)]


@pytest.fixture(scope="module")
def place(
    mosquitto_program: Mosquitto | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrokerPlace]:
    place = BrokerPlace(tmp_path_factory.mktemp("shared") / "broker", mosquitto_program)
    for account in (place.scooter("SC-0001"), place.scooter("SC-0002"), place.operator("bob.desk")):
        assert account.name in place.logins
    write_passwords(place.passwords, place.logins)
    with place:
        yield place


def settings_of(place: BrokerPlace, instance: str) -> Settings:
    gateway = place.fixed("gateway")
    return Settings(
        _env_file=None,
        instance=instance,
        mqtt_port=gateway.port,
        mqtt_username=gateway.name,
        mqtt_password=SecretStr(gateway.secret),
        mqtt_shared=True,
    )


def address(place: BrokerPlace) -> BrokerAddress:
    return broker_address(settings_of(place, "any"))


def shared(place: BrokerPlace, instance: str) -> SessionPlan:
    return session_plans(settings_of(place, instance)).telemetry


def stranger(place: BrokerPlace, who: str) -> Account:
    if who == "admin":
        return place.fixed("admin")
    return place.scooter("SC-0002") if who == "scooter" else place.operator("bob.desk")


@asynccontextmanager
async def two_gateways(place: BrokerPlace, name: str) -> AsyncIterator[list[Running]]:
    async with (
        running(address(place), shared(place, f"{name}-1")) as one,
        running(address(place), shared(place, f"{name}-2")) as two,
    ):
        yield [one, two]


async def report(place: BrokerPlace) -> None:
    async with place.client(place.scooter("SC-0001")) as scooter:
        for each in REPORTS:
            await scooter.publish("scooters/SC-0001/telemetry", each, qos=1)


def heard(gateways: list[Running]) -> Counter[bytes]:
    return sum((Counter(each.payloads) for each in gateways), Counter())


@pytest.fixture
async def nothing_left(place: BrokerPlace, fresh_id: str) -> AsyncIterator[str]:
    """An instance's name whose sessions the broker forgets afterwards."""
    yield fresh_id
    gateway = place.fixed("gateway")
    for name in (fresh_id, f"{fresh_id}-1", f"{fresh_id}-2"):
        async with place.client(gateway, client_id=f"{name}/telemetry", clean_start=True):
            pass


@pytest.mark.parametrize("who", ["scooter", "operator", "admin"])
@pytest.mark.parametrize("group", ["gateway", "gateway-", "gateway-0123456789abcdef", "+"])
async def test_whoever_subscribes_to_a_shared_filter_takes_nothing_away(
    place: BrokerPlace, nothing_left: str, who: str, group: str
) -> None:
    async with (
        two_gateways(place, nothing_left) as gateways,
        place.client(stranger(place, who)) as client,
    ):
        await client.subscribe(f"$share/{group}/{TELEMETRY}", qos=1)
        await report(place)
        await gateways[0].until(
            lambda: heard(gateways).total() >= COUNT, f"{COUNT} reports at the gateways"
        )

        assert heard(gateways) == Counter(REPORTS)
        assert all(each.payloads for each in gateways)


async def test_whoever_knew_the_group_would_take_a_share(
    place: BrokerPlace, nothing_left: str
) -> None:
    # Why its name is a secret; should this fail one day, it need not be one any more.
    known = shared(place, nothing_left).filters[0]
    async with (
        running(address(place), shared(place, nothing_left)) as gateway,
        place.client(place.scooter("SC-0002")) as thief,
    ):
        await thief.subscribe(known, qos=1)
        await report(place)
        await gateway.until(lambda: len(gateway.payloads) >= COUNT // 2, "half of the reports")
        await thief.subscribe("until/now")

        assert len(thief.messages) == 0
        assert len({*gateway.payloads}) < COUNT


async def test_a_session_of_an_earlier_release_leaves_the_group_that_everybody_knows(
    place: BrokerPlace, nothing_left: str
) -> None:
    before = plan(nothing_left, filters=(EARLIER,))
    async with running(address(place), before) as earlier:
        assert earlier.session.connected
    async with running(address(place), shared(place, nothing_left)) as now:
        await report(place)
        await now.until(lambda: len(now.payloads) >= COUNT, f"{COUNT} reports")
        await until_now(place, nothing_left, now)

        assert Counter(now.payloads) == Counter(REPORTS)


async def test_a_session_from_before_the_password_was_rotated_hears_twice_until_it_is_new(
    place: BrokerPlace, nothing_left: str
) -> None:
    # Only the old password names the old group. The README says what to do.
    rotated = settings_of(place, nothing_left).model_copy(update={"mqtt_password": SecretStr("x")})
    before = session_plans(rotated).telemetry
    async with running(address(place), before) as earlier:
        assert earlier.session.connected
    async with running(address(place), shared(place, nothing_left)) as now:
        await report(place)
        await now.until(lambda: len(now.payloads) >= 2 * COUNT, f"{COUNT} reports, twice")
        assert Counter(now.payloads) == Counter(REPORTS * 2)

    place.server.stop()
    place.server.start()
    async with running(address(place), shared(place, nothing_left)) as now:
        await report(place)
        await now.until(lambda: len(now.payloads) >= COUNT, f"{COUNT} reports")
        await until_now(place, nothing_left, now)
        assert Counter(now.payloads) == Counter(REPORTS)


async def until_now(place: BrokerPlace, instance: str, run: Running) -> None:
    """All that the broker had for this session has come and was taken: this stood behind it."""
    before = run.outcome(Outcome.ECHO)
    async with place.client(place.fixed("gateway")) as gateway:
        await gateway.publish(topics.echo(instance), b"", qos=1)
    await run.until(lambda: run.outcome(Outcome.ECHO) > before, "its own echo")
    await run.until(lambda: not run.count("deliveries_in_flight"), "what came to be taken")

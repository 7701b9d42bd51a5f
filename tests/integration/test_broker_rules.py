"""The shipped access list on a real broker: everybody tries everything, and deliveries count.

A subscription is always granted, and MQTT 3.1.1 acknowledges what was denied, so `observer`, who
may read all, tells what came through, and `writer`, who may write all, what somebody else hears.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import mqtt5
import pytest
from aiomqtt import Client, MqttError, ProtocolVersion

from broker.accounts import fixed_accounts_file, write_fixed_accounts, write_passwords
from gateway.local.mosquitto_package import Mosquitto
from tests.broker_place import Account, BrokerPlace

UPLINKS = ["telemetry", "telemetry_batch", "events", "status", "acks"]
DOWNLINKS = ["commands", "receipts"]
SCOOTERS = ["SC-0001", "SC-0002"]
OPERATORS = ["alice.laptop", "bob.desk"]
LOGINS = [*SCOOTERS, *OPERATORS]
IDENTITIES = [*LOGINS, "gateway", "admin", "canary"]
BY_PATTERN = [*LOGINS, "admin"]
UNHEARD = ["gateway", "admin"]
LEVELS = [*IDENTITIES, "SC-0003", "a/b"]
TOPICS = [
    *(f"scooters/{who}/{leaf}" for who in LEVELS for leaf in [*UPLINKS, *DOWNLINKS, "other"]),
    *(f"operators/{who}/{leaf}" for who in LEVELS for leaf in ["commands", "replies", "other"]),
    *(f"gateway/g1/{leaf}" for leaf in ["status", "echo", "other"]),
    *("scooters", "scooters/SC-0001", "operators", "gateway", "gateway/status", "other"),
    *("scooters/SC-0001/commands/x", "/scooters/SC-0001/commands", "$other/x"),
]
FILTERS = [
    *("#", "+/#", "+/+/+", "+/+/commands", "scooters/#", "operators/#", "gateway/#"),
    *("$SYS/#", "$SYS/broker/version", "$other/#", "$share/mine/#", "$share/other/+/+/+"),
    *("$share/gateway/scooters/+/telemetry", *TOPICS),
]
ALL = "\nuser observer\ntopic read #\ntopic read $other/#\nuser writer\ntopic write #\n"


def may_write(who: str, topic: str) -> bool:
    """DESIGN 7, written once more."""
    match topic.split("/"):
        case ["scooters", name, leaf]:
            if who == "gateway":
                return name not in UNHEARD and leaf in [*DOWNLINKS, "status"]
            return name == who and name in BY_PATTERN and leaf in UPLINKS
        case ["operators", name, leaf]:
            if who == "gateway":
                return name not in UNHEARD and leaf == "replies"
            return name == who and name in BY_PATTERN and leaf == "commands"
        case ["gateway", *_]:
            return who == "gateway"
    return False


def may_read(who: str, topic: str) -> bool:
    match topic.split("/"):
        case ["scooters", name, leaf]:
            if who == "gateway":
                return name not in UNHEARD and leaf in UPLINKS
            return name == who and name in BY_PATTERN and leaf in DOWNLINKS
        case ["operators", name, leaf]:
            if who == "gateway":
                return name not in UNHEARD and leaf == "commands"
            return name == who and name in BY_PATTERN and leaf == "replies"
        case ["gateway", *levels]:
            return who == "gateway" or (who in BY_PATTERN and levels[1:] == ["status"])
    return False


@pytest.fixture(scope="module")
def place(
    mosquitto_program: Mosquitto | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrokerPlace]:
    """A broker with two scooters, two operators, and two accounts that only this test knows."""
    place = BrokerPlace(tmp_path_factory.mktemp("rules") / "broker", mosquitto_program, acl=ALL)
    for name in ("observer", "writer"):
        place.secrets[name] = "only for this test"
    write_fixed_accounts(fixed_accounts_file(place.passwords), place.secrets)
    for name in SCOOTERS:
        place.scooter(name)
    for name in OPERATORS:
        place.operator(name)
    place.secrets["canary"] = write_passwords(place.passwords, place.logins).canary
    with place:
        yield place


def account(place: BrokerPlace, who: str) -> Account:
    if who in SCOOTERS:
        return place.scooter(who)
    return place.operator(who) if who in OPERATORS else place.fixed(who)


async def heard(client: Client) -> list[tuple[str, bytes, bool]]:
    """What arrived until now: the broker answers after it has sent what came before."""
    await client.subscribe("until/now")
    waiting = [await anext(client.messages) for _ in range(len(client.messages))]
    return [(str(each.topic), bytes(each.payload), each.retain) for each in waiting]


@asynccontextmanager
async def listening(place: BrokerPlace, who: str, *filters: str) -> AsyncIterator[Client]:
    async with place.client(account(place, who)) as client:
        for each in filters:
            await client.subscribe(each, qos=1)
        yield client


@asynccontextmanager
async def nothing_retained(place: BrokerPlace) -> AsyncIterator[None]:
    try:
        yield
    finally:
        async with place.client(place.fixed("writer")) as writer:
            for topic in TOPICS:
                await writer.publish(topic, b"", qos=1, retain=True)


@pytest.mark.parametrize("retain", [False, True], ids=["live", "retained"])
@pytest.mark.parametrize("protocol", [ProtocolVersion.V311, ProtocolVersion.V5])
@pytest.mark.parametrize("who", IDENTITIES)
async def test_what_somebody_publishes_comes_through_only_where_they_may(
    place: BrokerPlace, who: str, protocol: ProtocolVersion, *, retain: bool
) -> None:
    expected = {topic for topic in TOPICS if may_write(who, topic)}
    payload = f"{who} {protocol} {retain}".encode()
    async with nothing_retained(place):
        async with (
            listening(place, "observer", "#", "$other/#") as observer,
            place.client(account(place, who), protocol=protocol) as publisher,
        ):
            for topic in TOPICS:
                await publisher.publish(topic, payload, qos=1, retain=retain)
            arrived = {topic for topic, found, _ in await heard(observer) if found == payload}
        async with listening(place, "observer", "#", "$other/#") as late:
            kept = {topic for topic, found, _ in await heard(late) if found == payload}

    assert arrived == expected
    assert kept == (expected if retain else set())


@pytest.mark.parametrize("who", IDENTITIES)
async def test_a_will_comes_through_only_where_its_scooter_may_publish(
    place: BrokerPlace, who: str
) -> None:
    its = account(place, who)
    payload = f"will of {who}".encode()
    tls = None if its.port == place.ports.internal else place.trusting()
    async with listening(place, "observer", "#", "$other/#") as observer:
        for topic in TOPICS:
            reader, writer = await asyncio.open_connection("127.0.0.1", its.port, ssl=tls)
            will = mqtt5.Will(topic, payload=payload, qos=mqtt5.QoS.AT_LEAST_ONCE)
            packet = mqtt5.ConnectPacket(
                "will", username=its.name, password=its.secret.encode(), will=will
            )
            writer.write(packet.write())
            await reader.read(100)
            writer.write(bytes([0xF0, 0]))  # no packet: the broker ends it, and tells the will
            await reader.read()
            writer.close()
        arrived = {topic for topic, found, _ in await heard(observer) if found == payload}

    assert arrived == {topic for topic in TOPICS if may_write(who, topic)}


@pytest.mark.parametrize("protocol", [ProtocolVersion.V311, ProtocolVersion.V5])
@pytest.mark.parametrize("who", IDENTITIES)
async def test_somebody_hears_only_what_is_theirs_whatever_they_subscribe_to(
    place: BrokerPlace, who: str, protocol: ProtocolVersion
) -> None:
    payload = f"for {who} {protocol}".encode()
    async with (
        place.client(account(place, who), protocol=protocol) as listener,
        place.client(place.fixed("writer")) as writer,
    ):
        for each in FILTERS:
            await listener.subscribe(each, qos=1)
        for topic in TOPICS:
            await writer.publish(topic, payload, qos=1)
        arrived = await heard(listener)

    assert {topic for topic, found, _ in arrived if found == payload} == {
        topic for topic in TOPICS if may_read(who, topic)
    }
    hears_the_broker = any(topic.startswith("$SYS/") for topic, _, _ in arrived)
    assert hears_the_broker == (who == "gateway")


@pytest.mark.parametrize("who", [*LOGINS, "admin", "canary"])
async def test_what_is_retained_for_others_is_not_heard(place: BrokerPlace, who: str) -> None:
    async with nothing_retained(place), place.client(place.fixed("writer")) as writer:
        for topic in TOPICS:
            await writer.publish(topic, b"kept", qos=1, retain=True)
        async with listening(place, who, *FILTERS) as listener:
            arrived = {topic for topic, found, _ in await heard(listener) if found == b"kept"}

    assert arrived == {topic for topic in TOPICS if may_read(who, topic)}


@pytest.mark.parametrize("leaf", UPLINKS)
async def test_what_a_scooter_says_reaches_the_gateway(place: BrokerPlace, leaf: str) -> None:
    topic = f"scooters/SC-0001/{leaf}"
    async with (
        listening(place, "gateway", f"scooters/+/{leaf}") as gateway,
        place.client(place.scooter("SC-0001")) as scooter,
    ):
        await scooter.publish(topic, b"{}", qos=1)

        assert str((await anext(gateway.messages)).topic) == topic


async def test_the_gateway_can_clear_a_retained_status(place: BrokerPlace) -> None:
    topic = "scooters/SC-0001/status"
    async with (
        place.client(place.scooter("SC-0001")) as scooter,
        place.client(place.fixed("gateway")) as gateway,
    ):
        await scooter.publish(topic, b'{"s":"online"}', qos=1, retain=True)
        await gateway.publish(topic, b"", qos=1, retain=True)
    async with listening(place, "gateway", topic) as gateway:
        assert await heard(gateway) == []


async def test_the_gateway_hears_what_the_broker_dropped(place: BrokerPlace) -> None:
    topic = "$SYS/broker/publish/messages/dropped"
    async with listening(place, "gateway", topic) as gateway:
        assert str((await anext(gateway.messages)).topic) == topic


async def test_a_message_larger_than_the_contract_allows_ends_its_connection(
    place: BrokerPlace,
) -> None:
    topic = "scooters/SC-0001/telemetry_batch"
    async with listening(place, "gateway", topic) as gateway:
        async with place.client(place.scooter("SC-0001")) as scooter:
            await scooter.publish(topic, b"x" * 8_192, qos=1)
            await scooter.publish(topic, b"x" * 20_000)
            with pytest.raises(MqttError, match="Disconnected"):
                await anext(scooter.messages)

        assert (await anext(gateway.messages)).payload == b"x" * 8_192


@pytest.mark.parametrize("who", ["SC-0001", "alice.laptop"])
@pytest.mark.parametrize("protocol", [ProtocolVersion.V311, ProtocolVersion.V5])
@pytest.mark.parametrize("victim", ["gateway", "SC-0002", "bob.desk"])
async def test_nobody_is_evicted_by_whoever_takes_their_client_id(
    place: BrokerPlace, who: str, protocol: ProtocolVersion, victim: str
) -> None:
    client_id = "gateway/control" if victim == "gateway" else victim
    async with (
        place.client(account(place, victim), client_id=client_id) as there,
        place.client(account(place, who), client_id=client_id, protocol=protocol),
    ):
        await there.subscribe("gateway/g1/status", qos=1)
        async with place.client(place.fixed("gateway")) as gateway:
            await gateway.publish("gateway/g1/status", b"still here", qos=1)

        assert (await anext(there.messages)).payload == b"still here"


@pytest.mark.parametrize("victim", ["SC-0002", "bob.desk"])
async def test_a_wrong_secret_evicts_nobody(place: BrokerPlace, victim: str) -> None:
    its = account(place, victim)
    async with place.client(its) as there:
        assert not await place.lets_in(replace(its, secret="guessed"), client_id=victim)  # noqa: S106
        assert not await place.lets_in(
            Account("nobody", "guessed", place.ports.internal), client_id=victim
        )
        await there.subscribe("still/there")


@pytest.mark.parametrize("who", ["SC-0001", "alice.laptop"])
async def test_nobody_empties_the_gateways_session_by_its_client_id(
    place: BrokerPlace, who: str
) -> None:
    topic = "scooters/SC-0002/events"
    async with gateway_session(place) as gateway:
        await gateway.subscribe("scooters/+/events", qos=1)
    async with place.client(place.scooter("SC-0002")) as scooter:
        for number in range(5):
            await scooter.publish(topic, str(number).encode(), qos=1)
    async with place.client(account(place, who), client_id="gateway/events", clean_start=True):
        pass

    async with gateway_session(place) as gateway:
        payloads = [(await anext(gateway.messages)).payload for _ in range(5)]
    assert payloads == [b"0", b"1", b"2", b"3", b"4"]
    async with place.client(place.fixed("gateway"), client_id="gateway/events"):
        pass  # a clean start forgets the session


def gateway_session(place: BrokerPlace) -> Client:
    """The gateway's own kind of session: the broker keeps it."""
    return place.kept(place.fixed("gateway"), client_id="gateway/events")

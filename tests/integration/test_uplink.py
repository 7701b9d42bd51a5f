"""The uplink on a real broker: what is settled, what comes again, what is held."""

import asyncio
import time

import mqtt5
import pytest
import structlog

from gateway.links.broker import BrokerAddress
from gateway.links.delivery import Outcome
from gateway.links.uplink import Session
from gateway.local.servers import Servers
from gateway.metrics import Metrics
from tests.mqtt_session import always, plan, running, send
from tests.proxy import Proxy
from tests.services import mosquitto_of


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def via(proxy: Proxy, broker: BrokerAddress) -> BrokerAddress:
    return BrokerAddress(
        host="127.0.0.1",
        port=proxy.port,
        username=broker.username,
        password=broker.password,
        keepalive_s=broker.keepalive_s,
    )


async def test_deliveries_come_in_order_in_batches_of_at_most_256(
    broker: BrokerAddress, fresh_id: str
) -> None:
    topic = f"scooters/{fresh_id}/telemetry"
    async with running(broker, plan(fresh_id)):
        pass  # makes the session that queues
    await send(broker.host, broker.port, topic, numbered(1500))

    async with running(broker, plan(fresh_id), settles=False) as run:
        await run.until(lambda: len(run.payloads) >= 1500, "all deliveries")

        assert run.payloads == numbered(1500)
        assert max(len(batch.deliveries) for batch in run.batches) <= 256
        assert run.session.oldest_unsettled_s() > 0
        run.settle_all()
        assert run.session.oldest_unsettled_s() == 0
        assert run.outcome(Outcome.APPLIED) == 1500
        assert run.balance() == 0


async def test_a_late_consumer_gets_full_batches(broker: BrokerAddress, fresh_id: str) -> None:
    topic = f"scooters/{fresh_id}/telemetry"
    async with running(broker, plan(fresh_id), consumes=False) as run:
        await send(broker.host, broker.port, topic, numbered(600))
        await run.until(lambda: run.count("deliveries_in_flight") == 600, "all deliveries")
        batch = await anext(aiter(run.session.batches()))
        # A batch grows for a tenth of a second at most, so that its time is near the truth.
        assert 0 < len(batch.deliveries) <= 256
        assert run.session.oldest_unsettled_s() > 0


async def test_what_comes_between_two_reads_comes_together(
    broker: BrokerAddress, fresh_id: str
) -> None:
    topic, rest_s = f"scooters/{fresh_id}/telemetry", 0.3
    async with running(broker, plan(fresh_id, rest_s=rest_s, echo_period_s=60)) as run:
        began = time.monotonic()
        await send(broker.host, broker.port, topic, numbered(200))
        await run.until(lambda: len(run.payloads) >= 200, "all deliveries")
        reads_at_most = 2 + (time.monotonic() - began) / rest_s

        assert run.payloads == numbered(200)
        assert len(run.batches) <= reads_at_most


async def test_what_was_not_settled_comes_again(broker: BrokerAddress, fresh_id: str) -> None:
    topic = f"scooters/{fresh_id}/telemetry"
    async with running(broker, plan(fresh_id), settles=False) as run:
        await send(broker.host, broker.port, topic, numbered(30))
        await run.until(lambda: len(run.payloads) >= 30, "all deliveries")
        everything = [each for batch in run.batches for each in batch.deliveries]
        first = run.batches[0]
        first.settle([Outcome.APPLIED] + [None] * (len(first.deliveries) - 1))
        assert (
            len(first.deliveries)
            == len(everything) - sum(len(batch.deliveries) for batch in run.batches[1:]) - 1
        )
    assert run.outcome(Outcome.ABANDONED) == 29
    assert run.balance() == 0

    async with running(broker, plan(fresh_id)) as run:
        await run.until(lambda: len(run.payloads) >= 29, "the unsettled ones")
        assert run.payloads == numbered(30)[1:]
    async with running(broker, plan(fresh_id)) as run:
        await send(broker.host, broker.port, topic, [b"marker"])
        await run.until(lambda: bool(run.payloads), "the marker")
        assert run.payloads == [b"marker"]


async def test_nothing_is_settled_across_a_reconnect(broker: BrokerAddress, fresh_id: str) -> None:
    topic = f"scooters/{fresh_id}/telemetry"
    async with (
        Proxy(broker.host, broker.port) as proxy,
        running(via(proxy, broker), plan(fresh_id), settles=False) as run,
    ):
        await send(broker.host, broker.port, topic, numbered(20))
        await run.until(lambda: len(run.payloads) >= 20, "all deliveries")
        old = list(run.batches)
        proxy.cut()
        await run.until(lambda: len(run.payloads) >= 40, "all deliveries again")
        for batch in old:
            assert batch.is_abandoned
            batch.settle([Outcome.APPLIED] * len(batch.deliveries))

        assert run.outcome(Outcome.APPLIED) == 0
        assert run.outcome(Outcome.ABANDONED) == 20
        assert run.count("deliveries_in_flight") == 20
        assert run.payloads[20:] == numbered(20)
        # Deliveries may come before it; a connection that is cut before it is not counted.
        await run.until(
            lambda: run.count("reconnects_total", connection="telemetry") == 2, "the SUBACK"
        )
        proxy.cut()
        await run.until(lambda: len(run.payloads) >= 60, "nothing was acknowledged")
        await run.until(
            lambda: run.count("reconnects_total", connection="telemetry") == 3, "the next SUBACK"
        )


async def test_the_bound_stops_the_reading(broker: BrokerAddress, fresh_id: str) -> None:
    topic = f"scooters/{fresh_id}/telemetry"
    small = plan(fresh_id, held_max=256)
    async with running(broker, small):
        pass
    await send(broker.host, broker.port, topic, numbered(1000))
    async with running(broker, small, settles=False) as run:
        await send(broker.host, broker.port, topic, [b"q0"] * 600, qos=0)
        # QoS 0 has no Receive Maximum: only our own bound, a quarter above it, holds it back.
        await run.until(lambda: run.count("deliveries_in_flight") == 320, "the bound")
        held = run.batches[0]
        held.settle([Outcome.APPLIED] * len(held.deliveries))
        assert run.count("deliveries_in_flight") <= 320

        run.settles = True
        for batch in run.batches[1:]:
            batch.settle([Outcome.APPLIED] * len(batch.deliveries))
        await run.until(lambda: set(numbered(1000)) <= set(run.payloads), "everything at QoS 1")
        assert run.balance() == 0


async def test_a_paused_session_keeps_its_connection(broker: BrokerAddress, fresh_id: str) -> None:
    topic = f"scooters/{fresh_id}/telemetry"
    quick = BrokerAddress(
        host=broker.host,
        port=broker.port,
        username=broker.username,
        password=broker.password,
        keepalive_s=1,
    )
    small = plan(fresh_id, held_max=256, echo_period_s=0.2)
    async with running(quick, small):
        pass
    await send(broker.host, broker.port, topic, numbered(600))
    async with running(quick, small, settles=False) as run:
        await send(broker.host, broker.port, topic, [b"q0"] * 200, qos=0)
        await run.until(lambda: run.count("deliveries_in_flight") == 320, "the bound")
        await run.until(
            lambda: run.session.oldest_unsettled_s() > 3, "three keepalives", within_s=10
        )
        run.settles = True
        run.settle_all()
        await run.until(lambda: set(numbered(600)) <= set(run.payloads), "the rest")
        assert run.count("reconnects_total", connection="telemetry") == 1


async def test_byte_by_byte_decodes_the_same(broker: BrokerAddress, fresh_id: str) -> None:
    topic = f"scooters/{fresh_id}/telemetry"
    async with (
        Proxy(broker.host, broker.port, slice_size=1) as proxy,
        running(via(proxy, broker), plan(fresh_id)) as run,
    ):
        await send(broker.host, broker.port, topic, numbered(100))
        await run.until(lambda: len(run.payloads) >= 100, "all deliveries")
        assert run.payloads == numbered(100)


async def test_a_silent_connection_is_rebuilt(broker: BrokerAddress, fresh_id: str) -> None:
    topic = f"scooters/{fresh_id}/telemetry"
    async with (
        Proxy(broker.host, broker.port) as proxy,
        running(via(proxy, broker), plan(fresh_id, echo_period_s=0.3)) as run,
    ):
        await run.until(lambda: run.outcome(Outcome.ECHO) >= 2, "echoes of a good connection")
        assert run.count("reconnects_total", connection="telemetry") == 1
        proxy.swallow = True
        await run.until(lambda: not run.session.connected, "the silence to be noticed")
        proxy.swallow = False
        proxy.cut()
        await run.until(lambda: run.session.connected, "a new connection", within_s=25)
        await send(broker.host, broker.port, topic, [b"after"])
        await run.until(lambda: run.payloads == [b"after"], "a delivery")
        assert run.balance() == 0


async def test_a_forgotten_session_is_told(broker: BrokerAddress, fresh_id: str) -> None:
    short = plan(fresh_id)
    with structlog.testing.capture_logs() as logs:
        async with (
            Proxy(broker.host, broker.port) as proxy,
            running(via(proxy, broker), short) as run,
        ):
            assert run.count("sessions_forgotten_total", session="telemetry") == 0
            await forget(broker, short.client_id)
            await run.until(
                lambda: run.count("sessions_forgotten_total", session="telemetry") == 1,
                "the loss to be told",
            )
            await run.until(lambda: run.session.connected, "the session")
            await send(
                broker.host, broker.port, f"scooters/{fresh_id}/telemetry", [b"subscribed again"]
            )
            await run.until(lambda: bool(run.payloads), "a delivery")
    assert [each["log_level"] for each in logs if "forgotten" in each["event"]] == ["warning"]
    assert [each["log_level"] for each in logs if each["event"] == "session"] == ["info"]
    assert [each["event"] for each in logs if each["event"] in {"away", "back"}] == ["away", "back"]


async def forget(broker: BrokerAddress, client_id: str) -> None:
    """Take the session over with a clean start, which ends it at the broker."""
    _, writer = await asyncio.open_connection(broker.host, broker.port)
    writer.write(
        mqtt5.ConnectPacket(
            client_id,
            username=broker.username,
            password=(broker.password or "").encode(),
            clean_start=True,
        ).write()
    )
    writer.write(mqtt5.DisconnectPacket().write())
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def test_a_wrong_password_is_told_in_words(broker: BrokerAddress, fresh_id: str) -> None:
    wrong = BrokerAddress(
        host=broker.host,
        port=broker.port,
        username=broker.username,
        password="guess",  # noqa: S106
    )
    with structlog.testing.capture_logs() as logs:
        async with running(wrong, plan(fresh_id), connected=False) as run:
            await run.until(lambda: bool(logs), "a log line")
            assert not run.session.connected
    assert "refused the connection: NOT_AUTHORIZED" in logs[0]["reason"]
    assert "guess" not in repr(wrong)


@pytest.mark.parametrize("after_turns", range(0, 30, 3))
async def test_cancelling_at_any_await_leaves_nothing(
    broker: BrokerAddress, fresh_id: str, after_turns: int
) -> None:
    before = asyncio.all_tasks()
    session = Session(plan(fresh_id), broker, Metrics(), may_connect=always)
    task = asyncio.create_task(session.run())
    for _ in range(after_turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task}, timeout=5)

    assert task.cancelled()
    assert asyncio.all_tasks() == before


async def test_a_restarted_and_a_frozen_broker_are_survived(
    own_mosquitto: Servers, fresh_id: str
) -> None:
    broker = mosquitto_of(own_mosquitto).address(keepalive_s=2)
    topic = f"scooters/{fresh_id}/telemetry"
    async with running(broker, plan(fresh_id, echo_period_s=0.5), settles=False) as run:
        await send(broker.host, broker.port, topic, numbered(10))
        await run.until(lambda: len(run.payloads) == 10, "all deliveries")
        await asyncio.to_thread(own_mosquitto.mosquitto.stop)
        await run.until(lambda: not run.session.connected, "the end to be noticed")
        assert run.balance() == 0
        await asyncio.to_thread(own_mosquitto.mosquitto.start)
        await run.until(lambda: len(run.payloads) == 20, "all deliveries again", within_s=30)
        assert run.payloads == numbered(10) * 2
        run.settle_all()
        own_mosquitto.mosquitto.pause()
        await run.until(lambda: not run.session.connected, "the silence to be noticed")
        own_mosquitto.mosquitto.resume()
        await run.until(lambda: run.session.connected, "a new connection", within_s=30)
        assert run.balance() == 0

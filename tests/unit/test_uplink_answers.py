"""What the uplink makes of a broker's unusual answers."""

import mqtt5
import pytest
import structlog

from gateway.links.packet_stream import PACKET_MAX
from tests.mqtt_session import plan, running
from tests.scripted_broker import grant_all, scripted_broker

OVERSIZE = mqtt5.PublishPacket("t", bytes(PACKET_MAX)).write()[:1000]
TAKEN_OVER = mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.SESSION_TAKEN_OVER)


async def test_a_refused_subscription_is_told_and_is_not_connected() -> None:
    def refuse(packet: mqtt5.Packet) -> list[mqtt5.Packet | bytes]:
        if isinstance(packet, mqtt5.SubscribePacket):
            codes = [
                mqtt5.SubAckReasonCode.NOT_AUTHORIZED,
                mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE,
            ]
            return [mqtt5.SubAckPacket(packet.packet_id, codes)]
        return grant_all(packet)

    with structlog.testing.capture_logs() as logs:
        async with (
            scripted_broker(refuse) as broker,
            running(broker, plan("g"), connected=False) as run,
        ):
            await run.until(lambda: any(each["event"] == "away" for each in logs), "a line")
            assert not run.session.connected
    away = next(each for each in logs if each["event"] == "away")
    assert "scooters/g/telemetry NOT_AUTHORIZED" in away["reason"]


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (OVERSIZE, "malformed packet: a packet of 262"),
        (b"\x00\x00", "malformed packet"),
        (mqtt5.SubAckPacket(9, []), "unexpected SubAckPacket"),
        (TAKEN_OVER, "SESSION_TAKEN_OVER"),
    ],
    ids=["oversize", "malformed", "unexpected", "disconnected"],
)
async def test_what_ends_a_connection_is_told(sent: mqtt5.Packet | bytes, told: str) -> None:
    def answer(packet: mqtt5.Packet) -> list[mqtt5.Packet | bytes]:
        if isinstance(packet, mqtt5.SubscribePacket):
            return [*grant_all(packet), sent]
        return grant_all(packet)

    with structlog.testing.capture_logs() as logs:
        async with (
            scripted_broker(answer) as broker,
            running(broker, plan("g"), connected=False) as run,
        ):
            await run.until(lambda: any(each["event"] == "away" for each in logs), "a line")
            assert run.balance() == 0
    assert told in next(each["reason"] for each in logs if each["event"] == "away")

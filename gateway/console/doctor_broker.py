"""The doctor at the broker: may the gateway speak there, and what happens to what waits?"""

import secrets
import time
from typing import Final

import mqtt5

from devices.contract import topics
from gateway.console.doctor_report import Report
from gateway.console.mosquitto_versions import caveats, defects, parse_version
from gateway.errors import ServerAway
from gateway.links.broker import BrokerAddress, broker_address
from gateway.links.probe import TIMEOUT_S, open_probe
from gateway.settings import Settings

_VERSION: Final = "$SYS/broker/version"
_UPTIME: Final = "$SYS/broker/uptime"
_DROPPED: Final = "$SYS/broker/publish/messages/dropped"

_QUEUE_TRIED: Final = 1200
"""Messages sent to an absent session: more than Mosquitto keeps by default (1000)."""

_DEFAULT_INFLIGHT: Final = 20
_BATCH_BYTES: Final = 8192 + 128
"""The largest message of the contract, a batch, with its topic."""


async def examine_broker(settings: Settings) -> Report:
    """Raises SettingsError for wrong certificate files; whatever else is wrong is a finding."""
    report = Report("broker", f"{settings.mqtt_host}:{settings.mqtt_port}")
    broker = broker_address(settings)
    try:
        if await _examine_connection(broker, report, settings):
            await _examine_queue(broker, report)
    except ServerAway as error:
        report.findings.append(
            f"{error.detail}: see that it runs, and check the SCOOTER_MQTT_... settings"
        )
    return report


async def _examine_connection(broker: BrokerAddress, report: Report, settings: Settings) -> bool:
    """Returns whether the gateway reaches itself, as the rest needs it."""
    began = time.monotonic()
    name = f"doctor-{secrets.token_hex(4)}"
    async with open_probe(broker) as probe:
        connack = await probe.connect(broker, name, clean_start=True, session_expiry_s=0)
        report.facts |= {
            "connects_in_ms": round((time.monotonic() - began) * 1000, 1),
            "tls": broker.tls is not None,
            "user": broker.username or "nobody",
        }
        _judge_limits(connack, report, settings)
        echo = topics.echo(name)
        refused = await probe.subscribe(_VERSION, _UPTIME, _DROPPED, echo)
        taken = await probe.publish(echo, b"doctor")
        # What is retained comes before the echo; a broker of another kind tells less.
        await probe.receive(4, within_s=1.0)
        told = {each.topic: each.payload for each in probe.deliveries}
        probe.leave()
    _judge_rights(refused, taken=taken, echoed=echo in told, report=report)
    version = told.get(_VERSION, b"").decode(errors="replace")
    report.facts["version"] = version or "unknown"
    _judge_version(version, report)
    _judge_dropped(told.get(_DROPPED), told.get(_UPTIME), report)
    return echo in told


def _judge_limits(connack: mqtt5.ConnAckPacket, report: Report, settings: Settings) -> None:
    report.facts |= {
        "receive_maximum": connack.receive_max,
        "max_packet_size": connack.max_packet_size or "no limit",
    }
    if connack.receive_max <= _DEFAULT_INFLIGHT:
        report.findings.append(
            f"max_inflight_messages is {connack.receive_max}, too few for a fleet: set it to 1000"
        )
    if connack.max_packet_size is not None and connack.max_packet_size < _BATCH_BYTES:
        report.findings.append(
            f"max_packet_size is {connack.max_packet_size}, and batches have up to 8 KiB: set it "
            "to 16384"
        )
    if connack.max_packet_size is None:
        report.notes.append("max_packet_size is not set: 16384 keeps misbehaving clients small")
    if connack.max_qos == mqtt5.QoS.AT_MOST_ONCE:
        report.findings.append("it allows only QoS 0, which loses messages: set max_qos to 1 or 2")
    if not connack.retain_available:
        report.findings.append(
            "it keeps no retained messages, which presence needs: set retain_available true"
        )
    if settings.mqtt_shared and not connack.shared_subscription_available:
        report.findings.append(
            "it has no shared subscriptions: set SCOOTER_MQTT_SHARED=false and run one gateway"
        )


def _judge_rights(refused: list[str], *, taken: bool, echoed: bool, report: Report) -> None:
    if refused:
        report.findings.append(
            f"it refuses subscriptions ({', '.join(refused)}): allow them in the access list"
        )
    if not taken:
        report.findings.append(
            "the gateway may not publish under gateway/: add `topic readwrite gateway/#` for its "
            "user to the access list"
        )
    elif not echoed:
        report.findings.append(
            "what the gateway sends to itself does not come back: add `topic readwrite gateway/#` "
            "for its user to the access list"
        )


def _judge_version(text: str, report: Report) -> None:
    version = parse_version(text)
    if version is None:
        report.findings.append(
            "it does not tell a Mosquitto version: add `topic read $SYS/#` for the gateway's user "
            "to the access list, or use Mosquitto"
        )
        return
    report.findings += defects(version)
    report.notes += caveats(version)


def _judge_dropped(dropped: bytes | None, uptime: bytes | None, report: Report) -> None:
    if uptime is not None:
        report.facts["up_for"] = uptime.decode(errors="replace")
    if dropped is None or not dropped.isdigit():
        return
    count = report.facts["dropped_messages"] = int(dropped)
    if count:
        report.findings.append(
            f"it dropped {count} messages since it started: raise max_queued_messages and "
            "max_queued_bytes, and see whether a session waits for nobody"
        )


async def _examine_queue(broker: BrokerAddress, report: Report) -> None:
    """Find the one limit that cannot be read: let messages wait for a session of our own."""
    kept = await _count_kept(broker)
    report.facts["kept_while_away"] = f"at least {kept}" if kept == _QUEUE_TRIED else kept
    if kept < _QUEUE_TRIED:
        report.findings.append(
            f"of {_QUEUE_TRIED} messages for a client that is away it kept {kept}: set "
            "max_queued_messages 2000000 and max_queued_bytes 268435456, and leave "
            "per_listener_settings false"
        )
    else:
        report.notes.append(
            f"max_queued_messages is above {_QUEUE_TRIED}; how far cannot be seen from here: look "
            "for `max_queued_messages 2000000` in mosquitto.conf"
        )


async def _count_kept(broker: BrokerAddress) -> int:
    name = f"doctor-{secrets.token_hex(4)}"
    topic = topics.echo(name)
    async with open_probe(broker) as absent:
        await absent.connect(broker, name, clean_start=True, session_expiry_s=60)
        await absent.subscribe(topic)
        absent.leave()
        await absent.closed()
    async with open_probe(broker) as sender:
        connack = await sender.connect(broker, f"{name}-s", clean_start=True, session_expiry_s=0)
        at_once = min(connack.receive_max, 500)
        await sender.publish_many(topic, [b"doctor"] * _QUEUE_TRIED, at_once=at_once)
        sender.leave()
    async with open_probe(broker) as back:
        await back.connect(broker, name, clean_start=False, session_expiry_s=60)
        await back.receive(_QUEUE_TRIED, within_s=TIMEOUT_S / 2)
        back.leave(session_expiry_s=0)
        await back.closed()
        return len(back.deliveries)

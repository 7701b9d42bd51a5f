"""What a delivery is, and the one outcome that each ends in."""

from enum import StrEnum

from mqtt5 import PublishPacket

Delivery = PublishPacket
"""One received message as the codec read it, with its topic, payload, qos, retain and packet_id."""


class Outcome(StrEnum):
    """How a delivery ended; the label of `gateway_deliveries_total`."""

    __hash__ = str.__hash__  # an enum's own is slow, and each delivery's outcome is counted

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    LATE = "late"
    EVENT = "event"
    PRESENCE = "presence"
    ACK = "ack"
    REQUEST = "request"
    ECHO = "echo"
    REJECTED = "rejected"
    ABANDONED = "abandoned"

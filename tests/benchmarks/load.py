"""The load: reports of distinct scooters, encoded before anything is measured."""

import struct
from dataclasses import dataclass
from typing import Final

from tests.accounts import LOAD

BOOT: Final = 7
_TS_MS: Final = 1_760_000_000_000
_SIZES: Final = {
    70: '{"boot":%d,"seq":%d,"ts":%d,"lat":%.6f,"lon":%.6f}',
    150: (
        '{"boot":%d,"seq":%d,"ts":%d,"lat":%.6f,"lon":%.6f,"acc":4.5,"spd":17.4,"hdg":231,'
        '"batt":83,"mv":38120,"chg":false,"lock":"unlocked"}'
    ),
    250: (
        '{"boot":%d,"seq":%d,"ts":%d,"lat":%.6f,"lon":%.6f,"acc":4.5,"spd":17.4,"hdg":231,'
        '"batt":83,"mv":38120,"rng":21500,"chg":false,"bid":"B-00412","lock":"unlocked",'
        '"tip":false,"odo":1284033,"sig":-87,"fw":"2.14.0","up":86400123,"ivl":10}'
    ),
}
SIZES: Final = tuple(_SIZES)
"""About how many bytes a report has: a bare position, the usual one, one with every field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """`laps` reports of each of `scooters`, a lap at a time, numbered on from `first_seq`.

    `rate` is messages a second over all connections; None is as fast as the broker takes them.
    """

    prefix: str
    scooters: int
    laps: int = 1
    first_seq: int = 1
    size: int = 150
    connections: int = 4
    rate: float | None = None

    @property
    def messages(self) -> int:
        return self.scooters * self.laps

    @property
    def last_seq(self) -> int:
        return self.first_seq + self.laps - 1

    def scooter_ids(self) -> list[str]:
        return [scooter_id(self.prefix, number) for number in range(self.scooters)]


def scooter_id(prefix: str, number: int) -> str:
    return f"{prefix}-{number:06d}"


def report(number: int, seq: int, *, size: int = 150) -> bytes:
    """What one scooter of the load says."""
    place = (number * 7919 + seq * 104_729) % 100_000 / 1e6
    fields = (BOOT, seq, _TS_MS + seq * 10_000, 52.45 + place, 13.35 + place)
    return (_SIZES[size] % fields).encode()


def packets(load: Load, connection: int) -> list[bytes]:
    """The PUBLISH packets of one connection, QoS 1 (MQTT 3.1.1 §3.3).

    A scooter's reports all go through the same connection, so they stay in order.
    """
    numbers = range(connection, load.scooters, load.connections)
    found: list[bytes] = []
    for seq in range(load.first_seq, load.first_seq + load.laps):
        for number in numbers:
            topic = f"scooters/{scooter_id(load.prefix, number)}/telemetry".encode()
            body = report(number, seq, size=load.size)
            found.append(publish_packet(topic, len(found) % 65_535 + 1, body))
    return found


def publish_packet(topic: bytes, packet_id: int, payload: bytes) -> bytes:
    """One PUBLISH at QoS 1."""
    body = struct.pack(">H", len(topic)) + topic + struct.pack(">H", packet_id) + payload
    return b"\x32" + _length(len(body)) + body


def connect_packet(client_id: str) -> bytes:
    """CONNECT of the tests' account with a clean session (MQTT 3.1.1 §3.1)."""
    fields = [field.encode() for field in (client_id, *LOAD)]
    payload = b"".join(struct.pack(">H", len(field)) + field for field in fields)
    body = b"\x00\x04MQTT\x04\xc2\x00\x3c" + payload
    return b"\x10" + _length(len(body)) + body


def _length(size: int) -> bytes:
    """A variable byte integer (MQTT 3.1.1 §2.2.3)."""
    encoded = bytearray()
    while True:
        size, digit = divmod(size, 128)
        encoded.append(digit | (128 if size else 0))
        if not size:
            return bytes(encoded)

"""The stream parser: bytes in, packets out, whatever the chunks."""

import itertools
from collections.abc import Sequence

import mqtt5
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.links.delivery import Delivery
from gateway.links.packet_stream import PACKET_MAX, MalformedPacket, PacketStream

TOPICS = st.text(st.characters(codec="utf-8", exclude_characters="\0+#"), min_size=1, max_size=40)
PUBLISHES = st.builds(
    lambda topic, payload, packet_id, correlation: mqtt5.PublishPacket(
        topic,
        payload,
        qos=mqtt5.QoS.AT_LEAST_ONCE if packet_id else mqtt5.QoS.AT_MOST_ONCE,
        packet_id=packet_id,
        correlation_data=correlation,
    ),
    TOPICS,
    st.binary(max_size=400),
    st.one_of(st.none(), st.integers(1, 65535)),
    st.one_of(st.none(), st.binary(max_size=20)),
)
OTHERS = st.one_of(
    st.just(mqtt5.PingRespPacket()),
    st.builds(mqtt5.PubAckPacket, st.integers(1, 65535)),
    st.just(mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.SESSION_TAKEN_OVER)),
)
CODEC_PANICS = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def read_all(stream: PacketStream, most: int) -> list[mqtt5.Packet]:
    found: list[mqtt5.Packet] = []
    while True:
        deliveries: list[Delivery] = []
        packet = stream.read_into(deliveries, most)
        found += deliveries
        if packet is not None:
            found.append(packet)
        elif len(deliveries) < most:
            return found


def feed(stream: PacketStream, chunk: bytes, most: int = 10) -> list[mqtt5.Packet]:
    found = []
    while chunk:
        room = stream.room()
        size = min(len(room), len(chunk))
        room[:size] = chunk[:size]
        stream.filled(size)
        found += read_all(stream, most)
        chunk = chunk[size:]
    return found


@given(
    packets=st.lists(st.one_of(PUBLISHES, OTHERS), max_size=20),
    cuts=st.lists(st.integers(0, 10_000), max_size=30),
    most=st.integers(1, 5),
)
def test_any_chunking_gives_the_same_packets(
    packets: Sequence[mqtt5.Packet], cuts: Sequence[int], most: int
) -> None:
    wire = b"".join(packet.write() for packet in packets)
    edges = sorted({0, len(wire), *(cut % (len(wire) + 1) for cut in cuts)})
    stream = PacketStream()
    found = []
    for start, end in itertools.pairwise(edges):
        found += feed(stream, wire[start:end], most)

    assert [packet.write() for packet in found] == [packet.write() for packet in packets]


@CODEC_PANICS
@given(st.binary(max_size=200))
def test_any_bytes_are_packets_or_malformed(wire: bytes) -> None:
    stream = PacketStream()
    try:
        feed(stream, wire)
    except MalformedPacket:
        return
    assert stream.unread <= len(wire)


def test_the_largest_packet_passes() -> None:
    packet = mqtt5.PublishPacket("t", bytes(PACKET_MAX - 8))
    wire = packet.write()
    assert len(wire) == PACKET_MAX
    stream = PacketStream()
    found: list[mqtt5.Packet] = []
    for start in range(0, 3 * len(wire), 100_000):
        found += feed(stream, (wire * 3)[start : start + 100_000])

    assert len(found) == 3


@CODEC_PANICS
@pytest.mark.parametrize(
    "wire",
    [
        mqtt5.PublishPacket("t", bytes(PACKET_MAX)).write()[:100],
        b"\x30\xff\xff\xff\xff\x01",
        b"\x00\x00",
        b"\x32\x03\x00\x05ab",
        b"\x30\x05\x00\x02\xff\xff\x00",
    ],
    ids=["oversize", "endless length", "no such type", "longer inside", "topic not UTF-8"],
)
def test_what_is_no_acceptable_packet_is_malformed(wire: bytes) -> None:
    with pytest.raises(MalformedPacket):
        feed(PacketStream(), wire)

"""Bytes from the broker in, MQTT 5 packets out; no I/O, any chunking gives the same packets."""

from typing import Final

import mqtt5

from gateway.links.delivery import Delivery

PACKET_MAX: Final = 256 * 1024
"""Bytes of the largest packet we take; told to the broker as Maximum Packet Size."""

_LEAST_ROOM: Final = 16 * 1024


class MalformedPacket(ValueError):
    """What the broker sent is no MQTT 5, or too large."""


class PacketStream:
    """A receive buffer that the transport fills in place and that is parsed in place."""

    def __init__(self) -> None:
        self._view = memoryview(bytearray(PACKET_MAX + _LEAST_ROOM))
        self._start = 0
        self._end = 0

    def room(self) -> memoryview:
        """Where the next bytes go; never empty once all complete packets were read."""
        if len(self._view) - self._end < _LEAST_ROOM:
            self._make_room()
        return self._view[self._end :]

    def filled(self, count: int) -> None:
        """Tell that `count` bytes were written into `room()`."""
        self._end += count

    @property
    def unread(self) -> int:
        """Bytes that were filled in and not read."""
        return self._end - self._start

    def read_into(self, deliveries: list[Delivery], most: int) -> mqtt5.Packet | None:
        """Append deliveries until there are `most`, the bytes run out or another packet comes.

        Returns that other packet. Raises MalformedPacket; the stream is of no use after it.
        """
        view, start, end = self._view, self._start, self._end
        read, append = mqtt5.read, deliveries.append
        free = most - len(deliveries)
        try:
            while free > 0 and start < end:
                packet, size = read(view[start:end])
                start += size
                if type(packet) is not Delivery:
                    return packet
                append(packet)
                free -= 1
        except IndexError:
            self._expect_more(start)
        except ValueError as error:
            raise MalformedPacket(str(error)) from error
        except BaseException as error:
            # A bug of the codec: it panics, outside the Exception tree, on some bad UTF-8.
            if type(error).__name__ == "PanicException":
                raise MalformedPacket("the codec cannot read a packet") from None
            raise
        finally:
            if start == end:
                start = self._end = 0
            self._start = start
        return None

    def _expect_more(self, start: int) -> None:
        """Raises MalformedPacket unless the packet at `start` is acceptable and incomplete."""
        size = _packet_size(self._view[start : self._end])
        if size is not None and size > PACKET_MAX:
            raise MalformedPacket(f"a packet of {size} bytes")
        if size is not None and size <= self._end - start:
            raise MalformedPacket("a packet is longer inside than outside")

    def _make_room(self) -> None:
        left = self._end - self._start
        self._view[:left] = self._view[self._start : self._end]
        self._start, self._end = 0, left


def _packet_size(head: memoryview) -> int | None:
    """Bytes of the packet that begins with `head`; None while its length is incomplete."""
    remaining = 0
    for index, byte in enumerate(head[1:5]):
        remaining |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:  # noqa: PLR2004 - the continuation bit, MQTT 5 §1.5.5
            return 2 + index + remaining
    return None

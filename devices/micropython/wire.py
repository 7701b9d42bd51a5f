"""Times, JSON and signatures as the contract wants them, for MicroPython; no I/O."""

import binascii
import hashlib
import json
import time

MAC_SIZE = len(',"mac":"') + 32 + len('"}')  # the end of a signed command: 16 bytes as hex


class Uptime:
    """Milliseconds since boot. `ticks_ms` wraps (after 12 days on most boards): this does not."""

    def __init__(self, ticks_ms=time.ticks_ms):
        self._ticks_ms = ticks_ms
        self._last = ticks_ms()
        self._ms = 0

    def ms(self):
        """To be asked at least once in six days, or a wrap is missed."""
        now = self._ticks_ms()
        self._ms += time.ticks_diff(now, self._last)
        self._last = now
        return self._ms


def encode(fields):
    """Compact JSON in this order. `lat` and `lon` are whole numbers of 0.000001 degrees, because
    a float has 32 bits on most boards and loses metres.
    """
    parts = []
    for name, value in fields:
        if name in ("lat", "lon"):
            sign, size = "-" if value < 0 else "", abs(value)
            text = "%s%d.%06d" % (sign, size // 1000000, size % 1000000)
        else:
            text = json.dumps(value)
        parts.append('"%s":%s' % (name, text))
    return ("{" + ",".join(parts) + "}").encode()


def clock_ms():
    """Milliseconds since 1970, whole (`time.time()` is a float here and counts from 2000 there);
    None while the clock was not set.
    """
    from_2000_s = 946684800 if time.gmtime(0)[0] == 2000 else 0
    seconds, nanoseconds = divmod(time.time_ns(), 1000000000)
    if seconds + from_2000_s < 1577836800:  # 2020
        return None
    return (seconds + from_2000_s) * 1000 + nanoseconds // 1000000


def is_signed(key, topic, payload):
    """Whether `mac` is right: over the topic, a zero byte, and the payload as it came up to
    `,"mac":`. Nothing is parsed before that is known.
    """
    signed, end = payload[:-MAC_SIZE], payload[-MAC_SIZE:]
    digest = hmac_sha256(key, topic.encode() + b"\0" + signed)
    return same(end, b',"mac":"' + binascii.hexlify(digest[:16]) + b'"}')


def hmac_sha256(key, message):
    """RFC 2104; MicroPython has SHA-256 but no HMAC."""
    if len(key) > 64:  # the block size of SHA-256
        key = hashlib.sha256(key).digest()
    key = key + bytes(64 - len(key))
    inner = hashlib.sha256(bytes([byte ^ 0x36 for byte in key]))
    inner.update(message)
    outer = hashlib.sha256(bytes([byte ^ 0x5C for byte in key]))
    outer.update(inner.digest())
    return outer.digest()


def same(left, right):
    """Equal, in a time that does not tell how much of it is."""
    if len(left) != len(right):
        return False
    difference = 0
    for one, other in zip(left, right):
        difference |= one ^ other
    return difference == 0

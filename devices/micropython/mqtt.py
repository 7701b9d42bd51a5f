"""The seven packets of MQTT 3.1.1 that a scooter needs, over TLS, for MicroPython.

One publish in flight at a time, nothing above 256 bytes either way. What arrives while a PUBACK
is awaited waits in `inbox`, so that nothing is obeyed in the middle of something else.
"""

import binascii
import select
import socket
import ssl
import time

PACKET_MAX = 256
_TIMEOUT_MS = 10000
_INBOX_MAX = 8
_QOS1 = 0x02
_RETAIN = 0x01


class Connection:
    """Connected, or OSError: also when the broker does not answer within ten seconds."""

    def __init__(self, *, host, port, authority, login, will, keepalive_s):
        self.inbox = []  # (topic, payload, retained), oldest first
        self._packet_id = 0
        self._keepalive_ms = keepalive_s * 1000
        self._pinged_at = time.ticks_ms()
        raw = socket.socket()
        try:
            raw.settimeout(_TIMEOUT_MS // 1000)
            raw.connect(socket.getaddrinfo(host, port)[0][-1])
            # A wrong clock makes a good certificate look expired: set it (ntptime) before this.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=_der(authority))
            self._socket = _wrap(context, raw, host)
            self._poll = select.poll()
            self._poll.register(self._socket, select.POLLIN)
            self._connect(login, will, keepalive_s)
        except Exception:
            raw.close()
            raise

    def publish(self, topic, payload, *, retain=False):
        """At QoS 1: returns when the broker has it."""
        self._packet_id = self._packet_id % 0xFFFF + 1
        number = self._packet_id.to_bytes(2, "big")
        self._send(0x30 | _QOS1 | retain, _text(topic), number, payload)
        self._await(0x40, number)

    def subscribe(self, topic):
        """At QoS 1; a broker that grants nothing is an OSError."""
        self._packet_id = self._packet_id % 0xFFFF + 1
        number = self._packet_id.to_bytes(2, "big")
        self._send(0x82, number, _text(topic), b"\x01")
        if self._await(0x90, number)[2] > 2:  # 0x80: failure
            raise OSError("subscription refused")

    def wait(self, for_ms):
        """Take what comes within this time; returns at the first message."""
        until = time.ticks_add(time.ticks_ms(), for_ms)
        while not self.inbox:
            self._stay_alive()
            left_ms = time.ticks_diff(until, time.ticks_ms())
            if left_ms <= 0 or not self._poll.poll(min(left_ms, 1000)):
                if left_ms <= 0:
                    return
                continue
            self._take()

    def disconnect(self):
        """On purpose: the broker forgets the will."""
        try:
            self._send(0xE0)
        finally:
            self._socket.close()

    def close(self):
        """Without a word: the broker will publish the will."""
        self._socket.close()

    def _connect(self, login, will, keepalive_s):
        username, secret = login
        will_topic, will_payload = will
        # User name, password, will retained at QoS 1, clean session.
        head = b"\x00\x04MQTT\x04\xee" + keepalive_s.to_bytes(2, "big")
        texts = (username, will_topic, will_payload, username, secret)
        self._send(0x10, head, b"".join([_text(each) for each in texts]))
        code = self._await(0x20, b"")[1]
        if code:
            raise OSError("broker refused: %d" % code)  # 4, 5: wrong name or secret

    def _send(self, kind, *parts):
        body = b"".join(parts)
        size = len(body)
        # Seven bits a byte; two bytes are enough for all that is ever sent.
        length = bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7])
        if 1 + len(length) + size > PACKET_MAX:
            raise ValueError("packet too large")
        self._socket.write(bytes([kind]) + length + body)
        self._sent_at = time.ticks_ms()

    def _await(self, kind, start):
        """The body of the packet of this kind that begins with `start`."""
        until = time.ticks_add(time.ticks_ms(), _TIMEOUT_MS)
        while True:
            left_ms = time.ticks_diff(until, time.ticks_ms())
            if left_ms <= 0 or not self._poll.poll(left_ms):
                raise OSError("the broker is silent")
            found, body = self._take()
            if found == kind and body[: len(start)] == start:
                return body

    def _take(self):
        """Read one packet; a message goes to the inbox and is confirmed."""
        self._heard_at = time.ticks_ms()
        kind = self._read(1)[0]
        size = shift = 0
        while True:
            byte = self._read(1)[0]
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        if size > PACKET_MAX:
            self._skip(size)  # nothing that the gateway sends: not read into memory
            return kind, b""
        body = self._read(size)
        if kind & 0xF0 == 0x30:  # PUBLISH
            self._keep(kind, body)
        return kind, body

    def _keep(self, kind, body):
        end = 2 + int.from_bytes(body[:2], "big")
        start = end
        if kind & 0x06:
            start += 2
            self._send(0x40, body[end:start])
        if len(self.inbox) < _INBOX_MAX:  # else: whoever sent it will send it again
            self.inbox.append((body[2:end].decode(), body[start:], bool(kind & _RETAIN)))

    def _stay_alive(self):
        """Ping in time, and believe in a connection only while it answers."""
        now = time.ticks_ms()
        unheard_ms = time.ticks_diff(now, self._heard_at)
        if unheard_ms > self._keepalive_ms + _TIMEOUT_MS:
            raise OSError("the broker is silent")
        quiet_ms = max(unheard_ms, time.ticks_diff(now, self._sent_at))
        pinged_ms = time.ticks_diff(now, self._pinged_at)
        if quiet_ms * 2 > self._keepalive_ms and pinged_ms * 4 > self._keepalive_ms:
            self._pinged_at = now
            self._send(0xC0)

    def _read(self, size):
        data = self._socket.read(size) if size else b""
        if data is None or len(data) < size:
            raise OSError("connection closed")
        return data

    def _skip(self, size):
        while size:
            size -= len(self._read(min(size, 64)))


def _wrap(context, raw, host):
    try:
        return context.wrap_socket(raw, server_hostname=host)
    except ValueError as error:  # what MicroPython raises for a certificate it does not trust
        raise OSError(str(error).strip())


def _text(value):
    data = value if isinstance(value, bytes) else value.encode()
    return len(data).to_bytes(2, "big") + data


def _der(pem):
    """The first certificate of a PEM text as bytes: not every build of MicroPython reads PEM."""
    lines = pem.strip().split("-----BEGIN CERTIFICATE-----")[1].split("-----END")[0]
    return binascii.a2b_base64(lines.replace("\n", "").replace("\r", ""))

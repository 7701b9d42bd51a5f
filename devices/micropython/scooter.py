"""A scooter that keeps to the contract, for MicroPython: the reference for firmware engineers.

It starts from the bundle that `scooter devices` hands over, reports, keeps each event until its
receipt, and obeys commands by its own uptime. `body` is the machine: see `bench.py`.
"""

import binascii
import json
import random
import time

from mqtt import Connection
from wire import Uptime, clock_ms, encode, is_signed

KEEPALIVE_S = 60
EVENT_AGAIN_MS = 60000
BACKOFF_MAX_MS = 120000
STABLE_MS = 30000
ANSWERS_KEPT = 16
OPENING = ("unlock", "unlock_battery")


class Scooter:
    """`run` returns when a command switched it off or wants a reboot: `ended` says which.

    `body.happened` is a list to which the machine adds event types, also from an interrupt.
    """

    def __init__(self, bundle, body, flash, *, report_s=5):
        self._bundle = bundle
        self._id = bundle["scooter_id"]
        key = bundle.get("command_key")
        self._key = binascii.unhexlify(key) if key else None
        self._body = body
        self._flash = flash
        self._uptime = Uptime()
        # Counted and written before the first CONNECT: a boot number is never used twice.
        self._boot = flash.count_boot()
        self._seq = self._conn = self._happened = 0
        self._interval_s = {"riding": report_s, "parked": report_s}
        self._obeyed_n = 0
        self._answers = {}  # request id → the ack that ended it
        self._answered = []  # those ids, oldest first
        self._acks = []  # what the broker does not have yet
        self._due = []  # events to send now
        self._events_at = 0
        self.ended = None

    def run(self):
        """Stay connected. The pauses are random, so that a fleet does not come back in step."""
        ceiling_ms = 1000
        while not self.ended:
            began = self._uptime.ms()
            try:
                self._stay_connected()
            except OSError as error:
                print("not connected:", error)
                if self._uptime.ms() - began > STABLE_MS:
                    ceiling_ms = 1000
                time.sleep_ms(random.getrandbits(30) % ceiling_ms)
                ceiling_ms = min(2 * ceiling_ms, BACKOFF_MAX_MS)

    def _stay_connected(self):
        self._conn += 1  # before the CONNECT, whose will carries it
        lost = [("s", "lost"), ("boot", self._boot), ("conn", self._conn)]
        link = Connection(
            host=self._bundle["host"],
            port=self._bundle["port"],
            authority=self._bundle["authority"],
            login=(self._bundle["username"], self._bundle["secret"]),
            will=(self._topic("status"), encode(lost)),
            keepalive_s=KEEPALIVE_S,
        )
        try:
            # Subscribed before the birth: the gateway sends what waited as soon as it hears that.
            link.subscribe(self._topic("receipts"))
            link.subscribe(self._topic("commands"))
            self._say_status(
                link, "online", [("ivl", self._interval()), ("fw", self._body.FIRMWARE)]
            )
            self._due = self._flash.kept()
            report_at = self._uptime.ms()
            while not self.ended:
                self._send_acks(link)
                self._take_messages(link)
                self._keep_events()
                self._send_events(link)
                if self._uptime.ms() >= report_at:
                    self._report(link)
                    report_at = self._uptime.ms() + self._interval() * 1000
                elif not self.ended:
                    link.wait(report_at - self._uptime.ms())
            if self.ended == "power_off":
                self._say_status(link, "offline", [])
            link.disconnect()
        except Exception:
            link.close()
            raise

    def _take_messages(self, link):
        while link.inbox and not self.ended:
            topic, payload, retained = link.inbox.pop(0)
            try:
                said = json.loads(payload)
            except ValueError:
                continue
            if not isinstance(said, dict):
                continue
            if topic == self._topic("receipts"):
                if not retained:
                    self._flash.forget(said.get("ids"))
            elif topic == self._topic("commands") and isinstance(said.get("request_id"), str):
                if retained:  # nobody's wish of this moment: the gateway is to know of it
                    self._acks.append(self._ack(said["request_id"], "rejected", "retained"))
                else:
                    self._obey(link, said, payload)
                self._send_acks(link)

    def _report(self, link):
        """Two reports, because one with every group has more than 200 bytes."""
        head = [("up", self._uptime.ms()), ("ivl", self._interval())]
        for groups in (("position", "lock"), ("battery", "device")):
            fields = self._order() + head
            for group in groups:
                fields += self._body.group(group)
            link.publish(self._topic("telemetry"), encode(fields))

    def _keep_events(self):
        """What happened is kept in flash until the gateway says that it is stored."""
        while self._body.happened:
            self._happened += 1
            event_id = "%d-%d" % (self._boot, self._happened)
            said = [("id", event_id), ("ev", self._body.happened.pop(0))]
            self._flash.keep(event_id, encode(said + self._order()))
            self._due.append(event_id)

    def _send_events(self, link):
        """New ones at once, each that has no receipt again and again, and after each CONNECT."""
        if self._uptime.ms() - self._events_at >= EVENT_AGAIN_MS:
            self._events_at = self._uptime.ms()
            self._due = self._flash.kept()
        while self._due:
            payload = self._flash.read(self._due[0])
            if payload:  # else its receipt was faster
                link.publish(self._topic("events"), payload)
            self._due.pop(0)

    def _send_acks(self, link):
        while self._acks:
            link.publish(self._topic("acks"), self._acks[0])
            self._acks.pop(0)

    def _say_status(self, link, s, more):
        said = [("s", s), ("boot", self._boot), ("conn", self._conn), ("up", self._uptime.ms())]
        link.publish(self._topic("status"), encode(said + more), retain=True)

    def _obey(self, link, command, payload):
        request_id, name = command["request_id"], command.get("command")
        if self._key and not is_signed(self._key, self._topic("commands"), payload):
            self._acks.append(self._ack(request_id, "rejected", "bad_mac"))
            return
        if request_id in self._answers:
            self._acks.append(self._answers[request_id])  # done already: only the answer was lost
            return
        error = self._refusal(command)
        if not error:
            # The PUBACK of this may take seconds, so the time is looked at once more after it.
            link.publish(self._topic("acks"), self._ack(request_id, "received"))
            error = self._refusal(command)
        if error:
            self._answer(request_id, "rejected", error)
            return
        if name == "get_state":
            self._report(link)
        self._obeyed_n = command["n"]
        status, error, changed = self._body.do(name, command.get("params", {}))
        if status == "success" and name == "set_report_interval":
            self._interval_s.update(command["params"])
        elif status == "success" and name in ("reboot", "power_off"):
            self.ended = name  # as soon as the broker has the answer
        self._answer(request_id, status, error, changed)

    def _refusal(self, command):
        """Why not to obey this now, or None. All of it is in RAM: a reboot makes it foreign."""
        name, n = command.get("command"), command.get("n")
        if not isinstance(n, int) or n <= self._obeyed_n:
            return "replayed"
        if not self._is_in_time(command.get("boot"), command.get("exp"), opens=name in OPENING):
            return "expired"
        return self._body.refuses(name, command.get("params", {}))

    def _is_in_time(self, boot, exp, *, opens):
        if exp is None:  # the gateway does not know our uptime: nothing is opened on its word alone
            return not opens
        return boot == self._boot and isinstance(exp, int) and self._uptime.ms() <= exp

    def _answer(self, request_id, status, error=None, changed=()):
        """Remember the answer, then send it: also after a reconnect, if this connection dies."""
        payload = self._ack(request_id, status, error, changed)
        if error != "moving":  # the gateway may try that one again
            self._answers[request_id] = payload
            self._answered.append(request_id)
            if len(self._answered) > ANSWERS_KEPT:
                del self._answers[self._answered.pop(0)]
        self._acks.append(payload)

    def _ack(self, request_id, status, error=None, changed=()):
        fields = [("request_id", request_id), ("status", status)]
        if error:
            fields.append(("error", error))
        fields += self._order() + [("up", self._uptime.ms())]
        for group in changed:
            fields += self._body.group(group)
        return encode(fields)

    def _order(self):
        self._seq += 1
        order = [("boot", self._boot), ("seq", self._seq)]
        ts = clock_ms()
        return order if ts is None else [("ts", ts)] + order

    def _interval(self):
        return self._interval_s["riding" if self._body.speed_kmh > 0 else "parked"]

    def _topic(self, kind):
        return "scooters/%s/%s" % (self._id, kind)

"""What a scooter still has to send: acks, live and held reports, events until their receipt."""

from collections import deque
from dataclasses import dataclass
from typing import Final

import orjson

from devices.contract.messages import MESSAGE_MAX, PAYLOAD_MAX, SAMPLES_MAX
from devices.contract.topics import Uplink
from devices.simulator.plan import Totals

_REPORTS_KEPT: Final = 600
_EVENTS_KEPT: Final = 200
_BATCH_OF_SMALL: Final = 2


@dataclass(frozen=True, slots=True)
class Message:
    """One publish; `reports` of telemetry in it, or the event it carries."""

    uplink: Uplink
    payload: bytes
    retain: bool = False
    reports: int = 0
    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class _Ack:
    payload: bytes
    after_reports: bool


@dataclass(slots=True)
class _KeptEvent:
    payload: bytes
    sent_ms: int | None = None
    sent_before: bool = False


class Outbox:
    """Holds reports until the broker has them and events until the gateway says it stored them.

    Bounded as flash is: the oldest report goes first, then the oldest event.
    """

    def __init__(self, totals: Totals, *, small: bool, resend_after_ms: int) -> None:
        self._totals = totals
        self._small = small
        self._resend_after_ms = resend_after_ms
        self._held: deque[bytes] = deque()
        self._live: deque[bytes] = deque()
        self._events: dict[str, _KeptEvent] = {}
        self._acks: deque[_Ack] = deque()
        self.online = False

    @property
    def unreceipted(self) -> list[str]:
        """The ids of the events that are still kept, oldest first."""
        return list(self._events)

    def keep_report(self, payload: bytes) -> None:
        """Keep one report: live while online, for a batch otherwise."""
        (self._live if self.online else self._held).append(payload)
        if len(self._held) > _REPORTS_KEPT:
            self._held.popleft()
            self._totals.reports_lost += 1

    def keep_event(self, event_id: str, payload: bytes) -> None:
        """Keep one event until `receipted` names it."""
        self._totals.events += 1
        self._events[event_id] = _KeptEvent(payload)
        if len(self._events) > _EVENTS_KEPT:
            del self._events[next(iter(self._events))]

    @property
    def has_acks(self) -> bool:
        """Whether the broker still lacks an answer to a command."""
        return bool(self._acks)

    def keep_ack(self, payload: bytes, *, after_reports: bool = False) -> None:
        """Keep an answer until the broker has it; some belong behind the reports they speak of."""
        self._acks.append(_Ack(payload, after_reports))

    def forget_acks(self) -> None:
        """A reboot: they were in RAM."""
        self._acks.clear()

    def went_offline(self) -> None:
        """What was not confirmed is sent again: reports in a batch, every unreceipted event."""
        self.online = False
        self._held += self._live
        self._live.clear()
        for event in self._events.values():
            event.sent_ms = None

    def forget_reports(self) -> None:
        """A reboot without flash: the reports are gone, the events are not."""
        self._totals.reports_lost += len(self._held) + len(self._live)
        self._held.clear()
        self._live.clear()

    def next(self, now_ms: int) -> Message | None:
        """What to send now: acks, events, held reports oldest first, then live ones."""
        if self._acks and not (self._acks[0].after_reports and self._live):
            return Message(Uplink.ACKS, self._acks[0].payload)
        for event_id, event in self._events.items():
            if event.sent_ms is None or now_ms - event.sent_ms >= self._resend_after_ms:
                return Message(Uplink.EVENTS, event.payload, event_id=event_id)
        if self._held:
            return self._batch()
        if self._live:
            return Message(Uplink.TELEMETRY, self._live[0], reports=1)
        return None

    def sent(self, message: Message, now_ms: int) -> None:
        """The broker has confirmed `message`."""
        self._totals.sent += 1
        match message.uplink:
            case Uplink.TELEMETRY:
                self._live.popleft()
                self._totals.reports += 1
            case Uplink.TELEMETRY_BATCH:
                for _ in range(message.reports):
                    self._held.popleft()
                self._totals.batches += 1
                self._totals.batched_reports += message.reports
            case Uplink.EVENTS:
                self._event_sent(message.event_id, now_ms)
            case Uplink.ACKS if self._acks:
                self._acks.popleft()
                self._totals.acks += 1

    def receipted(self, payload: bytes) -> None:
        """Delete exactly the events that a receipt names; anything else changes nothing."""
        try:
            receipt = orjson.loads(payload)
        except orjson.JSONDecodeError:
            return
        ids = receipt.get("ids") if isinstance(receipt, dict) else None
        for event_id in ids if isinstance(ids, list) else ():
            if isinstance(event_id, str) and self._events.pop(event_id, None) is not None:
                self._totals.events_receipted += 1

    def _event_sent(self, event_id: str | None, now_ms: int) -> None:
        # A receipt can overtake the PUBACK: then the event is gone and was sent once.
        event = self._events.get(event_id or "")
        if event is not None and event.sent_before:
            self._totals.events_resent += 1
            event.sent_ms = now_ms
            return
        self._totals.events_sent += 1
        if event is not None:
            event.sent_before = True
            event.sent_ms = now_ms

    def _batch(self) -> Message:
        most_bytes = PAYLOAD_MAX if self._small else MESSAGE_MAX
        most_reports = _BATCH_OF_SMALL if self._small else SAMPLES_MAX
        chosen: list[bytes] = []
        size = 1  # brackets and commas: one more than there are reports
        for report in self._held:
            size += len(report) + 1
            if chosen and (size > most_bytes or len(chosen) == most_reports):
                break
            chosen.append(report)
        payload = b"[" + b",".join(chosen) + b"]"
        return Message(Uplink.TELEMETRY_BATCH, payload, reports=len(chosen))

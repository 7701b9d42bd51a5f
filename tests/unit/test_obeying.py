"""What a simulated scooter obeys: signed, in time, once, and only what the moment allows."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.contract import mac, messages, topics
from devices.contract.commands import COMMANDS, Command, build_command, rule_of
from devices.contract.messages import PAYLOAD_MAX
from devices.contract.topics import Uplink
from devices.simulator.city import City
from devices.simulator.duty import Overheard
from devices.simulator.firmware import Firmware, Link
from devices.simulator.outbox import Message
from devices.simulator.plan import CommandMishaps, FleetPlan, Mishaps, Obeyed, Totals
from devices.simulator.ride import Doing

CITY = City(seed=1)
SCOOTER = "WVWZZZ1JZXW000001"
TOPIC = topics.commands(SCOOTER)
KEY = bytes(range(32))
NOW_MS = 1_767_268_800_000
BOOT = 12
PARAMS: dict[str, dict[str, Any]] = {
    "headlight": {"on": True},
    "alarm": {"on": False},
    "set_speed_limit": {"kmh": 20},
    "set_report_interval": {"riding": 5, "parked": 60},
}


@dataclass
class Bench:
    """A scooter with a connection that takes everything at once, and what it did and said."""

    mishaps: CommandMishaps = field(default_factory=CommandMishaps)
    key: bytes | None = KEY
    seed: int = 1
    scooter_id: str = SCOOTER
    overheard: Overheard = field(default_factory=Overheard)
    now_ms: int = NOW_MS
    said: list[Message] = field(default_factory=list)
    obeyed: list[Obeyed] = field(default_factory=list)

    def __post_init__(self) -> None:
        quiet = dataclasses.replace(Mishaps.none(), commands=self.mishaps)
        self.totals = Totals()
        self.firmware = Firmware(
            self.scooter_id,
            FleetPlan(seed=self.seed, mishaps=quiet, rides=False, small_share=1.0),
            CITY,
            boot=BOOT,
            now_ms=self.now_ms,
            totals=self.totals,
            command_key=self.key,
            witness=self.obeyed.append,
            overheard=self.overheard,
        )
        self.connect()

    def connect(self) -> None:
        self.firmware.dial()
        self.firmware.birth()
        self.firmware.connected()
        self.let_pass(0)

    def let_pass(self, seconds: float) -> None:
        until_ms = self.now_ms + round(seconds * 1000)
        while True:
            self.firmware.step(self.now_ms)
            while (message := self.firmware.outbox.next(self.now_ms)) is not None:
                self.said.append(message)
                self.firmware.outbox.sent(message, self.now_ms)
            if self.now_ms >= until_ms:
                return
            self.now_ms = min(until_ms, self.now_ms + 100)

    def send(self, name: str, *, request: int = 1, n: int = 1, **changes: Any) -> bytes:  # noqa: ANN401
        """A command as the gateway would send it now, with `changes`."""
        command = Command(
            request_id=f"{request:016x}",
            command=name,
            params=PARAMS.get(name, {}),
            n=n,
            boot=BOOT,
            exp=self.firmware.up_ms + 20_000,
        )
        payload = build_command(dataclasses.replace(command, **changes))
        payload = (
            mac.sign(self.key, topics.commands(self.scooter_id), payload) if self.key else payload
        )
        self.hear(payload)
        return payload

    def hear(self, payload: bytes, *, retained: bool = False) -> None:
        self.firmware.hear_command(payload, retained=retained, now_ms=self.now_ms)
        self.let_pass(0)

    def acks(self) -> list[Any]:
        return [orjson.loads(each.payload) for each in self.said if each.uplink is Uplink.ACKS]

    def answers(self, request: int = 1) -> list[str]:
        """Statuses, an error in their place where there is one."""
        mine = [each for each in self.acks() if each["request_id"] == f"{request:016x}"]
        return [each.get("error", each["status"]) for each in mine]


def test_an_unlock_is_received_at_once_and_succeeds_when_the_bolt_is_open() -> None:
    bench = Bench()
    bench.send("unlock")
    assert bench.answers() == ["received"]
    bench.let_pass(3)
    assert bench.answers() == ["received", "success"]
    assert bench.acks()[-1]["lock"] == "unlocked"
    (done,) = bench.obeyed
    assert (done.request_id, done.command, done.boot) == (f"{1:016x}", "unlock", BOOT)
    assert done.exp_ms is not None
    assert done.up_ms <= done.exp_ms


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_of_the_table_is_obeyed_and_answered_within_the_contract(name: str) -> None:
    bench = Bench()
    bench.send(name)
    bench.let_pass(5)
    assert bench.answers() == ["received", "success"]
    for each in bench.said:
        if each.uplink is Uplink.ACKS:
            assert len(each.payload) <= PAYLOAD_MAX
            messages.ACK.validate_json(each.payload)
    orders = [(each["boot"], each["seq"]) for each in bench.acks()]
    assert orders == sorted(set(orders))


def test_get_state_is_answered_after_the_reports_it_asked_for() -> None:
    bench = Bench()
    bench.said.clear()
    bench.send("get_state")
    kinds = [each.uplink for each in bench.said]
    assert kinds[0] is kinds[-1] is Uplink.ACKS
    told = {
        key
        for each in bench.said
        if each.uplink is Uplink.TELEMETRY
        for key in orjson.loads(each.payload)
    }
    assert all(told & set(group) for group in messages.GROUPS.values())


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"exp": 0}, "expired"),
        ({"boot": BOOT - 1}, "expired"),
        ({"boot": BOOT + 1}, "expired"),
        ({"boot": None, "exp": None}, "expired"),
        ({"n": 0}, "replayed"),
        ({"n": 1}, "replayed"),
        ({"command": "open_sesame"}, "unknown_command"),
        ({"params": {"fast": True}}, "bad_params"),
    ],
    ids=str,
)
def test_an_unlock_is_not_obeyed_when(changes: dict[str, Any], error: str) -> None:
    bench = Bench()
    bench.let_pass(1)
    bench.send("headlight", request=7, n=1)
    bench.obeyed.clear()
    bench.send("unlock", **{"n": 2, **changes})
    bench.let_pass(5)
    assert bench.answers() == [error]
    assert bench.obeyed == []
    assert bench.firmware.ride.lock == "locked"


def test_a_scooter_with_a_key_obeys_nothing_unsigned_altered_or_of_another_topic() -> None:
    bench = Bench()
    good = mac.sign(
        KEY,
        TOPIC,
        b'{"request_id":"0000000000000001","command":"unlock","n":5,"boot":12,"exp":20000}',
    )
    unsigned = good[: good.index(b',"mac"')] + b"}"
    for bad in (
        unsigned,
        good.replace(b"20000", b"90000"),
        good.replace(b'"n":5', b'"n":6'),
        good.replace(b'"mac":"', b'"mac":"0')[:-3] + b'"}',
        mac.sign(KEY, topics.commands("SC-0002"), unsigned),
        mac.sign(bytes(32), TOPIC, unsigned),
    ):
        bench.hear(bad)
    bench.let_pass(5)
    assert set(bench.answers()) == {"bad_mac"}
    assert bench.obeyed == []

    bench.hear(good)  # forgeries were not remembered in its place
    assert [each.request_id for each in bench.obeyed] == ["0000000000000001"]


def test_a_scooter_without_a_key_obeys_what_is_not_signed() -> None:
    bench = Bench(key=None)
    bench.send("unlock")
    bench.let_pass(3)
    assert bench.answers() == ["received", "success"]


@pytest.mark.parametrize("payload", [b"", b"[]", b"{", b"null", b'{"request_id":7}', b"\xff" * 300])
@pytest.mark.parametrize("key", [KEY, None], ids=["with a key", "without"])
def test_what_no_gateway_sends_is_not_answered(payload: bytes, key: bytes | None) -> None:
    bench = Bench(key=key)
    bench.hear(payload)
    assert bench.acks() == []
    assert bench.totals.commands_ignored == 1


def test_an_end_of_time_without_its_boot_opens_nothing() -> None:
    """It would count anew after each boot; no gateway sends such."""
    bench = Bench()
    bench.let_pass(1)
    raw = b'{"request_id":"0000000000000001","command":"unlock","n":5,"exp":99999999}'
    bench.hear(mac.sign(bench.key, topics.commands(bench.scooter_id), raw) if bench.key else raw)
    bench.let_pass(5)
    assert bench.answers() == ["expired"]
    assert bench.obeyed == []


@pytest.mark.parametrize("key", [KEY, b"x" * 32], ids=["signed", "forged"])
def test_a_retained_command_is_refused_at_each_delivery_and_hides_no_later_one(key: bytes) -> None:
    bench = Bench()
    body = b'{"request_id":"0000000000000001","command":"locate","n":5}'
    bench.hear(mac.sign(key, TOPIC, body), retained=True)
    bench.hear(mac.sign(key, TOPIC, body), retained=True)
    assert bench.answers() == ["retained"] * 2
    assert [each["status"] for each in bench.acks()] == ["rejected"] * 2
    assert bench.obeyed == []
    bench.hear(mac.sign(KEY, TOPIC, body))
    assert bench.answers()[2:] == ["received", "success"]
    bench.hear(mac.sign(KEY, TOPIC, body), retained=True)
    assert bench.answers()[4:] == ["retained"]
    bench.hear(mac.sign(KEY, TOPIC, body))
    assert bench.answers()[5:] == ["success"]
    assert len(bench.obeyed) == 1


def test_a_retained_message_without_an_id_is_ignored() -> None:
    bench = Bench()
    bench.hear(b"kept", retained=True)
    assert bench.acks() == []
    assert bench.totals.commands_ignored == 1


def test_a_known_request_gets_the_stored_answer_and_nothing_is_done_twice() -> None:
    bench = Bench()
    bench.send("unlock", n=1)
    bench.send("unlock", n=2)  # while the bolt still turns
    bench.let_pass(3)
    bench.send("lock", request=2, n=3)
    bench.let_pass(3)
    bench.send("unlock", n=4)
    bench.send("unlock", n=1, exp=0)
    assert bench.answers() == ["received", "received", "success", "success", "success"]
    first, *again = [each for each in bench.acks() if each["request_id"] == f"{1:016x}"][2:]
    assert again == [first, first]
    assert [each.command for each in bench.obeyed] == ["unlock", "lock"]
    assert bench.firmware.ride.lock == "locked"


def test_the_memory_of_answers_is_bounded_and_what_falls_out_of_it_is_replayed() -> None:
    bench = Bench()
    for number in range(1, 61):
        bench.send("headlight", request=number, n=number)
    bench.send("headlight", request=1, n=1)
    assert bench.answers(1) == ["received", "success", "replayed"]
    assert len(bench.obeyed) == 60


@pytest.mark.parametrize("command", ["lock", "reboot", "power_off", "unlock_battery"])
def test_a_riding_scooter_says_that_it_moves_and_may_be_asked_again(command: str) -> None:
    bench = Bench()
    bench.firmware.ride.doing = Doing.RIDING
    bench.firmware.ride.speed_kmh = 15
    bench.send(command, n=1)
    assert bench.answers() == ["moving"]
    bench.firmware.ride.doing = Doing.READY
    bench.firmware.ride.speed_kmh = 0
    bench.send(command, n=2)
    bench.let_pass(3)
    assert bench.answers() == ["moving", "received", "success"]


def test_an_empty_scooter_does_not_unlock_and_a_turning_bolt_is_busy() -> None:
    bench = Bench()
    bench.firmware.ride.battery_percent = 1
    bench.send("unlock", n=1)
    assert bench.answers() == ["low_battery"]
    bench.firmware.ride.battery_percent = 80
    bench.send("unlock", request=2, n=2)
    bench.send("lock", request=3, n=3)
    assert bench.answers(3) == ["busy"]


def test_a_reboot_is_answered_first_then_the_scooter_has_another_boot() -> None:
    bench = Bench()
    old = bench.send("unlock")
    bench.let_pass(3)
    bench.send("lock", request=2, n=2)
    bench.let_pass(3)
    bench.send("reboot", request=3, n=3)
    bench.let_pass(0.2)
    assert bench.answers(3) == ["received", "success"]
    assert bench.firmware.link is Link.REBOOTING
    bench.let_pass(4)
    assert (bench.firmware.link, bench.firmware.boot) == (Link.UP, BOOT + 1)
    bench.connect()
    bench.hear(old)
    assert bench.answers()[-1] == "expired"
    bench.send("unlock", request=4, n=1, boot=BOOT + 1)
    bench.let_pass(3)
    assert bench.answers(4) == ["received", "success"]


def test_a_switched_off_scooter_says_offline_and_comes_back_with_another_boot() -> None:
    bench = Bench()
    bench.send("power_off")
    bench.let_pass(0.2)
    assert bench.answers() == ["received", "success"]
    assert bench.firmware.link is Link.OFF
    bench.let_pass(200)
    assert (bench.firmware.link, bench.firmware.boot) == (Link.UP, BOOT + 1)


def test_an_interval_and_a_limit_are_kept() -> None:
    bench = Bench()
    bench.send("set_report_interval", request=1, n=1)
    bench.send("set_speed_limit", request=2, n=2)
    assert bench.firmware.ride.limit_kmh == 20
    bench.said.clear()
    bench.let_pass(240)
    reports = [orjson.loads(each.payload) for each in bench.said]
    assert all(each["ivl"] == 60 for each in reports)
    assert len({each["up"] for each in reports}) <= 5


def of_kind(**shares: float) -> CommandMishaps:
    return CommandMishaps(**shares)


def test_a_late_answer_comes_when_it_is_due() -> None:
    bench = Bench(of_kind(late=1.0, late_s=30))
    bench.send("unlock")
    bench.let_pass(29)
    assert bench.answers() == []
    bench.let_pass(5)
    assert bench.answers() == ["received", "success"]
    assert len(bench.obeyed) == 1


def test_a_double_answer_is_the_same_twice() -> None:
    bench = Bench(of_kind(twice=1.0))
    bench.send("headlight")
    assert bench.answers() == ["received", "received", "success", "success"]
    assert len({each["seq"] for each in bench.acks()}) == 2


def test_a_wrong_answer_comes_before_the_true_ones() -> None:
    bench = Bench(of_kind(wrong=1.0))
    bench.send("headlight")
    assert bench.answers()[1:] == ["received", "success"]
    assert bench.answers()[0] in {"success", "error", "rejected"}


def test_a_silent_scooter_obeys_and_never_answers() -> None:
    bench = Bench(of_kind(never=1.0))
    bench.send("unlock", n=1)
    bench.let_pass(3)
    bench.send("unlock", n=2)
    assert bench.acks() == []
    assert bench.firmware.ride.lock == "unlocked"
    assert len(bench.obeyed) == 1


def test_a_foreign_answer_names_the_command_of_another_scooter() -> None:
    overheard = Overheard()
    other = Bench(scooter_id="SC-0002", overheard=overheard)
    other.send("headlight", request=0xABC)
    bench = Bench(of_kind(foreign=1.0), overheard=overheard)
    bench.send("headlight")
    assert bench.answers() == []
    assert bench.answers(0xABC) == ["received", "success"]


def test_a_jammed_bolt_is_an_error_that_says_so() -> None:
    bench = Bench(of_kind(jam=1.0))
    bench.send("unlock")
    bench.let_pass(3)
    assert bench.answers() == ["received", "jammed"]
    assert bench.acks()[-1]["lock"] == "jammed"


def test_a_reboot_in_the_middle_answers_nothing_and_obeys_at_most_once() -> None:
    seen = set()
    for seed in range(12):
        bench = Bench(of_kind(reboot=1.0), seed=seed)
        payload = bench.send("unlock")
        assert bench.firmware.link is Link.REBOOTING
        bench.let_pass(5)
        bench.connect()
        bench.hear(payload)
        assert bench.answers() == ["expired"]
        seen.add(len(bench.obeyed))
    assert seen == {0, 1}


@settings(max_examples=60, deadline=None)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_whatever_is_sent_nothing_is_obeyed_late_or_twice_within_a_boot(
    data: st.DataObject, seed: int
) -> None:
    shares = CommandMishaps(late=0.1, twice=0.1, wrong=0.1, never=0.1, reboot=0.1, jam=0.1)
    bench = Bench(shares, seed=seed)
    sent: list[bytes] = []
    n = 0
    for _ in range(data.draw(st.integers(1, 25))):
        match data.draw(st.sampled_from(["new", "copy", "again", "wait", "long"])):
            case "new":
                n += 1
                exp = bench.firmware.up_ms + data.draw(st.integers(-5_000, 20_000))
                sent.append(
                    bench.send(
                        data.draw(st.sampled_from(sorted(COMMANDS))),
                        request=n,
                        n=n,
                        boot=bench.firmware.boot,
                        exp=max(0, exp),
                    )
                )
            case "copy" if sent:
                bench.hear(data.draw(st.sampled_from(sent)))
            case "wait":
                bench.let_pass(data.draw(st.floats(0, 3)))
            case "long":
                bench.let_pass(60)
        if bench.firmware.link is Link.UP and not bench.firmware.outbox.online:
            bench.connect()
    done = [(each.boot, each.request_id) for each in bench.obeyed]
    assert len(done) == len(set(done))
    assert all(each.exp_ms is None or each.up_ms <= each.exp_ms for each in bench.obeyed)
    assert len({request_id for _, request_id in done}) == len(done)
    counted = bench.totals
    assert counted.commands == (
        counted.commands_obeyed
        + counted.commands_rejected
        + counted.commands_repeated
        + counted.commands_ignored
    )
    assert all(rule_of(each.command) for each in bench.obeyed)


def test_a_scooter_does_not_fall_asleep_over_a_command() -> None:
    sleepy = dataclasses.replace(Mishaps.none(), sleeps_per_h=3_600_000)
    plan = FleetPlan(seed=1, mishaps=sleepy, rides=False)
    scooter = Firmware(SCOOTER, plan, CITY, boot=BOOT, now_ms=NOW_MS)
    command = Command(request_id="1" * 16, command="get_state", params={}, n=1, boot=BOOT, exp=1000)
    scooter.hear_command(build_command(command), retained=False, now_ms=NOW_MS)
    scooter.step(NOW_MS + 500)
    assert scooter.link.is_running
    while (message := scooter.outbox.next(NOW_MS + 500)) is not None:
        scooter.outbox.sent(message, NOW_MS + 500)
    scooter.step(NOW_MS + 1000)
    assert scooter.link is Link.ASLEEP

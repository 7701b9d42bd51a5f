"""The doctor finds a broker that does not keep logins apart, by what arrives there."""

from pathlib import Path

import pytest

from broker.accounts import new_secret
from broker.certificates import ensure_authority
from devices.console.exits import Exit
from gateway.console.doctor_access import examine_access
from gateway.console.doctor_listeners import examine_listeners
from gateway.console.doctor_report import Report
from gateway.links.broker import broker_address
from gateway.links.probe import open_probe
from gateway.local.servers import Servers, free_port
from gateway.settings import Settings
from tests.certificates import Authority
from tests.command_line import scooter


def settings_of(servers: Servers, **others: object) -> Settings:
    given = {
        "mqtt_host": servers.mqtt_host,
        "mqtt_port": servers.mqtt_port,
        "mqtt_username": servers.mqtt_username,
        "mqtt_password": servers.mqtt_password,
        "mqtt_admin_password": servers.mqtt_admin_password,
        "mqtt_public_host": "localhost",
        "mqtt_scooters_port": servers.mqtt_scooters_port,
        "mqtt_operators_port": servers.mqtt_operators_port,
        "mqtt_authority_file": servers.authority_file,
    }
    return Settings(_env_file=None, **(given | others))  # type: ignore[arg-type]


def change(servers: Servers, file: str, old: str, new: str) -> None:
    """Replace text in one of the broker's files, and start it again."""
    path = servers.folder / "mosquitto" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    servers.mosquitto.stop()
    servers.mosquitto.start()


def told(report: Report) -> str:
    return "\n".join(report.findings)


async def test_the_shipped_broker_keeps_logins_apart(own_mosquitto: Servers) -> None:
    settings = settings_of(own_mosquitto)

    access = await examine_access(settings)
    listeners = await examine_listeners(settings)

    assert access.findings == listeners.findings == []
    assert access.facts["kept_apart"]
    assert {"gateway", "scooters", "operators"} <= {*listeners.facts}
    assert (listeners.unexamined, listeners.verdict) == ([], "ok")


async def test_a_broker_that_everybody_may_do_everything_at_fails_the_doctor(
    own_mosquitto: Servers,
) -> None:
    acl = own_mosquitto.folder / "mosquitto" / "acl"
    acl.write_text("pattern readwrite #\n")
    own_mosquitto.mosquitto.stop()
    own_mosquitto.mosquitto.start()

    ended = await scooter(
        "doctor",
        mqtt_port=own_mosquitto.mqtt_port,
        mqtt_username="gateway",
        mqtt_password=own_mosquitto.mqtt_password,
        mqtt_admin_password=own_mosquitto.mqtt_admin_password,
        redis_url="redis://127.0.0.1:1",
    )

    assert ended.code == Exit.FAILED
    line = next(line for line in ended.lines if "`admin` may publish to" in line)
    for topic in ("scooters/+/telemetry", "scooters/+/commands", "operators/+/commands"):
        assert topic in line
    assert "it arrives" in line
    assert "broker/acl" in line
    assert "`admin` may read" in ended.out


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("pattern write scooters/+/telemetry", "publish to scooters/+/telemetry, and it arrives"),
        ("pattern write scooters/+/status", "publish to scooters/+/status, and it arrives"),
        ("pattern write operators/+/commands", "publish to operators/+/commands, and it arrives"),
        ("pattern write scooters/+/commands", "publishes to scooters/+/commands"),
        ("pattern write scooters/%u/commands", "publish to scooters/admin/commands, and it"),
        ("pattern write scooters/%c/commands", "publishes to scooters/+/commands"),
        ("pattern write scooters/+/receipts", "publishes to scooters/+/receipts"),
        ("pattern write scooters/%u/#", "publish to scooters/admin/commands, scooters/admin/rec"),
        ("pattern write operators/+/replies", "publishes to operators/+/replies"),
        ("pattern write operators/%u/replies", "publish to operators/admin/replies, and it"),
        ("pattern write gateway/#", "publish to gateway/+/echo, gateway/+/status, gateway/admin/"),
        ("pattern write gateway/+/status", "publish to gateway/+/status, gateway/admin/status"),
        ("pattern write gateway/%u/status", "publish to gateway/admin/status, and it arrives"),
        ("pattern readwrite #", "publish to gateway/+/echo, gateway/+/status"),
        ("pattern read scooters/#", "may read scooters/+/commands, scooters/+/receipts"),
        ("pattern read operators/+/replies", "may read operators/+/replies"),
        ("pattern read gateway/#", "may read gateway/+/echo"),
    ],
)
async def test_one_pattern_that_is_too_wide_is_found(
    own_mosquitto: Servers, line: str, sentence: str
) -> None:
    first = "pattern write scooters/%u/telemetry\n"
    change(own_mosquitto, "acl", first, f"{first}{line}\n")

    assert sentence in told(await examine_access(settings_of(own_mosquitto)))


async def test_an_admin_that_may_nothing_is_found_because_it_proves_nothing(
    own_mosquitto: Servers,
) -> None:
    change(own_mosquitto, "acl", "user canary\n", "user admin\ntopic deny #\n\nuser canary\n")

    found = told(await examine_access(settings_of(own_mosquitto)))

    assert "`admin` may not publish to scooters/admin/status" in found
    assert "was not tried" in found


async def test_a_gateway_hears_nothing_of_what_the_doctor_tries(own_mosquitto: Servers) -> None:
    settings = settings_of(own_mosquitto)
    broker = broker_address(settings)
    async with open_probe(broker) as probe:
        await probe.connect(broker, "watching", clean_start=True, session_expiry_s=0)
        await probe.subscribe("scooters/#", "operators/#", "gateway/+/status")
        await examine_access(settings)
        await examine_listeners(settings)
        await probe.subscribe("end")

    assert [each.topic for each in probe.deliveries] == []


async def test_a_gateway_that_may_forge_telemetry_is_found(own_mosquitto: Servers) -> None:
    right = "topic read scooters/+/telemetry\n"
    change(own_mosquitto, "acl", right, right.replace("read", "readwrite"))

    report = await examine_access(settings_of(own_mosquitto))

    assert "the gateway's account may publish to scooters/+/telemetry" in told(report)
    assert not report.facts["kept_apart"]


async def test_silence_proves_nothing_when_not_even_the_control_arrives(
    own_mosquitto: Servers,
) -> None:
    change(own_mosquitto, "acl", "topic readwrite gateway/#", "topic write gateway/#")

    report = await examine_access(settings_of(own_mosquitto))

    assert "publishes to gateway/+/echo and does not hear it" in told(report)


async def test_a_wrong_secret_of_admin_is_found_and_none_is_noted(own_mosquitto: Servers) -> None:
    wrong = await examine_access(settings_of(own_mosquitto, mqtt_admin_password=new_secret()))
    unset = await examine_access(settings_of(own_mosquitto, mqtt_admin_password=None))

    assert "SCOOTER_MQTT_ADMIN_PASSWORD" in told(wrong)
    assert unset.findings == []
    assert any("SCOOTER_MQTT_ADMIN_PASSWORD is not set" in note for note in unset.notes)


async def test_a_listener_that_lets_nobody_in_particular_in_is_found(
    own_mosquitto: Servers,
) -> None:
    change(own_mosquitto, "mosquitto.conf", "allow_anonymous false", "allow_anonymous true")

    report = await examine_listeners(settings_of(own_mosquitto))

    # The others force the user name as client id, and nobody has none.
    assert "the listener for gateway" in told(report)
    assert "lets in whoever names nobody" in told(report)
    assert "wrong secret" not in told(report)


async def test_a_broker_without_passwords_is_found(own_mosquitto: Servers) -> None:
    config = own_mosquitto.folder / "mosquitto" / "mosquitto.conf"
    lines = config.read_text().replace("allow_anonymous false", "allow_anonymous true")
    kept = [line for line in lines.splitlines() if not line.startswith("password_file")]
    config.write_text("\n".join(kept) + "\n")
    own_mosquitto.mosquitto.stop()
    own_mosquitto.mosquitto.start()

    found = told(await examine_listeners(settings_of(own_mosquitto)))

    assert "lets in the user gateway with a wrong secret" in found
    assert "lets in a user that does not exist" in found


async def test_a_listener_that_leaves_the_client_id_free_is_found(own_mosquitto: Servers) -> None:
    change(
        own_mosquitto,
        "mosquitto.conf",
        "use_username_as_clientid true",
        "use_username_as_clientid false",
    )

    found = told(await examine_listeners(settings_of(own_mosquitto)))

    assert "the listener for scooters leaves the client id free" in found
    assert "the listener for operators leaves the client id free" in found


async def test_a_certificate_that_scooters_would_refuse_is_found(
    own_mosquitto: Servers, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other")

    report = await examine_listeners(settings_of(own_mosquitto, mqtt_authority_file=other.ca))
    missing = await examine_listeners(
        settings_of(own_mosquitto, mqtt_authority_file=tmp_path / "nothing.crt")
    )

    assert "the listener for scooters" in told(report)
    assert "a certificate that is not accepted" in told(report)
    assert "SCOOTER_MQTT_AUTHORITY_FILE cannot be read" in told(missing)


async def test_listeners_that_cannot_be_reached_from_here_are_told_as_not_examined(
    own_mosquitto: Servers,
) -> None:
    report = await examine_listeners(
        settings_of(own_mosquitto, mqtt_scooters_port=free_port(), mqtt_operators_port=free_port())
    )

    assert report.findings == []
    assert sum("cannot be reached from here" in each for each in report.unexamined) == 2
    assert report.verdict == "ok as far as examined"  # the gateway's own


async def test_no_secret_is_told(own_mosquitto: Servers) -> None:
    settings = settings_of(own_mosquitto)
    change(own_mosquitto, "mosquitto.conf", "allow_anonymous false", "allow_anonymous true")

    everything = str([await examine_access(settings), await examine_listeners(settings)])

    assert own_mosquitto.mqtt_password not in everything
    assert own_mosquitto.mqtt_admin_password not in everything


async def test_where_the_public_name_leads_nowhere_listeners_are_examined_where_the_gateway_is(
    own_mosquitto: Servers,
) -> None:
    settings = settings_of(own_mosquitto, mqtt_public_host="mqtt.invalid")
    unnamed = await examine_listeners(settings)
    ensure_authority(own_mosquitto.authority_file.parent, names=["mqtt.invalid"])
    own_mosquitto.mosquitto.stop()
    own_mosquitto.mosquitto.start()

    report = await examine_listeners(settings)

    assert "certificate that is not accepted" in told(unnamed)  # as scooters would say
    assert report.findings == report.unexamined == []
    assert {"scooters_certificate_ends", "operators_certificate_ends"} <= {*report.facts}
    assert "of 127.0.0.1, as mqtt.invalid" in str(report.facts["scooters"])


async def test_listeners_on_their_usual_ports_are_found_behind_published_ones(
    own_mosquitto: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mqtt_scooters_port", "mqtt_operators_port"):
        monkeypatch.setattr(Settings.model_fields[name], "default", getattr(own_mosquitto, name))

    report = await examine_listeners(
        settings_of(own_mosquitto, mqtt_scooters_port=free_port(), mqtt_operators_port=free_port())
    )

    assert report.findings == report.unexamined == []
    assert "operators_certificate_ends" in report.facts

"""TLS: the broker proves itself to the gateway, and the gateway to the broker."""

from pathlib import Path

import pytest
import structlog

from gateway.errors import SettingsError
from gateway.links.broker import broker_address
from gateway.local.servers import Servers
from gateway.settings import Settings
from tests.certificates import Authority
from tests.mqtt_session import plan, running, send
from tests.services import servers_of_tests


def settings(servers: Servers, authority: Authority, **changes: object) -> Settings:
    values = {
        "mqtt_host": servers.mqtt_host,
        "mqtt_port": servers.mqtt_tls_port,
        "mqtt_ca_file": authority.ca,
        **changes,
    }
    return Settings(_env_file=None, **values)  # type: ignore[arg-type]


async def test_tls_with_a_password(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with servers_of_tests(tmp_path / "s", kinds=["mosquitto"], tls=authority.listener()) as servers:
        address = broker_address(
            settings(
                servers,
                authority,
                mqtt_username=servers.mqtt_username,
                mqtt_password=servers.mqtt_password,
            )
        )
        async with running(address, plan("tls")) as run:
            payloads = [b"x" * 4000] * 300
            await send(servers.mqtt_host, servers.mqtt_port, "scooters/tls/telemetry", payloads)
            await run.until(lambda: len(run.payloads) >= 300, "all deliveries")
            assert run.balance() == 0


async def test_tls_with_a_client_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tls = authority.listener(require_certificate=True)
    own = authority.issue("gateway")
    with servers_of_tests(tmp_path / "s", kinds=["mosquitto"], tls=tls) as servers:
        certified = settings(
            servers, authority, mqtt_certificate_file=own.certificate, mqtt_key_file=own.key
        )
        async with running(broker_address(certified), plan("tls")) as run:
            await send(servers.mqtt_host, servers.mqtt_port, "scooters/tls/telemetry", [b"x"])
            await run.until(lambda: run.payloads == [b"x"], "the delivery")


async def test_a_broker_of_another_authority_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    authority, other = Authority(tmp_path), Authority(tmp_path / "other")
    with servers_of_tests(tmp_path / "s", kinds=["mosquitto"], tls=authority.listener()) as servers:
        with structlog.testing.capture_logs() as logs:
            address = broker_address(settings(servers, other))
            async with running(address, plan("tls"), connected=False) as run:
                await run.until(lambda: bool(logs), "a log line")
                assert not run.session.connected
        assert "certificate verify failed" in logs[0]["reason"].lower()


def test_a_certificate_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    missing = Settings(_env_file=None, mqtt_ca_file=tmp_path / "no.crt")
    with pytest.raises(SettingsError, match="SCOOTER_MQTT_CA_FILE"):
        broker_address(missing)

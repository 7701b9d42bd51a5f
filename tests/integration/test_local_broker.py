"""Our own broker: who gets in, and what was handed out holds after the next start."""

import asyncio
import socket
import ssl
from pathlib import Path

import pytest
from aiomqtt import Client, MqttError

from broker.accounts import new_secret, read_logins, secret_hash
from broker.mosquitto import MosquittoBroker, parse_reload
from gateway.local.servers import Servers
from tests.accounts import LOAD, Login
from tests.certificates import Authority


def mqtt(
    servers: Servers,
    *,
    login: Login | None = None,
    port: int | None = None,
    tls: ssl.SSLContext | None = None,
) -> Client:
    """A client of the gateway's account, or of another."""
    username, password = login or (servers.mqtt_username, servers.mqtt_password)
    return Client(
        servers.mqtt_host,
        port or servers.mqtt_port,
        username=username,
        password=password,
        tls_context=tls,
    )


def scooter(servers: Servers, scooter_id: str, secret: str, tls: ssl.SSLContext) -> Client:
    login = Login(scooter_id, secret)
    return mqtt(servers, login=login, port=servers.mqtt_scooters_port, tls=tls)


def broker_of(servers: Servers) -> MosquittoBroker:
    return MosquittoBroker(
        host=servers.mqtt_host,
        port=servers.mqtt_port,
        admin_password=servers.mqtt_admin_password,
        password_file=servers.password_file,
        reload=parse_reload(servers.broker_reload, servers.password_file),
    )


def places(servers: Servers) -> tuple[int, int, int]:
    return servers.mqtt_port, servers.mqtt_operators_port, servers.mqtt_scooters_port


def written_pid(servers: Servers) -> int:
    return int(Path(servers.broker_reload.removeprefix("pid:")).read_text())


async def test_what_was_handed_out_holds_after_the_next_start(tmp_path: Path) -> None:
    """A scooter's secret, the port in its bundle, the authority it trusts."""
    secret = new_secret()
    with Servers(tmp_path, kinds=["mosquitto"]) as servers:
        admitted = await broker_of(servers).admit({"SC-0001": secret_hash(secret)})
        assert (admitted.logins, admitted.file) == (1, servers.password_file)
        told = places(servers)
        authority = servers.authority_file.read_text()

    with Servers(tmp_path, kinds=["mosquitto"]) as servers:
        assert places(servers) == told
        tls = ssl.create_default_context(cadata=authority)
        async with scooter(servers, "SC-0001", secret, tls) as client:
            await client.publish("scooters/SC-0001/telemetry", b"{}", qos=1)


async def test_a_port_that_somebody_took_meanwhile_is_left_to_them(tmp_path: Path) -> None:
    with Servers(tmp_path, kinds=["mosquitto"]) as servers:
        before = places(servers)
    with (
        socket.create_server(("127.0.0.1", before[0])),
        Servers(tmp_path, kinds=["mosquitto"]) as servers,
    ):
        after = places(servers)

    assert after[0] != before[0]
    assert after[1:] == before[1:]


async def test_a_fresh_start_forgets_who_got_in_and_the_authority(tmp_path: Path) -> None:
    secret = new_secret()
    with Servers(tmp_path, kinds=["mosquitto"]) as servers:
        await broker_of(servers).admit({"SC-0001": secret_hash(secret)})
        before = servers.authority_file.read_text(), servers.mqtt_password

    with Servers(tmp_path, kinds=["mosquitto"], fresh=True) as servers:
        assert read_logins(servers.password_file) == {}
        assert servers.authority_file.read_text() != before[0]
        assert servers.mqtt_password != before[1]


async def test_only_its_own_accounts_get_in_and_the_tests_account_is_none_of_them(
    own_mosquitto: Servers, tmp_path: Path
) -> None:
    async with mqtt(own_mosquitto, login=LOAD) as client:
        await client.publish("scooters/SC-0001/telemetry", b"{}", qos=1)
    with Servers(tmp_path / "shipped", kinds=["mosquitto"]) as servers:
        async with mqtt(servers), mqtt(servers, login=Login("admin", servers.mqtt_admin_password)):
            pass
        for login in (LOAD, Login("gateway", "guessed"), Login("admin", "")):
            with pytest.raises(MqttError, match="Not authorized"):
                async with mqtt(servers, login=login):
                    pass
        with pytest.raises(MqttError, match="Not authorized"):
            async with Client(servers.mqtt_host, servers.mqtt_port):
                pass
        assert LOAD.username not in servers.password_file.read_text()


async def test_the_pid_file_names_the_broker_itself_also_after_a_kill(
    own_mosquitto: Servers,
) -> None:
    assert written_pid(own_mosquitto) == own_mosquitto.mosquitto.pid
    own_mosquitto.mosquitto.kill()
    own_mosquitto.mosquitto.start()

    assert written_pid(own_mosquitto) == own_mosquitto.mosquitto.pid
    assert (await broker_of(own_mosquitto).admit({})).reload == own_mosquitto.broker_reload


async def test_the_tls_listener_asks_for_a_certificate_and_takes_its_name(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tls = authority.listener(require_certificate=True)
    trusting = ssl.create_default_context(cafile=str(authority.ca))
    gateway = authority.issue("gateway")
    known = ssl.create_default_context(cafile=str(authority.ca))
    known.load_cert_chain(gateway.certificate, gateway.key)

    with Servers(tmp_path / "servers", kinds=["mosquitto"], tls=tls) as servers:
        port = servers.mqtt_tls_port
        async with mqtt(servers, port=port, tls=known) as client:
            await client.subscribe("gateway/g1/echo", qos=1)
            await client.publish("gateway/g1/echo", b"hello", qos=1)
            assert (await anext(client.messages)).payload == b"hello"
        reader, writer = await asyncio.open_connection(servers.mqtt_host, port, ssl=trusting)
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
            await reader.read()
        writer.close()

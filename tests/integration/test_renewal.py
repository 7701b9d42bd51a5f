"""The broker's certificate is renewed while it runs, by the README's command and a reload."""

import asyncio
import re
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509

from broker.mosquitto import parse_reload
from gateway.local.servers import Servers
from tests.bundles import admit
from tests.command_line import logged_in
from tests.eventually import eventually

pytestmark = pytest.mark.integration

_README = Path(__file__).parents[2] / "README.md"


def command() -> list[str]:
    """The README's, for this Python."""
    (code,) = re.findall(
        r"^\.venv/bin/python -c '(.*?)'$", _README.read_text(), re.MULTILINE | re.DOTALL
    )
    return [sys.executable, "-c", code]


async def _names(servers: Servers) -> list[str]:
    """For which the broker's certificate holds, as whoever connects now sees it."""
    trusting = ssl.create_default_context(cafile=servers.authority_file)
    _, writer = await asyncio.open_connection("127.0.0.1", servers.mqtt_scooters_port, ssl=trusting)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    alternatives = x509.load_der_x509_certificate(shown).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    return alternatives.value.get_values_for_type(x509.DNSName)


async def test_whoever_is_connected_stays_and_whoever_comes_sees_the_new_certificate(
    own_mosquitto: Servers,
) -> None:
    servers = own_mosquitto
    bundle = (await admit(servers, ["SC-0001"]))["SC-0001"]
    login = {
        "host": bundle.host,
        "port": bundle.port,
        "username": bundle.username,
        "secret": bundle.secret,
        "authority": bundle.authority_pem,
    }
    async with logged_in(login) as before:
        assert "mqtt.example.org" not in await _names(servers)
        # The same as when its end is near: other names.
        subprocess.run(command(), cwd=servers.folder, check=True)  # noqa: S603, ASYNC221
        await parse_reload(servers.broker_reload, servers.password_file).request()

        async def is_new() -> bool:
            return "mqtt.example.org" in await _names(servers)

        await eventually(is_new, what="the broker to show its new certificate")
        assert await before.publish("scooters/SC-0001/telemetry", b"{}")
        before.leave()
    async with logged_in(login) as after:  # trusts the same authority
        after.leave()

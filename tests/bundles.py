"""Scooters that get in with a credential of their own, as provisioning hands it over."""

from collections.abc import Iterable
from typing import Final

from broker.accounts import new_secret, secret_hash
from broker.mosquitto import MosquittoBroker, parse_reload
from devices.bundle import Bundle, scooter_topics
from devices.contract.mac import command_key
from gateway.local.servers import Servers

FLEET_SECRET: Final = "only-for-tests-and-long-enough-to-sign"  # noqa: S105 - public on purpose


async def admit(servers: Servers, ids: Iterable[str]) -> dict[str, Bundle]:
    """A bundle for each of these scooters; exactly these get in from now on."""
    bundles = {each: _bundle(servers, each) for each in ids}
    broker = MosquittoBroker(
        host=servers.mqtt_host,
        port=servers.mqtt_port,
        admin_password=servers.mqtt_admin_password,
        password_file=servers.password_file,
        reload=parse_reload(servers.broker_reload, servers.password_file),
    )
    await broker.admit({each: secret_hash(bundle.secret) for each, bundle in bundles.items()})
    return bundles


def _bundle(servers: Servers, scooter_id: str) -> Bundle:
    return Bundle(
        username=scooter_id,
        secret=new_secret(),
        host=servers.mqtt_host,
        port=servers.mqtt_scooters_port,
        authority_pem=servers.authority_file.read_text(),
        topics=scooter_topics(scooter_id),
        command_key=command_key(FLEET_SECRET, scooter_id, 1),
    )

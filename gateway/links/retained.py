"""The status that the broker retains of a scooter: cleared, and proved to be gone."""

import secrets

from devices.contract import topics
from devices.contract.topics import Uplink
from gateway.errors import ServerAway
from gateway.links.broker import BrokerAddress
from gateway.links.probe import open_probe


async def clear_status(broker: BrokerAddress, scooter_id: str) -> bool:
    """Whether the broker retains no status of the scooter any more; may be repeated.

    Raises ServerAway, also when our own message does not come back: then nobody can tell.
    """
    name = f"forget-{secrets.token_hex(4)}"
    status, echo = topics.uplink(scooter_id, Uplink.STATUS), topics.echo(name)
    async with open_probe(broker) as probe:
        await probe.connect(broker, name, clean_start=True, session_expiry_s=0)
        await probe.publish(status, b"", retain=True)
        # What is retained is delivered at once, before the echo that is sent after it.
        await probe.subscribe(status, echo)
        await probe.publish(echo, b"forget", packet_id=2)
        await probe.receive(1, within_s=2.0)
        probe.leave()
        told = [each.topic for each in probe.deliveries]
    if not told:
        raise ServerAway("broker", "our own message does not come back: see `scooter doctor`")
    return status not in told

"""The shipped broker files, filled with the ports, paths and user of the place where they run."""

from dataclasses import dataclass
from pathlib import Path

SHIPPED_CONFIG = Path(__file__).with_name("mosquitto.conf")
SHIPPED_ACL = Path(__file__).with_name("acl")


@dataclass(frozen=True, slots=True)
class Ports:
    """Where each of the shipped listeners is; 8883 is kept for scooters with certificates."""

    internal: int = 8884
    operators: int = 8885
    scooters: int = 8886


@dataclass(frozen=True, slots=True)
class Tls:
    """One more listener with TLS; with `require_certificate` a client is its certificate's CN."""

    ca: Path
    certificate: Path
    key: Path
    require_certificate: bool = False


def fill_config(
    *,
    data: Path,
    passwords: Path,
    acl: Path,
    certificate: Path,
    key: Path,
    ports: Ports | None = None,
    address: str | None = None,
    internal_address: str = "127.0.0.1",
    user: str = "mosquitto",
) -> str:
    """The text of mosquitto.conf as shipped, with these ports, addresses, paths and user.

    `data` holds the persistence and `mosquitto.pid`; `address` None is every interface, for
    scooters and operators; `user` is who a broker that was started as root becomes.
    Raises ValueError when the shipped file does not have each of these lines.
    """
    ports = ports or Ports()
    public = f" {address}" if address else ""
    shipped = Ports()
    filled = {
        f"listener {shipped.internal}": f"listener {ports.internal} {internal_address}",
        f"listener {shipped.operators}": f"listener {ports.operators}{public}",
        f"listener {shipped.scooters}": f"listener {ports.scooters}{public}",
        "persistence_location": f"persistence_location {data}/",
        "pid_file": f"pid_file {data}/mosquitto.pid",
        "password_file": f"password_file {passwords}",
        "acl_file": f"acl_file {acl}",
        "certfile": f"certfile {certificate}",
        "keyfile": f"keyfile {key}",
        "user": f"user {user}",
    }
    text = SHIPPED_CONFIG.read_text()
    for start, line in filled.items():
        text = _fill(text, start, line)
    return text


def tls_listener(tls: Tls, *, port: int, address: str = "127.0.0.1") -> str:
    """The lines that add a listener with TLS and free client ids to a filled configuration."""
    lines = [
        f"listener {port} {address}",
        f"cafile {tls.ca}",
        f"certfile {tls.certificate}",
        f"keyfile {tls.key}",
    ]
    if tls.require_certificate:
        lines += ["require_certificate true", "use_identity_as_username true"]
    return "\n".join(lines) + "\n"


def _fill(text: str, start: str, line: str) -> str:
    lines = text.splitlines()
    places = [n for n, each in enumerate(lines) if f"{each} ".startswith(f"{start} ")]
    if not places:
        raise ValueError(f"{SHIPPED_CONFIG} has no line `{start}`")
    for place in places:
        lines[place] = line
    return "\n".join(lines) + "\n"

"""The shipped broker files, filled with the ports and paths of the place where they run."""

from dataclasses import dataclass
from pathlib import Path

SHIPPED_CONFIG = Path(__file__).with_name("mosquitto.conf")
SHIPPED_ACL = Path(__file__).with_name("acl")


@dataclass(frozen=True, slots=True)
class Tls:
    """A second listener with TLS; with `require_certificate` a client is its certificate's CN."""

    ca: Path
    certificate: Path
    key: Path
    require_certificate: bool = False


def fill_config(
    *, port: int, data: Path, passwords: Path, acl: Path, address: str = "127.0.0.1"
) -> str:
    """The text of mosquitto.conf as shipped, with this port, address and these paths.

    Raises ValueError when the shipped file does not have each of these lines exactly once.
    """
    filled = {
        "listener": f"listener {port} {address}",
        "persistence_location": f"persistence_location {data}/",
        "password_file": f"password_file {passwords}",
        "acl_file": f"acl_file {acl}",
    }
    lines = SHIPPED_CONFIG.read_text().splitlines()
    for keyword, line in filled.items():
        (position,) = (n for n, each in enumerate(lines) if each.startswith(f"{keyword} "))
        lines[position] = line
    return "\n".join(lines) + "\n"


def tls_listener(tls: Tls, *, port: int, address: str = "127.0.0.1") -> str:
    """The lines that add a listener with TLS to a filled configuration."""
    lines = [
        f"listener {port} {address}",
        f"cafile {tls.ca}",
        f"certfile {tls.certificate}",
        f"keyfile {tls.key}",
    ]
    if tls.require_certificate:
        lines += ["require_certificate true", "use_identity_as_username true"]
    return "\n".join(lines) + "\n"

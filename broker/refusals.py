"""How Mosquitto 2.0 tells a machine that it refused a login: in its log, which it publishes too."""

from typing import Final

REFUSALS: Final = "$SYS/broker/log/N"
"""Notices, one a message; only the gateway may read them, and each connection is told as well."""

_REFUSED: Final = b" disconnected, not authorised."


def is_refusal(line: bytes) -> bool:
    """Whether a message on `REFUSALS` is a login refused: wrong secret, unknown name, or no name.

    A reload that is being proved causes a few, by `canary`; 2.0.11 does not tell whose they are.
    """
    return line.endswith(_REFUSED)

"""Which versions of Mosquitto have which defects, from its ChangeLog and what was tried; pure."""

import re
from typing import Final, NamedTuple

Version = tuple[int, int, int]


class Known(NamedTuple):
    """What holds for the versions from `first` to `last`, and what to do."""

    first: Version
    last: Version
    sentence: str


_DEFECTS: Final = (
    Known((0, 0, 0), (2, 0, 10), "it is older than anything tested: install 2.0.22 or newer"),
    Known(
        (2, 0, 12),
        (2, 0, 15),
        "it leaks memory, also before a login (CVE-2023-28366): install 2.0.22 or newer",
    ),
    Known(
        (2, 0, 16),
        (2, 0, 16),
        "it drops everything with max_queued_messages 0: install 2.0.22 or newer",
    ),
    Known((2, 0, 19), (2, 0, 19), "it has a regression (#3128): install 2.0.22 or newer"),
    Known(
        (2, 1, 0),
        (2, 1, 0),
        "it disconnects publishers over its receive maximum (#3471): install 2.0.23 or 2.1.2",
    ),
)
_CAVEATS: Final = (
    Known(
        (2, 0, 11),
        (2, 0, 18),
        "this version has holes (CVE-2024-8376 and older) that Debian and Ubuntu mended in their "
        "packages: keep the package up to date",
    ),
    Known(
        (2, 0, 0),
        (2, 0, 22),
        "keep per_listener_settings false: with it on, this version may lose what is sent while "
        "the gateway is away",
    ),
    Known(
        (2, 0, 0),
        (2, 0, 21),
        "keep max_queued_messages a large number: 0, documented as no limit, disconnects "
        "publishers on this version (#3244)",
    ),
    Known(
        (2, 0, 0),
        (2, 0, 999),
        "after a reload with a malformed access list this version lets everything pass: read its "
        "log after each reload",
    ),
    Known(
        (2, 0, 0),
        (2, 0, 999),
        "sessions that expire may crash this version at a reload (#3341): leave "
        "persistent_client_expiration unset and SCOOTER_MQTT_SESSION_EXPIRY_S at its default, and "
        "have scooters with MQTT 5 start clean with session expiry 0",
    ),
    Known(
        (2, 1, 0),
        (9, 0, 0),
        "it is newer than the versions this gateway is tested with, 2.0.11 to 2.0.23",
    ),
)


def parse_version(text: str) -> Version | None:
    """The number in what `$SYS/broker/version` tells; None when it is no Mosquitto."""
    found = re.fullmatch(r"mosquitto version (\d+)\.(\d+)\.(\d+).*", text)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def defects(version: Version) -> list[str]:
    """Why this version should not carry a fleet."""
    return [known.sentence for known in _DEFECTS if known.first <= version <= known.last]


def caveats(version: Version) -> list[str]:
    """What to mind with this version."""
    return [known.sentence for known in _CAVEATS if known.first <= version <= known.last]

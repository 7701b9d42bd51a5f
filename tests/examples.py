"""The example payloads of the devices README, as a firmware engineer would send them."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "devices" / "README.md"

_EXAMPLE = re.compile(r"^[^\n]*`(scooters/[^`{}\n]+)`[^\n]*\n```json\n([^\n]+)\n```$", re.MULTILINE)


def examples() -> list[tuple[str, bytes]]:
    """Every (topic, payload) of the README, in its order, the receipt to a scooter included."""
    return [
        (topic, payload.encode()) for topic, payload in _EXAMPLE.findall(README.read_text("utf-8"))
    ]

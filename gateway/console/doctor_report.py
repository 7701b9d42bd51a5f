"""What the doctor found at one server."""

from dataclasses import dataclass, field
from typing import Final

CLOCK_MOST_S: Final = 2.0
"""Seconds a server's clock may differ from ours."""


@dataclass(slots=True)
class Report:
    """What was found at one server; a finding or a note is a sentence that says what to do."""

    server: str
    address: str
    facts: dict[str, object] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def as_document(self) -> dict[str, object]:
        return {
            "server": self.server,
            "address": self.address,
            "ok": not self.findings,
            "facts": self.facts,
            "findings": self.findings,
            "notes": self.notes,
        }

    def judge_clock(self, difference_s: float) -> None:
        """Note by how many seconds the server's clock is ahead of ours."""
        self.facts["clock_ahead_s"] = round(difference_s, 3)
        if abs(difference_s) > CLOCK_MOST_S:
            self.findings.append(
                f"its clock differs from this machine's by {difference_s:+.1f} s: run a time "
                "service (chrony, systemd-timesyncd) on both"
            )

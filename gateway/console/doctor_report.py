"""What the doctor found at one server, and what it could not examine."""

from dataclasses import dataclass, field
from typing import Final

from devices.console.spans import counted

CLOCK_MOST_S: Final = 2.0
"""Seconds a server's clock may differ from ours."""


@dataclass(slots=True)
class Report:
    """What was found at one server; a finding or a note is a sentence that says what to do.

    What is `unexamined` could not be seen from here, which proves nothing, good or bad.
    """

    server: str
    address: str
    facts: dict[str, object] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    unexamined: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """In a few words; `ok` only where everything was examined."""
        if self.findings:
            return counted(len(self.findings), "finding")
        if self.unexamined:
            return "ok as far as examined" if self.facts else "not examined"
        return "ok"

    @property
    def as_document(self) -> dict[str, object]:
        return {
            "server": self.server,
            "address": self.address,
            "ok": not self.findings,
            "facts": self.facts,
            "findings": self.findings,
            "not_examined": self.unexamined,
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

"""What can go wrong, named by what happened, with the facts as attributes."""

from broker.errors import FleetError


class GatewayError(FleetError):
    """The base of every error that the gateway raises on purpose."""


class DecodeError(GatewayError):
    """A delivery nobody can use; `reason` names the field and says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ServerAway(GatewayError):
    """A server cannot be reached or cannot serve now: wait, and repeat the same thing."""

    def __init__(self, server: str, detail: str) -> None:
        super().__init__(f"{server} is away: {detail}")
        self.server = server
        self.detail = detail


class StateLost(GatewayError):
    """Redis answers but no longer holds our marker: refill it before anything is settled."""


class StartRefused(GatewayError):
    """A server is set up in a way that would lose data; `findings` are sentences for a person."""

    exit_code = 4

    def __init__(self, findings: list[str]) -> None:
        super().__init__("; ".join(findings))
        self.findings = findings

    @property
    def sentences(self) -> list[str]:
        return self.findings


class SettingsError(GatewayError):
    """Settings are wrong; `problems` holds one sentence each."""

    exit_code = 2

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems

    @property
    def sentences(self) -> list[str]:
        return self.problems

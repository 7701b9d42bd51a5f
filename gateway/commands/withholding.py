"""What does not leave after all: the registry forbids it by now, or nobody subscribes to it."""

import asyncio
from typing import Final

import asyncpg

from devices.contract.commands import COMMANDS, CommandError, CommandStatus, Refusal
from gateway.commands import ledger
from gateway.commands.cancelling import Rights
from gateway.commands.judging import check_rights
from gateway.commands.ledger_rows import Move
from gateway.commands.open_commands import OpenCommand, OpenCommands
from gateway.metrics import Metrics

NOBODY_S: Final = 30.0
"""Until a waiting command is tried again whose scooter seemed to be there but was not; doubles."""

NOBODY_MAX_S: Final = 3600.0


class Withholding:
    """Refuses in the ledger, or lets wait, what the broker surely never passed on."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        *,
        rights: Rights,
        open_commands: OpenCommands,
        replies_wanted: asyncio.Event,
        metrics: Metrics,
        by: str,
    ) -> None:
        self._pool = pool
        self._rights = rights
        self._open = open_commands
        self._replies_wanted = replies_wanted
        self._metrics = metrics
        self._by = by

    async def is_forbidden(self, command: OpenCommand) -> bool:
        """Whether the registry has something against it by now; what never left is then refused.

        Nothing is awaited where it has not, so a publish that follows is what was asked about.
        """
        objection = self._objection(command)
        if objection is None:
            return False
        if command.has_left:  # it may have been carried out: its time runs out
            command.payload = None
        else:
            await self._close(command, objection, {})
        return True

    async def nobody(self, command: OpenCommand) -> None:
        """The scooter is away after all: nobody subscribes to its commands, nobody got this."""
        detail = f"{Refusal.AWAY}: the scooter is not connected"
        evidence = {"puback": "no matching subscribers"}
        if not COMMANDS[command.command].waits:
            await self._close(command, detail, evidence)
        elif await self._move(command, CommandStatus.QUEUED, detail, evidence):
            command.status = CommandStatus.QUEUED
            wait_s = min(NOBODY_MAX_S, NOBODY_S * 2 ** (command.sends - 1))
            self._open.schedule(command, self._open.now() + wait_s)

    def _objection(self, command: OpenCommand) -> str | None:
        """Rights and standings change while it waits."""
        scooter_id, name, rights = command.scooter_id, command.command, self._rights
        try:
            check_rights(
                name,
                COMMANDS[name],
                scooter_id,
                standing=rights.standing(scooter_id),
                has_right=rights.may(command.login, name, rights.tags(scooter_id)),
            )
        except CommandError as error:
            return str(error)
        return None

    async def _close(self, command: OpenCommand, detail: str, evidence: dict[str, str]) -> None:
        if await self._move(command, CommandStatus.REFUSED, detail, evidence):
            self._open.forget(command.request_id)

    async def _move(
        self, command: OpenCommand, to: CommandStatus, detail: str, evidence: dict[str, str]
    ) -> bool:
        """Whether it could be moved; else somebody closed it, and it is forgotten."""
        move = Move(
            request_id=command.request_id,
            to=to,
            by=self._by,
            detail=detail,
            evidence=evidence,
            after=(command.status,),
            if_sends=command.sends,
        )
        async with self._pool.acquire() as connection, ledger.transaction(connection):
            moved = await ledger.move(connection, [move])
        self._replies_wanted.set()
        if not moved:
            self._open.forget(command.request_id)
            return False
        self._metrics.commands.labels(command=command.command, status=to).inc()
        return True

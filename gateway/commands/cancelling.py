"""A request about another command: what still waits is cancelled."""

from typing import NamedTuple, Protocol

import asyncpg

from devices.contract.commands import CommandStatus, Refusal
from devices.standing import Standing
from gateway.commands import ledger
from gateway.commands.ledger_rows import Move, Moved
from gateway.commands.wishes import Wish


class Rights(Protocol):
    """The registry as far as requests ask it."""

    def standing(self, scooter_id: str) -> Standing | None: ...
    def tags(self, scooter_id: str) -> frozenset[str]: ...
    def may(self, login: str, command: str, tags: frozenset[str]) -> bool: ...
    def operator_of(self, login: str) -> str | None: ...


class Cancelled(NamedTuple):
    """How a cancel itself ended, and the command that it moved."""

    status: CommandStatus
    detail: str
    moved: list[Moved]


async def cancel(connection: asyncpg.Connection, wish: Wish, rights: Rights) -> Cancelled:
    """Cancel a command that waits; what was sent cannot be called back.

    An operator may cancel what it asked for, and what it could ask for itself.
    """
    request, login = wish.request, wish.asker.login
    target_id = str(request.params["request_id"])
    target = (await ledger.known(connection, [target_id])).get(target_id)
    if target is None or target.scooter_id != request.scooter_id:
        return _refused(Refusal.BAD_PARAMS, f"{request.scooter_id} has no command {target_id}")
    tags = rights.tags(target.scooter_id)
    is_own = target.operator == rights.operator_of(login)
    if not (is_own or rights.may(login, target.command, tags)):
        return _refused(Refusal.NO_RIGHT, f"this key may not {target.command} this scooter")
    move = Move(request_id=target_id, to=CommandStatus.CANCELLED, by=login)
    moved = await ledger.move(connection, [move])
    if not moved:
        return _refused(Refusal.NOT_WAITING, f"{target_id} is {target.status} already")
    return Cancelled(CommandStatus.SUCCEEDED, f"cancelled {target_id}", moved)


def _refused(reason: Refusal, sentence: str) -> Cancelled:
    return Cancelled(CommandStatus.REFUSED, f"{reason}: {sentence}", [])

"""What a change of access prints: the secret once, or where it is; and the evidence."""

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import asdict, is_dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from broker.admission import Admitted, Ended
from broker.errors import FleetError
from devices.bundle import Bundle
from devices.change import Change
from devices.console.output import print_json, print_table, talk, write
from devices.console.progress import progress
from devices.console.spans import rfc3339
from devices.refusals import REFUSALS, raise_all, short
from devices.standing import Standing

T = TypeVar("T")


async def in_turn(
    subjects: Iterable[T], change: Callable[[T], Awaitable[Change]]
) -> AsyncGenerator[Change | FleetError, None]:
    """Change one after the other; what is refused of one ends nothing, anything else does."""
    for subject in subjects:
        try:
            yield await change(subject)
        except FleetError as error:
            if error.exit_code not in REFUSALS:
                raise
            yield error


async def tell_each(
    what: str,
    total: int,
    outcomes: AsyncIterator[Change | FleetError],
    tell: Callable[[list[Change]], Awaitable[None]],
) -> None:
    """Tell what was done, however it ends; what was not is raised together at the end."""
    changes: list[Change] = []
    errors: list[FleetError] = []
    try:
        with progress(what, total) as advance:
            async for outcome in outcomes:
                if isinstance(outcome, FleetError):
                    errors.append(outcome)
                else:
                    changes.append(outcome)
                advance(len(changes) + len(errors))
    except asyncio.CancelledError:
        talk(
            f"interrupted while {what}, {len(changes) + len(errors)} of {total} ended: what is "
            "told here is done and stays; run the command again for the others"
        )
        raise
    finally:
        await tell(changes)
    raise_all(errors)


def print_changes(changes: Sequence[Change], *, as_json: bool) -> None:
    """Secrets and evidence of scooters; the secrets are flushed before this returns."""
    rows = [_row(change) for change in changes]
    if as_json:
        print_json(rows)
        write("", at_once=True)
        return
    for admitted, some in groupby(changes, key=attrgetter("admitted")):
        those = list(some)
        if admitted is not None:
            talk(f"{short([each.scooter.scooter_id for each in those])}: {say_admitted(admitted)}")
        for change in those:
            _say(change)
    bundles = [change.bundle for change in changes if change.bundle is not None]
    if bundles:
        print_secrets(bundles)
    elif rows:
        _print_evidence(rows)
    write("", at_once=True)


def _print_evidence(rows: Sequence[Mapping[str, Any]]) -> None:
    """A row for each scooter; only the columns that the verb has."""
    flat = [
        {
            "scooter_id": row["scooter_id"],
            "standing": row["standing"],
            "generation": row["generation"],
            "proved_after_s": row["admitted"] and round(row["admitted"]["proved_after_s"], 3),
            "session_ended_at": row["ended"] and row["ended"]["taken_over_at"],
            "came_back": row["ended"] and row["ended"]["returned"],
            "bundle": row["bundle_at"],
        }
        for row in rows
    ]
    columns = [name for name in flat[0] if any(row[name] is not None for row in flat)]
    print_table(columns, [[row[name] for name in columns] for row in flat])


def print_secrets(bundles: Sequence[Bundle]) -> None:
    """A row for each login; the authority's certificate is too long to be copied by hand."""
    documents = [bundle.document() for bundle in bundles]
    columns = ["username", "secret", "host", "port"]
    if any("command_key" in each for each in documents):
        columns.append("command_key")
    print_table(columns, [[each.get(name) for name in columns] for each in documents])
    write("", at_once=True)
    talk("This is shown once. The authority's certificate is in bundles written with --out.")


def evidence(seen: Admitted | Ended | None) -> dict[str, Any] | None:
    """What was seen, as a program reads it."""
    if seen is None:
        return None
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in asdict(seen).items()
    }


def say_admitted(admitted: Admitted) -> str:
    """What the broker proved, as a person reads it."""
    return (
        f"the broker proved after {admitted.proved_after_s:.2f} s that it lets in exactly "
        f"{admitted.logins} logins (sha256 {admitted.sha256[:12]}…)"
    )


def say_ended(ended: Ended) -> str:
    """What was seen while the session was taken over, as a person reads it."""
    came_back = "somebody came back" if ended.returned else "nobody came back"
    return (
        f"the session of {ended.client_id} was taken over at {rfc3339(ended.taken_over_at)}; "
        f"{came_back} for {ended.held_s:.2f} s"
    )


def _row(change: Change) -> dict[str, Any]:
    scooter, standing = change.scooter, change.scooter.standing
    if change.bundle is not None and standing is Standing.REGISTERED:
        standing = Standing.ACTIVE  # as soon as whoever asked has read this
    return {
        "scooter_id": scooter.scooter_id,
        "standing": str(standing),
        "generation": scooter.generation,
        "has_credential": scooter.has_credential,
        "bundle": None if change.bundle is None else change.bundle.document(),
        "bundle_at": None if change.bundle_at is None else str(change.bundle_at),
        "admitted": evidence(change.admitted),
        "ended": evidence(change.ended),
        "forgotten": _plain(change.forgotten),
    }


def _plain(value: object) -> Mapping[str, Any] | None:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return None


def _say(change: Change) -> None:
    name = change.scooter.scooter_id
    if change.ended is not None:
        talk(say_ended(change.ended))
    if (gone := _plain(change.forgotten)) is not None:
        cleared = "is cleared" if gone["status_cleared"] else "is still there"
        talk(
            f"{name}: {gone['redis']} entries removed from Redis, {gone['postgres']} rows from "
            f"Postgres; the retained status {cleared}"
        )

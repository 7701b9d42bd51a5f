"""Who changed whose access, when and why: rows written in the transaction of the change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import orjson

Kind = Literal["scooter", "operator", "key", "broker"]

_NOTE = """
    INSERT INTO access_audit (done_by, action, kind, subject, reason, detail)
    SELECT $1, $2, $3, subject, $5, detail::jsonb
    FROM unnest($4::text[], $6::text[]) WITH ORDINALITY AS g (subject, detail, place)
    ORDER BY place
"""
_OF_SUBJECT = """
    SELECT at, done_by, action, kind, subject, reason, detail FROM access_audit
    WHERE subject = $1 AND ($2::text IS NULL OR kind = $2)
    ORDER BY audit_id DESC LIMIT $3
"""


@dataclass(frozen=True, slots=True)
class Audit:
    """One change: who did what to whom, and why. `detail` has the evidence."""

    at: datetime
    by: str
    action: str
    kind: Kind
    subject: str
    reason: str | None
    detail: Mapping[str, Any]


async def note(
    connection: Any,  # noqa: ANN401 - asyncpg has no types
    action: str,
    details: Mapping[str, Mapping[str, Any]],
    *,
    kind: Kind,
    by: str,
    reason: str | None = None,
) -> None:
    """Write one row for each subject, in the caller's transaction."""
    texts = [orjson.dumps(dict(detail)).decode() for detail in details.values()]
    await connection.execute(_NOTE, by, action, kind, list(details), reason, texts)


async def audits(
    connection: Any,  # noqa: ANN401 - asyncpg has no types
    subject: str,
    *,
    kind: Kind | None = None,
    at_most: int = 100,
) -> Sequence[Audit]:
    """What was done to `subject`, newest first."""
    rows = await connection.fetch(_OF_SUBJECT, subject, kind, at_most)
    return [
        Audit(
            at=row["at"],
            by=row["done_by"],
            action=row["action"],
            kind=row["kind"],
            subject=row["subject"],
            reason=row["reason"],
            detail=orjson.loads(row["detail"]),
        )
        for row in rows
    ]

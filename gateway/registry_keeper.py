"""Writes the registry's copy in Redis after each reading: what changed, or all of it."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from gateway.errors import ServerAway
from gateway.outage import Outage
from gateway.registry_mirror import Copy, Mirror
from gateway.registry_source import Known

CHANGES_MAX: Final = 10_000
"""More changes than this are written as a whole copy: one script stops all of Redis."""


class MirrorKeeper:
    """Remembers what of the copy is not in Redis yet.

    Apart from the reading, so that a Redis that is away delays no change.
    """

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._copy: Copy | None = None
        self._began_at = 0.0
        self._unwritten: dict[str, Known] | None = None
        self._written = ""
        self._ahead, self._ahead_at = "", 0.0
        self._told = asyncio.Event()

    def take(self, copy: Copy, changed: Mapping[str, Known] | None, *, began_at: float) -> None:
        """Note a newer copy, whose reading began then (monotonic), and what is new in it.

        None: all of it may be.
        """
        self._copy, self._began_at = copy, began_at
        if changed is None:
            self._unwritten = None
        elif self._unwritten is not None:
            self._unwritten |= changed
        self._told.set()

    async def run(self) -> None:
        """Write after each `take`, for ever, so that a copy that was lost is mended too."""
        outage = Outage("registry in redis", most_s=5.0)
        while True:
            await self._told.wait()
            self._told.clear()
            try:
                await self.write()
                outage.back()
            except ServerAway as error:
                await asyncio.sleep(outage.away(error))
                self._told.set()

    async def write(self) -> bool:
        """Bring Redis up to date; False when a newer copy is there. Raises ServerAway."""
        if self._copy is None:
            return True
        try:
            self._ahead = await self._write(self._copy)
        except ServerAway:
            self._unwritten = None  # what was begun may have happened or not
            raise
        self._ahead_at = time.monotonic()
        return not self._ahead

    async def _write(self, copy: Copy) -> str:
        """The stamp of a copy that is there and claims to be newer.

        One that was there before our reading began and still claims it is from before Postgres
        was restored.
        """
        seen = self._ahead if self._ahead_at < self._began_at else ""
        since, changed = self._written, self._unwritten
        self._written, self._unwritten = copy.stamp, {}
        if changed is not None and len(changed) <= CHANGES_MAX and seen <= copy.stamp:
            newer = await self._mirror.write_changes(copy, changed, since=since)
            if newer is not None:
                return newer
        # What is read meanwhile must not get into this one.
        whole = replace(copy, scooters=dict(copy.scooters))
        return await self._mirror.write(whole, seen=seen)

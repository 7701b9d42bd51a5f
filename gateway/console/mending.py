"""What the commands do that change what is stored about a scooter."""

from typing import Final

from devices.console.exits import CommandFailed, Exit
from devices.console.output import print_json, print_table, talk
from devices.console.spans import Span
from gateway.console import stores
from gateway.settings import read_settings
from gateway.telemetry.erase import erase
from gateway.telemetry.state_store import HISTORY, StateStore, redis_translated

_NONE: Final = "nothing was there to erase"


async def reset_order(scooter_id: str, *, as_json: bool) -> None:
    """Raises CommandFailed when Redis does not know the scooter."""
    settings = read_settings()
    async with stores.redis(settings) as redis:
        states = StateStore(
            redis,
            stale_after_s=settings.stale_after_s,
            history_max_bytes=settings.history_max_mib << 20,
        )
        was_reset = await states.reset_order(scooter_id)
    if not was_reset:
        raise CommandFailed(
            f"Redis knows no scooter {scooter_id}: `scooter state {scooter_id}` puts it back if "
            "Postgres does",
            code=Exit.NOT_FOUND,
        )
    if as_json:
        print_json({"scooter_id": scooter_id, "reset": True})
    talk(f"the next report of {scooter_id} counts as newer")


async def erase_positions(scooter_id: str, span: Span, *, as_json: bool) -> None:
    """Raises CommandFailed when something still waits to be stored, and must be erased then."""
    settings = read_settings()
    async with stores.postgres(settings) as pool, stores.redis(settings) as redis:
        with redis_translated():
            counts = await erase(pool, redis, scooter_id, span.start, span.end)
    waiting = counts.pop(HISTORY)
    if as_json:
        print_json({"scooter_id": scooter_id, "erased": counts, "waiting": waiting})
    else:
        print_table(("place", "erased"), list(counts.items()))
    if waiting:
        raise CommandFailed(
            f"{waiting} messages of {scooter_id} still wait in Redis for Postgres: run this again "
            "when the gateway has stored them",
            code=Exit.TIMED_OUT,
        )
    talk(f"{sum(counts.values())} positions erased" if any(counts.values()) else _NONE)

"""Which scooters an order by tag means: the registry knows."""

from collections.abc import Sequence

from devices.console.exits import CommandFailed, Exit
from devices.registry import Registry
from devices.standing import Standing
from gateway.console import stores
from gateway.errors import SettingsError
from gateway.settings import read_settings


async def tagged(tags: Sequence[str]) -> list[str]:
    """The active scooters with all of these tags; raises CommandFailed when there is none."""
    settings = read_settings()
    if settings.postgres_url is None:
        sentence = "--tag asks the registry in Postgres, and SCOOTER_POSTGRES_URL is not set"
        raise SettingsError([f"{sentence}: name the scooters by their ids"])
    async with stores.postgres(settings) as pool:
        found = Registry(pool).find(tags=tags, standings=[Standing.ACTIVE])
        ids = [each.scooter_id async for each in found]
    if not ids:
        raise CommandFailed(
            f"no active scooter has {'the tag' if len(tags) == 1 else 'all of'} {', '.join(tags)}",
            code=Exit.NOT_FOUND,
        )
    return ids

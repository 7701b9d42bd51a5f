"""What the commands do that run the gateway, migrate and list settings."""

import asyncio
import errno
import gc
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import uvloop
from pydantic import SecretStr

from devices.console.exits import CommandFailed, Exit
from devices.console.output import print_json, print_table, talk
from gateway import service
from gateway.console import stores
from gateway.logs import set_up_logs
from gateway.retire import InstanceAlive, retire
from gateway.settings import Settings, read_settings
from gateway.storage.migrate import migrate, pending
from gateway.supervise import EXIT_S, stop_on_signals
from gateway.telemetry.state_store import redis_translated

_MASK: Final = "********"
_SECRET_PARTS: Final = ("password", "secret", "key", "token")


def run_gateway() -> None:
    """Serve until a signal; raises StartRefused and SettingsError like `service.run`."""
    settings = read_settings()
    stores.check_addresses(settings)
    set_up_logs(settings)
    spare_collections()
    try:
        uvloop.run(_serve(settings))
    except OSError as error:
        if error.errno not in {errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES}:
            raise
        where = f"{settings.metrics_host}:{settings.metrics_port}"
        raise CommandFailed(
            f"metrics cannot listen on {where} ({error.strerror}): set SCOOTER_METRICS_PORT to a "
            "free port, or SCOOTER_METRICS_HOST to an address of this machine"
        ) from error


def spare_collections() -> None:
    """A batch makes thousands of containers that all live until it is settled.

    To look for cycles among them, ten times a batch, took a sixth of the CPU.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    with stop_on_signals(stop, exit_s=EXIT_S):
        await service.run(settings, stop=stop)


async def retire_instance(instance: str, *, as_json: bool) -> None:
    """Raises CommandFailed while the instance runs, ServerAway when nobody can say."""
    settings = read_settings(instance=instance)
    async with stores.redis(settings) as redis:
        with redis_translated():
            await redis.ping()
    try:
        kept = await retire(settings)
    except InstanceAlive as error:
        raise CommandFailed(str(error), code=Exit.REFUSED) from None
    if as_json:
        print_json({"instance": instance, "received": kept})
    talk(f"{instance} is retired; {kept} messages were taken from its session")


def show_settings(*, as_json: bool) -> None:
    """Raises SettingsError when one is wrong."""
    settings = read_settings()
    rows = [
        {
            "name": f"SCOOTER_{name.upper()}",
            "value": masked(getattr(settings, name)),
            "default": masked(field.default),
            "is_set": name in settings.model_fields_set,
            "meaning": field.description,
        }
        for name, field in Settings.model_fields.items()
    ]
    if as_json:
        print_json(rows)
        return
    columns = ("name", "value", "default", "meaning")
    print_table(columns, [[row[name] for name in columns] for row in rows])


def masked(value: Any) -> str | int | float | bool | None:  # noqa: ANN401 - any setting
    """A setting as it may be shown: secrets hidden, also inside addresses."""
    match value:
        case None | bool() | int() | float():
            return value
        case SecretStr():
            text = value.get_secret_value()
            return masked_url(text) if "://" in text else _MASK
        case _:
            return str(value)


def masked_url(url: str) -> str:
    """The address with its password hidden, be it before the host or among the parameters."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return _MASK
    if parts.fragment or "@" in parts.path + parts.query:
        return _MASK  # a password that is not percent-encoded ends the host part too early
    user, at, where = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    login = f"{name}:{_MASK}" if colon else name
    query = "&".join(_masked_parameter(each) for each in parts.query.split("&"))
    return urlunsplit(parts._replace(netloc=f"{login}{at}{where}", query=query))


def _masked_parameter(parameter: str) -> str:
    name, equals, _ = parameter.partition("=")
    is_secret = any(part in name.lower() for part in _SECRET_PARTS)
    return f"{name}={_MASK}" if equals and is_secret else parameter


async def migrate_postgres(*, dry_run: bool, as_json: bool) -> None:
    """Raises MigrationError when files and database do not belong together."""
    settings = read_settings()
    async with stores.postgres(settings) as pool:
        todo = await pending(pool)
    for name in todo:
        talk(f"{'would apply' if dry_run else 'applying'} {name} …")
    applied: list[str] = []
    if todo and not dry_run:
        with stores.postgres_told():
            try:
                applied = await migrate(stores.postgres_url(settings))
            except asyncpg.LockNotAvailableError:
                raise CommandFailed(
                    "another migration runs and did not end in time: look at that one, then "
                    "start this again",
                    code=Exit.TIMED_OUT,
                ) from None
    if as_json:
        print_json({"pending": todo if dry_run else [], "applied": applied})
    talk(f"{len(todo)} pending" if dry_run else f"{len(applied)} applied; up to date")

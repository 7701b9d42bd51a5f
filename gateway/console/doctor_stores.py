"""The doctor at Redis and Postgres: would they keep what the gateway gives them?"""

import secrets
import time
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from devices.console.exits import CommandFailed
from gateway.console import stores
from gateway.console.doctor_report import Report
from gateway.console.running import masked_url
from gateway.errors import ServerAway
from gateway.neighbours import not_shared, running_instances
from gateway.settings import Settings
from gateway.storage.migrate import MigrationError
from gateway.storage.partitions import DAILY, default_partition_rows
from gateway.storage.postgres import check_postgres
from gateway.storage.readers import POSTGRES_READER, WITHHELD, reads_differing
from gateway.storage.redis import AWAY as REDIS_AWAY
from gateway.storage.redis import check_redis
from gateway.telemetry.state_store import DIRTY, HISTORY, HISTORY_BYTES, LOADED

_MUCH: Final = 0.8
"""The part of a limit from which on it is worth a finding."""

# What the scripts do, tried on keys that are gone a moment later. Returns what was refused.
_TRY_WRITES: Final = """
local name, refused = ARGV[1], {}
local tries = {
  { 'HSET', name .. ':h', 'a', '1' }, { 'ZADD', name .. ':z', '1', 'a' },
  { 'GEOADD', name .. ':g', '1', '1', 'a' }, { 'XADD', name .. ':x', '*', 'a', '1' },
  { 'SET', name .. ':s', '1', 'PX', '1000' }, { 'INCRBY', name .. ':n', '1' },
  { 'PUBLISH', 'scooters:doctor', '' }, { 'PUBSUB', 'NUMSUB', 'scooters:changes' },
}
for _, try in ipairs(tries) do
  local answer = redis.pcall(unpack(try))
  if type(answer) == 'table' and answer.err then
    refused[#refused + 1] = try[1] .. ': ' .. answer.err
  end
end
for _, kind in ipairs({ 'h', 'z', 'g', 'x', 's', 'n' }) do
  redis.pcall('DEL', name .. ':' .. kind)
end
return refused
"""

# Fixed in these and later; distributions mend older ones without changing the number.
_LUA_HOLE_MENDED: Final = {
    "redis": ((7, 2, 11), (7, 4, 6), (8, 0, 4), (8, 2, 2)),
    "valkey": ((7, 2, 11), (8, 0, 6), (8, 1, 4)),
}

_FACTS: Final = """
    SELECT current_setting('server_version') AS version, current_user AS role,
        current_setting('server_encoding') AS encoding, current_setting('fsync') AS fsync,
        current_setting('max_connections')::int AS max_connections,
        (SELECT count(*) FROM pg_stat_activity)::int AS processes,
        pg_is_in_recovery() AS is_standby, clock_timestamp() AS clock
"""
_DAYS: Final = "SELECT to_regclass($1) IS NOT NULL"

# Whatever the way it got there: by a grant, by a role it is a member of, or as a superuser.
_TOO_MUCH: Final = """
    SELECT c.relname FROM pg_class c, pg_roles r
    WHERE r.rolname = $1 AND c.relkind IN ('r', 'p')
        AND c.relnamespace = current_schema()::regnamespace
        AND (has_table_privilege(r.oid, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
            OR has_any_column_privilege(r.oid, c.oid, 'INSERT, UPDATE')
            OR c.relname = ANY ($2::text[]) AND has_any_column_privilege(r.oid, c.oid, 'SELECT'))
    ORDER BY 1
"""
_MAY_CREATE: Final = "SELECT has_schema_privilege($1, current_schema(), 'CREATE')"


async def examine_redis(settings: Settings) -> Report:
    """Raises SettingsError for a wrong address; whatever else is wrong is a finding."""
    report = Report("redis", masked_url(settings.redis_url.get_secret_value()))
    try:
        async with stores.redis(settings) as redis:
            began = time.monotonic()
            seconds, micros = await redis.time()
            took_s = time.monotonic() - began
            report.facts["answers_in_ms"] = round(took_s * 1000, 1)
            report.judge_clock(seconds + micros / 1e6 + took_s / 2 - time.time())
            await _examine_redis_server(redis, report)
            await _examine_redis_rights(redis, report)
            await _examine_queues(redis, report, settings)
    except AuthenticationError as error:
        report.findings.append(f"it refuses the login ({error}): check SCOOTER_REDIS_URL")
    except REDIS_AWAY as error:
        report.findings.append(
            f"it cannot be reached ({error or type(error).__name__}): start it, or check "
            "SCOOTER_REDIS_URL"
        )
    except RedisError as error:
        report.findings.append(f"it refuses ({error}): give the gateway's user these rights")
    return report


async def _examine_redis_server(redis: Redis, report: Report) -> None:
    info: dict[str, Any] = await redis.info()
    kind = "valkey" if "valkey_version" in info else "redis"
    version = str(info[f"{kind}_version"])
    report.facts |= {
        "version": f"{kind} {version}",
        "maxmemory_policy": info["maxmemory_policy"],
        "append_only_file": "on" if int(info["aof_enabled"]) else "off",
        "memory": f"{info['used_memory_human']} of {info['maxmemory_human']}"
        if info["maxmemory"]
        else f"{info['used_memory_human']}, no limit",
        "clients": f"{info['connected_clients']} of {info['maxclients']}",
    }
    report.findings += await check_redis(redis)
    if info["evicted_keys"]:
        report.findings.append(
            f"it evicted {info['evicted_keys']} keys since it started: set maxmemory-policy "
            "noeviction, then restart the gateway after emptying Redis, to refill it"
        )
    if info["maxmemory"] and info["used_memory"] > _MUCH * info["maxmemory"]:
        report.findings.append("its memory is nearly full: raise maxmemory, or look what grows")
    if info["role"] != "master":
        report.findings.append("it is a replica and takes no writes: name the primary instead")
    if _has_lua_hole(kind, version):
        report.notes.append(
            f"{kind} {version} has a hole for whoever may run scripts (CVE-2025-49844), unless "
            "your distribution mended it: update it, and let nobody else log in"
        )
    report.notes.append("appendfsync cannot be seen from here: look for `appendfsync everysec`")


def _has_lua_hole(kind: str, version: str) -> bool:
    number = tuple(int(part) for part in version.split(".")[:3])
    mended = _LUA_HOLE_MENDED[kind]
    return number < mended[-1] and not any(
        number[:2] == least[:2] and number >= least for least in mended
    )


async def _examine_redis_rights(redis: Redis, report: Report) -> None:
    whoami: Any = await redis.acl_whoami()
    user = whoami.decode()
    report.facts["user"] = user
    name = f"gateway:doctor-{secrets.token_hex(4)}"
    refused = await redis.eval(_TRY_WRITES, 0, name)
    report.findings += [
        f"it refuses what the gateway does, {each.decode()}: give user {user} this right"
        for each in refused
    ]
    try:
        await redis.config_get("maxmemory-policy")
    except ResponseError:
        return
    report.notes.append(
        f"user {user} may do more than the gateway needs (CONFIG, so probably FLUSHALL): give it "
        "a user with fewer rights"
    )


async def _examine_queues(redis: Redis, report: Report, settings: Settings) -> None:
    most = settings.history_max_mib << 20
    used = int(await redis.get(HISTORY_BYTES) or 0)
    oldest: Any = await redis.zrange(DIRTY, 0, 0, withscores=True)
    age_s = time.time() - oldest[0][1] / 1000 if oldest else 0.0
    report.facts |= {
        "history_entries": await redis.xlen(HISTORY),
        "history_size": f"{used / (1 << 20):.1f} of {settings.history_max_mib} MiB",
        "dirty_scooters": await redis.zcard(DIRTY),
        "oldest_dirty_s": round(age_s, 1),
    }
    if used > _MUCH * most:
        report.findings.append(
            "the history stream is nearly full, and events will wait at the broker: see whether "
            "Postgres is away and a gateway runs, or raise SCOOTER_HISTORY_MAX_MIB"
        )
    late_s = 3 * settings.snapshot_period_s + 30
    if settings.postgres_url is not None and age_s > late_s:
        report.findings.append(
            f"a state waits for its snapshot since {age_s:.0f} s: see whether a gateway runs "
            "(`scooter health`) and Postgres is there"
        )
    instances = await running_instances(redis)
    report.facts["instances"] = ", ".join(instances) or "none"
    if not settings.mqtt_shared and (problem := not_shared(instances)):
        report.findings.append(problem)
    if not await redis.exists(LOADED):
        report.notes.append("it is empty or was emptied: a gateway refills it when it starts")


async def examine_postgres(settings: Settings) -> Report:
    """Raises SettingsError for a wrong address; whatever else is wrong is a finding."""
    if settings.postgres_url is None:
        report = Report("postgres", "SCOOTER_POSTGRES_URL is not set")
        report.notes.append("Redis alone: the latest state only, no snapshots, no history")
        return report
    report = Report("postgres", masked_url(settings.postgres_url.get_secret_value()))
    try:
        async with stores.postgres(settings) as pool:
            began = time.monotonic()
            await pool.fetchval("SELECT 1")
            report.facts["connects_in_ms"] = round((time.monotonic() - began) * 1000, 1)
            await _examine_postgres_server(pool, report)
            await _examine_tables(pool, report)
            await _examine_reader(pool, report)
    except ServerAway as error:
        cause = error.__cause__  # without the advice that a command gives
        why = str(cause) or type(cause).__name__
        report.findings.append(
            f"it cannot be reached ({why}): start it, or check SCOOTER_POSTGRES_URL"
        )
    except (MigrationError, CommandFailed) as error:
        report.findings.append(str(error))
    return report


async def _examine_postgres_server(pool: asyncpg.Pool, report: Report) -> None:
    began = time.time()
    facts = dict(await pool.fetchrow(_FACTS))
    report.judge_clock(facts.pop("clock").timestamp() - (began + time.time()) / 2)
    is_standby, processes = facts.pop("is_standby"), facts.pop("processes")
    report.facts |= facts | {"processes": processes}
    if is_standby:
        report.findings.append("it is a standby and takes no writes: name the primary instead")
    if facts["fsync"] != "on":
        report.findings.append(
            "fsync is off, so a power cut can ruin the database: set it to on in postgresql.conf"
        )
    if facts["encoding"] != "UTF8":
        report.findings.append(
            f"its encoding is {facts['encoding']}: create the database with ENCODING 'UTF8'"
        )
    if processes > _MUCH * facts["max_connections"]:
        report.findings.append(
            "its connections are nearly used up: raise max_connections, or look who holds them"
        )


async def _examine_tables(pool: asyncpg.Pool, report: Report) -> None:
    findings = await check_postgres(pool)
    report.findings += findings
    if any("scooter migrate" in finding for finding in findings):
        report.facts["migrations"] = "not all applied"
        return
    report.facts["migrations"] = "all applied"
    strays = {table: rows for table, rows in (await default_partition_rows(pool)).items() if rows}
    report.facts["default_partition_rows"] = sum(strays.values())
    for table, rows in strays.items():
        report.findings.append(
            f"{rows} rows of {table} are outside the daily partitions: let a gateway run, which "
            "moves them, and compare the clocks when it does not"
        )
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    names = [f"{table}_p{tomorrow:%Y%m%d}" for table in DAILY]
    missing = [name for name in names if not await pool.fetchval(_DAYS, name)]
    report.facts["partitions_made_ahead"] = not missing
    if missing:
        report.notes.append("there are no partitions for tomorrow: a gateway makes them ahead")


async def _examine_reader(pool: asyncpg.Pool, report: Report) -> None:
    """The role of backend developers: as `scooter migrate` leaves it, and no more than that."""
    differing = await reads_differing(pool)
    report.facts["reader"] = POSTGRES_READER if differing is not None else "none"
    if differing is None:
        report.notes.append(
            f"there is no role {POSTGRES_READER} for backend developers: CREATE ROLE "
            f"{POSTGRES_READER} LOGIN PASSWORD '...', then `scooter migrate`"
        )
        return
    if differing:
        report.findings.append(
            f"{POSTGRES_READER} has not the rights that it should have on {', '.join(differing)}: "
            "run `scooter migrate`"
        )
    too_much = [row[0] for row in await pool.fetch(_TOO_MUCH, POSTGRES_READER, list(WITHHELD))]
    if too_much and not differing:
        report.findings.append(
            f"{POSTGRES_READER} may write or read what is not for it ({', '.join(too_much)}): "
            "take it out of other roles, and grant PUBLIC nothing"
        )
    if await pool.fetchval(_MAY_CREATE, POSTGRES_READER):
        report.findings.append(
            f"{POSTGRES_READER} may create tables: REVOKE CREATE ON SCHEMA public FROM PUBLIC"
        )

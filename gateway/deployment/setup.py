"""Secrets, certificates and configuration of all servers, made where they are missing."""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from broker.accounts import fixed_accounts_file, secret_matches, write_private
from broker.certificates import Authority, ensure_authority
from broker.config import SHIPPED_ACL, SHIPPED_CONFIG, fill_config
from broker.files import locked
from gateway.errors import GatewayError, SettingsError
from gateway.local.mosquitto_server import ADMIN, GATEWAY, PASSWORDS, write_accounts
from gateway.local.server_kinds import (
    POSTGRES_DATABASE,
    POSTGRES_USER,
    REDIS_USER,
    RedisSecrets,
    login_role,
    reader_role,
    redis_config,
)
from gateway.storage.readers import POSTGRES_READER, REDIS_READER

SECRET_NAMES: Final = (
    *("mqtt", "mqtt_admin", "redis", "redis_admin", "redis_reader"),
    *("postgres_superuser", "postgres", "postgres_reader", "fleet"),
)
"""Each is made once; a file with such a name in a given folder is taken instead."""

_WATCHER: Final = SHIPPED_CONFIG.with_name("watch-passwords.sh")
_SHORTEST: Final = 32
_EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 - inside a container, on an internal network
_SERVER_FILES: Final = 0o640


class NotSetUp(GatewayError):
    """A folder could not be written; what was made before stays, and is used the next time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """Where the servers find each other, and where they see the folders that are made here.

    `broker_inside` is the broker's name on the network that nobody else is on: its plain listener
    is bound to that address alone.
    """

    broker_inside: str = "broker-inside"
    redis: str = "redis"
    postgres: str = "postgres"
    broker_files: Path = Path("/srv/broker")
    broker_passwords: Path = Path("/srv/passwords")
    broker_data: Path = Path("/srv/data")
    redis_data: Path = Path("/data")


def set_up(
    folder: Path,
    *,
    names: Sequence[str],
    given: Path | None = None,
    deployment: Deployment | None = None,
) -> list[str]:
    """Make what is missing in the sub-folders of `folder`; returns a sentence for each change.

    `own` keeps the secrets and the authority's key and is for nobody else; `broker`, `passwords`,
    `redis`, `postgres` and `gateway` are for these. `names` are those by which scooters and
    operators reach the broker. Again it changes nothing but configuration of an older version, and
    a certificate whose names changed or whose time is nearly up. Killed, it is run again.
    Raises SettingsError for a given secret that is too short, NotSetUp, CertificateTrouble.
    """
    try:
        made = _set_up(folder, names, given, deployment or Deployment())
    except OSError as error:
        at = error.filename or folder
        raise NotSetUp(f"{at}: {error.strerror or error}. Mend that, and run it again.") from error
    return [f"{path.relative_to(folder)} written" for path in made]


def _set_up(
    folder: Path, names: Sequence[str], given: Path | None, where: Deployment
) -> list[Path]:
    own = folder / "own"
    own.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(own):
        known = _secrets(own / "secrets.json", given)
        authority = ensure_authority(own / "authority", names=names)
        return [
            *_broker(folder / "broker", authority, where),
            *_passwords(folder / "passwords", known),
            *_redis(folder / "redis", known, where),
            *_postgres(folder / "postgres", known),
            *_gateway(folder / "gateway", known, authority, where),
        ]


def _secrets(file: Path, given: Path | None) -> dict[str, str]:
    kept: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
    found = {name: secrets.token_hex(32) for name in SECRET_NAMES} | kept | _given(given)
    if found != kept:
        write_private(file, json.dumps(found))
    return found


def _given(folder: Path | None) -> dict[str, str]:
    """Those that somebody else keeps, one a file."""
    if folder is None:
        return {}
    files = {name: folder / name for name in SECRET_NAMES if (folder / name).exists()}
    found = {name: file.read_text().strip() for name, file in files.items()}
    if bad := sorted(name for name, text in found.items() if not _is_secret(text)):
        raise SettingsError(
            [
                f"{folder / name}: a secret has {_SHORTEST} letters and digits or more; "
                "`openssl rand -hex 32` makes one"
                for name in bad
            ]
        )
    return found


def _is_secret(text: str) -> bool:
    """It becomes part of addresses and of configuration, where other characters have a meaning."""
    return len(text) >= _SHORTEST and text.isascii() and text.isalnum()


def _broker(folder: Path, authority: Authority, where: Deployment) -> list[Path]:
    text = fill_config(
        internal_address=where.broker_inside,
        data=where.broker_data,
        passwords=where.broker_passwords / PASSWORDS,
        acl=where.broker_files / "acl",
        certificate=where.broker_files / authority.certificate.name,
        key=where.broker_files / authority.key.name,
    )
    # The key first: a watcher that sees a new certificate reloads both.
    texts = {
        "mosquitto.conf": text,
        "acl": SHIPPED_ACL.read_text(),
        _WATCHER.name: _WATCHER.read_text(),
        authority.key.name: authority.key.read_text(),
        authority.certificate.name: authority.certificate.read_text(),
    }
    return _write(folder, texts, mode=0o600)


def _passwords(folder: Path, known: Mapping[str, str]) -> list[Path]:
    """Untouched while the fixed accounts are right: the rest is the registry's."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    accounts = {GATEWAY: known["mqtt"], ADMIN: known["mqtt_admin"]}
    passwords = folder / PASSWORDS
    fixed = fixed_accounts_file(passwords)
    if passwords.exists() and _lets_in(fixed, accounts):
        return []
    write_accounts(folder, accounts)
    return [fixed, passwords]


def _lets_in(fixed: Path, accounts: Mapping[str, str]) -> bool:
    """Whether the fixed accounts are these, with these secrets."""
    lines = fixed.read_text().splitlines() if fixed.exists() else []
    hashes = dict(line.split(":", 1) for line in lines if ":" in line)
    return hashes.keys() == accounts.keys() and all(
        secret_matches(secret, hashes[name]) for name, secret in accounts.items()
    )


def _redis(folder: Path, known: Mapping[str, str], where: Deployment) -> list[Path]:
    roles = RedisSecrets(
        gateway=known["redis"], reader=known["redis_reader"], admin=known["redis_admin"]
    )
    texts = {
        "redis.conf": redis_config(where.redis_data, secrets=roles, port=6379, address=_EVERYWHERE),
        "reader.password": known["redis_reader"],  # with it the health check asks
    }
    return _write(folder, texts, mode=_SERVER_FILES)


def _postgres(folder: Path, known: Mapping[str, str]) -> list[Path]:
    """What the image runs when it makes the data: the gateway's login is no superuser."""
    made = _write(folder, {"superuser": known["postgres_superuser"]}, mode=_SERVER_FILES)
    if (folder / "logins.sql").exists():
        return made
    statements = [
        login_role(POSTGRES_USER, known["postgres"]),
        reader_role(known["postgres_reader"]),
        f"ALTER ROLE {POSTGRES_READER} CONNECTION LIMIT 20",
        f"CREATE DATABASE {POSTGRES_DATABASE} OWNER {POSTGRES_USER}",
        f"REVOKE CONNECT ON DATABASE {POSTGRES_DATABASE} FROM PUBLIC",
        f"GRANT CONNECT ON DATABASE {POSTGRES_DATABASE} TO {POSTGRES_READER}",
    ]
    sql = "".join(f"{statement};\n" for statement in statements)
    return [*made, *_write(folder, {"logins.sql": sql}, mode=_SERVER_FILES)]


def _gateway(
    folder: Path, known: Mapping[str, str], authority: Authority, where: Deployment
) -> list[Path]:
    """Settings that are secrets, one a file, as `/run/secrets` has them."""
    redis, postgres = f"{where.redis}:6379/0", f"{where.postgres}:5432/{POSTGRES_DATABASE}"
    readers = {
        "READER_REDIS_URL": f"redis://{REDIS_READER}:{known['redis_reader']}@{redis}",
        "READER_POSTGRES_URL": (
            f"postgresql://{POSTGRES_READER}:{known['postgres_reader']}@{postgres}"
        ),
    }
    texts = {
        "scooter_mqtt_username": GATEWAY,
        "scooter_mqtt_password": known["mqtt"],
        "scooter_mqtt_admin_password": known["mqtt_admin"],
        "scooter_fleet_secret": known["fleet"],
        "scooter_redis_url": f"redis://{REDIS_USER}:{known['redis']}@{redis}",
        "scooter_postgres_url": f"postgresql://{POSTGRES_USER}:{known['postgres']}@{postgres}",
        "authority.crt": authority.ca.read_text(),
        "reader.env": "".join(f"{name}={url}\n" for name, url in readers.items()),
    }
    return _write(folder, texts, mode=0o600)


def _write(folder: Path, texts: Mapping[str, str], *, mode: int) -> list[Path]:
    """Files whose text is another one; read by group too where the server has a user of its own."""
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    made = []
    for name, text in texts.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            write_private(path, text)
            made.append(path)
        path.chmod(mode)
    return made

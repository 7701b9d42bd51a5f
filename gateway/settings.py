"""Every knob and secret, checked once; the only reader of the environment."""

import os
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, SecretStr, StringConstraints, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from devices.contract.mac import FLEET_SECRET_MIN
from gateway.errors import SettingsError

Seconds = Annotated[float, Field(gt=0)]
Days = Annotated[int, Field(ge=1)]

NEVER_S: Final = 0xFFFFFFFF
"""The session expiry that is no expiry (MQTT 5 §3.1.2.11.2)."""


def _no_lease(instance: str) -> str:
    """The name `primary` would be the key of the lease on being primary, held by itself."""
    if instance == "primary":
        raise ValueError("primary is what one of the instances is: take another name")
    return instance


def _hard_to_guess(secret: SecretStr) -> SecretStr:
    """Whoever guesses it signs commands for every scooter; an empty one would sign none."""
    if len(secret.get_secret_value()) < FLEET_SECRET_MIN:
        raise ValueError(
            f"it needs {FLEET_SECRET_MIN} random characters or more; "
            "`openssl rand -hex 32` makes one"
        )
    return secret


class Settings(BaseSettings):
    """Read from `SCOOTER_…` variables, then `.env`, then files in `/run/secrets`.

    Addresses contain passwords: never log a `Settings`.
    """

    model_config = SettingsConfigDict(
        env_prefix="SCOOTER_",
        secrets_dir="/run/secrets" if Path("/run/secrets").is_dir() else None,
        frozen=True,
        extra="ignore",
    )

    instance: Annotated[
        str,
        StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$"),
        AfterValidator(_no_lease),
    ] = Field("gateway-1", description="name of this process; a second one with it stands by")
    mqtt_host: str = Field("127.0.0.1", description="the broker's listener for the gateway")
    mqtt_port: int = Field(8884, ge=1, le=65535, description="its port")
    mqtt_username: str | None = Field(None, description="the gateway's account at the broker")
    mqtt_password: SecretStr | None = Field(None, description="its password")
    mqtt_ca_file: Path | None = Field(None, description="authority of the broker's certificate")
    mqtt_certificate_file: Path | None = Field(None, description="the gateway's certificate")
    mqtt_key_file: Path | None = Field(None, description="the key of that certificate")
    mqtt_keepalive_s: int = Field(15, ge=1, le=3600, description="keepalive of every connection")
    # No end by default: Mosquitto may crash at a reload for sessions that have one, see
    # broker/README.md.
    mqtt_session_expiry_s: int = Field(
        NEVER_S,
        ge=60,
        le=NEVER_S,
        description=f"how long the broker keeps messages while we are away; {NEVER_S}: for ever",
    )
    mqtt_shared: bool = Field(
        default=False,
        description="share telemetry with other gateways; all need it, and the same mqtt_password",
    )
    mqtt_admin_password: SecretStr | None = Field(
        None, description="password of the broker's account `admin`, which ends live sessions"
    )
    mqtt_public_host: str | None = Field(
        None, description="the broker's name for scooters and operators, as their bundles tell it"
    )
    mqtt_scooters_port: int = Field(
        8886, ge=1, le=65535, description="the broker's TLS listener for scooters with a secret"
    )
    mqtt_operators_port: int = Field(
        8885, ge=1, le=65535, description="the broker's TLS listener for operators"
    )
    mqtt_authority_file: Path | None = Field(
        None, description="authority of those listeners' certificate, handed out in bundles"
    )
    broker_password_file: Path | None = Field(
        None, description="the broker's password file, which is rendered from the registry"
    )
    broker_reload: (
        Annotated[str, StringConstraints(pattern=r"^(pid:.+|service:.+|watched)$")] | None
    ) = Field(
        None, description="how the broker learns of a new one: pid:FILE, service:UNIT or watched"
    )
    fleet_secret: Annotated[SecretStr, AfterValidator(_hard_to_guess)] | None = Field(
        None, description="the secret from which every scooter's command key is derived"
    )
    unlock_without_uptime: bool = Field(
        default=False,
        description="unlock scooters that never told their uptime and so could obey too late",
    )
    unlock_battery_floor_percent: float = Field(
        5.0, ge=0, le=100, description="below this a scooter is only unlocked with force"
    )
    operator_bundle: Path | None = Field(
        None, description="bundle of the key that commands are asked for with; `--as` overrides it"
    )
    held_max: int = Field(
        8192, ge=256, le=65535, description="unsettled deliveries a session holds before it waits"
    )
    echo_period_s: Seconds = Field(
        10.0, description="silence after which a session proves that messages still arrive"
    )
    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"), description="latest states and the history stream"
    )
    postgres_url: SecretStr | None = Field(
        None, description="snapshots and history; unset: Redis alone, the latest state only"
    )
    snapshot_period_s: Seconds = Field(30.0, description="at most one snapshot a scooter in this")
    stale_after_s: Seconds = Field(
        180.0, description="silence that makes a scooter stale when it never told its interval"
    )
    history_max_mib: int = Field(
        256, ge=1, description="size of the history stream at which events wait at the broker"
    )
    lease_s: Seconds = Field(6.0, description="how long a dead gateway keeps its name")
    keep_snapshots_days: Days = Field(90, description="days until snapshots are dropped")
    keep_late_days: Days = Field(90, description="days until late reports are dropped")
    keep_rejects_days: Days = Field(14, description="days until rejects are dropped")
    keep_events_days: Days = Field(365, description="days until events are dropped")
    keep_commands_days: Days = Field(730, description="days until closed commands are deleted")
    metrics_host: str = Field("127.0.0.1", description="where /metrics and /healthz listen")
    metrics_port: int = Field(9464, ge=0, le=65535, description="its port; 0 takes a free one")
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="console on a terminal, else json"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe line that is written"
    )


def read_settings(**overrides: object) -> Settings:
    """The settings of this process; raises SettingsError with one sentence for each wrong one.

    `SCOOTER_ENV_FILE` names another file than `.env`: `scooter demo` writes one.
    """
    try:
        return Settings(_env_file=env_file(), **overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        problems = [
            f"SCOOTER_{'_'.join(map(str, each['loc'])).upper()}: {each['msg']}"
            for each in error.errors(include_input=False, include_url=False)
        ]
        raise SettingsError(problems) from None
    except OSError as error:
        raise SettingsError([f"{error.filename} cannot be read: {error.strerror}"]) from error


def env_file() -> Path:
    """The file of settings, which need not exist."""
    return Path(os.environ.get("SCOOTER_ENV_FILE", ".env"))


def env_file_problem() -> str | None:
    """What is wrong with the file that `SCOOTER_ENV_FILE` names; None when none is named."""
    if "SCOOTER_ENV_FILE" not in os.environ:
        return None
    try:
        env_file().open().close()
    except FileNotFoundError:
        return f"SCOOTER_ENV_FILE names {env_file()}, which does not exist"
    except OSError as error:
        return f"SCOOTER_ENV_FILE names {env_file()}, which cannot be read: {error.strerror}"
    return None

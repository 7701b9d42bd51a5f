"""What `scooter health` does; imports little, because a container is asked every few seconds."""

import http.client
from typing import Any, Final

import orjson

from devices.console.exits import CommandFailed, Exit
from devices.console.output import print_json, print_table
from gateway.errors import SettingsError
from gateway.settings import Settings, read_settings

_TIMEOUT_S: Final = 3.0


def show_health(*, live_only: bool, as_json: bool) -> None:
    """Raises CommandFailed unless each answer is good."""
    settings = read_settings()
    if settings.metrics_port == 0:
        raise SettingsError(["SCOOTER_METRICS_PORT: is 0, so nobody can know the port to ask"])
    answers = {
        name: _ask(settings, f"/{name}") for name in ("healthz", "readyz")[: 1 if live_only else 2]
    }
    if as_json:
        print_json(answers)
    else:
        columns = ("asked", "ok", "problems")
        print_table(columns, [(name, said["ok"], _joined(said)) for name, said in answers.items()])
    if not all(said["ok"] for said in answers.values()):
        raise CommandFailed("the gateway is not well")


def _joined(said: dict[str, Any]) -> str:
    return "; ".join(f"{name}: {why}" for name, why in said["problems"].items())


def _ask(settings: Settings, path: str) -> dict[str, Any]:
    wildcards = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - not bound
    host = wildcards.get(settings.metrics_host, settings.metrics_host)
    where = f"{host}:{settings.metrics_port}"
    connection = http.client.HTTPConnection(host, settings.metrics_port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer = orjson.loads(connection.getresponse().read())
        return {"ok": answer["ok"] is True, "problems": dict(answer["problems"])}
    except TimeoutError:
        raise CommandFailed(
            f"nothing answers at {where} within {_TIMEOUT_S:.0f} s", code=Exit.TIMED_OUT
        ) from None
    except OSError as error:
        raise CommandFailed(
            f"no gateway at {where} ({error.strerror or error}): start it, or set "
            "SCOOTER_METRICS_HOST and SCOOTER_METRICS_PORT as it has them"
        ) from None
    except (http.client.HTTPException, ValueError, KeyError, TypeError):
        raise CommandFailed(f"what answers at {where} is no gateway") from None
    finally:
        connection.close()

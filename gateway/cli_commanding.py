"""The commands to scooters, and the keys they are asked for with."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that `--help` stays quick

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final

import typer

from devices.console.frame import DURATION, Json, run
from gateway.console.commanding_options import Params, orders

On = Annotated[bool, typer.Option("--on", help="Switch it on.")]
Off = Annotated[bool, typer.Option("--off", help="Switch it off.")]


def lock() -> Params:
    """Lock scooters. One that moves is asked again until it stands, for a minute.

    Each move is shown with the seconds since the request, and the end is waited for.

    \b
    Example: scooter lock SC-0001
    Example: scooter lock --tag munich --yes
    """
    return {}


def unlock() -> Params:
    """Unlock scooters. It counts for 20 s; nobody carries it out later.

    \b
    Example: scooter unlock SC-0001 --as alice.laptop
    """
    return {}


def unlock_battery() -> Params:
    """Open the battery compartments of scooters.

    \b
    Example: scooter unlock-battery SC-0001
    """
    return {}


def locate(
    *,
    seconds: Annotated[int, typer.Option(min=1, max=30, help="For how long.")] = 10,
    light: Annotated[bool, typer.Option("--light/--no-light", help="Flash the lights.")] = True,
    horn: Annotated[bool, typer.Option("--horn/--no-horn", help="Sound the horn.")] = True,
) -> Params:
    """Have scooters flash and sound, so that somebody finds them.

    \b
    Example: scooter locate SC-0001 --seconds 5 --no-horn
    """
    return {"s": seconds, "light": light, "horn": horn}


def headlight(
    *,
    on: On = False,
    off: Off = False,
) -> Params:
    """Switch the headlight of scooters.

    \b
    Example: scooter headlight SC-0001 --on
    """
    return {"on": _is_on(on=on, off=off)}


def alarm(
    *,
    on: On = False,
    off: Off = False,
) -> Params:
    """Switch the alarm of scooters.

    \b
    Example: scooter alarm SC-0001 --off
    """
    return {"on": _is_on(on=on, off=off)}


def get_state() -> Params:
    """Have scooters report everything now; `scooter state ID` shows it.

    \b
    Example: scooter get-state SC-0001
    """
    return {}


def reboot() -> Params:
    """Restart scooters; refused unless the last known lock is locked.

    \b
    Example: scooter reboot SC-0001 --yes
    """
    return {}


def power_off() -> Params:
    """Switch scooters off; refused unless the last known lock is locked.

    \b
    Example: scooter power-off SC-0001 --yes
    """
    return {}


def set_speed_limit(
    *,
    kmh: Annotated[int, typer.Option(min=0, max=45, help="km/h; 0 lets it only be pushed.")],
) -> Params:
    """Limit the speed of scooters. One that is away gets it when it is back, within 7 days.

    \b
    Example: scooter set-speed-limit SC-0001 --kmh 20
    """
    return {"kmh": kmh}


def set_report_interval(
    *,
    riding: Annotated[
        timedelta | None,
        typer.Option(parser=DURATION, metavar="DURATION", help="While riding: 1s to 1h."),
    ] = None,
    parked: Annotated[
        timedelta | None,
        typer.Option(parser=DURATION, metavar="DURATION", help="While parked: 1s to 1d."),
    ] = None,
) -> Params:
    """Set how often scooters report. One that is away gets it when it is back, within 7 days.

    \b
    Example: scooter set-report-interval SC-0001 --riding 10s --parked 5m
    """
    if riding is None and parked is None:
        raise typer.BadParameter("name --riding, --parked or both")
    return {
        name: _whole_seconds(name, each)
        for name, each in (("riding", riding), ("parked", parked))
        if each is not None
    }


def login(
    bundle: Annotated[
        Path | None,
        typer.Argument(metavar="[BUNDLE]", help="What `scooter operators key add --out` wrote."),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Keep an operator's key on this machine, and use it from now on; alone: list what is kept.

    Keys are in $XDG_CONFIG_HOME/scooter/keys (~/.config/scooter/keys), readable by you alone. Log
    in again with the new bundle after a key was rotated. Machines that shall keep nothing set
    SCOOTER_OPERATOR_BUNDLE instead; while it is set it wins over what is kept here. A command takes
    the key of --key, else of --as, else of SCOOTER_OPERATOR_BUNDLE, else the one used last.

    \b
    Example: scooter login alice.laptop.json
    """
    from gateway.console import commanding_keys

    if bundle is None:
        commanding_keys.list_kept(as_json=as_json)
    else:
        run(commanding_keys.login(bundle, as_json=as_json))


def logout(
    key: Annotated[str, typer.Argument(metavar="KEY", help="As listed by `scooter login`.")],
) -> None:
    """Remove an operator's key from this machine. It still gets in elsewhere.

    \b
    Example: scooter logout alice.laptop
    """
    from gateway.console import commanding_keys

    commanding_keys.logout(key)


def _is_on(*, on: bool, off: bool) -> bool:
    if on == off:
        raise typer.BadParameter("name --on or --off: one of the two")
    return on


def _whole_seconds(name: str, duration: timedelta) -> int:
    seconds = duration.total_seconds()
    if not seconds.is_integer():
        raise typer.BadParameter(f"--{name}: whole seconds")
    return int(seconds)


VERBS: Final[dict[str, tuple[str, Callable[..., None]]]] = {
    "lock": ("Lock scooters.", orders(lock)),
    "unlock": ("Unlock scooters.", orders(unlock)),
    "unlock-battery": ("Open battery compartments.", orders(unlock_battery)),
    "locate": ("Flash and sound.", orders(locate)),
    "headlight": ("Switch the headlight.", orders(headlight)),
    "alarm": ("Switch the alarm.", orders(alarm)),
    "get-state": ("Have scooters report now.", orders(get_state)),
    "reboot": ("Restart scooters.", orders(reboot)),
    "power-off": ("Switch scooters off.", orders(power_off)),
    "set-speed-limit": ("Limit the speed.", orders(set_speed_limit)),
    "set-report-interval": ("Set how often scooters report.", orders(set_report_interval)),
}
"""What an operator may ask for, by the name it is typed with."""

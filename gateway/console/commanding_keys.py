"""What `scooter login` and `scooter logout` do."""

from pathlib import Path

from devices.console.exits import CommandFailed, Exit
from devices.console.output import print_json, print_table, talk
from gateway.console import operator_key
from gateway.console.commanding_line import OperatorLine
from gateway.settings import read_settings


async def login(bundle: Path, *, as_json: bool) -> None:
    """Keep the key unless the broker refuses it; raises CommandFailed then."""
    usual = read_settings().operator_bundle
    key = operator_key.read_key(bundle)
    if not operator_key.is_held(key.login):  # to prove it would take the other's connection
        try:
            await OperatorLine(key, hear=lambda _: None, again=list).prove()
        except CommandFailed as error:
            if error.exit_code == Exit.REFUSED:
                raise
            talk(f"{error}; the key is kept all the same")
    file = operator_key.keep(key)
    if usual is None:
        talk(f"{key.login} is kept in {file}, and used from now on")
    else:
        talk(f"{key.login} is kept in {file}")
        _tell_what_wins(usual, f"`--as {key.login}` names this key")
    if as_json:
        print_json({"key": key.login, "file": str(file), "host": key.host, "port": key.port})


def list_kept(*, as_json: bool) -> None:
    """Which keys are here, never their secrets."""
    usual = read_settings().operator_bundle
    last = operator_key.remembered() if usual is None else None
    rows = []
    for each in operator_key.kept():
        key = operator_key.read_key(operator_key.folder() / f"{each}.json")
        rows.append({"key": each, "host": key.host, "port": key.port, "used": each == last})
    if as_json:
        print_json(rows)
    elif rows:
        print_table(tuple(rows[0]), [list(each.values()) for each in rows])
    else:
        talk("no key is kept here: `scooter login BUNDLE` keeps one")
    if usual is not None:
        _tell_what_wins(usual, "`--as KEY` names one that is kept here")


def logout(login: str) -> None:
    """Raises CommandFailed when the key is not kept here."""
    operator_key.forget(login)
    talk(f"{login} is gone from this machine; `scooter operators key revoke` ends it everywhere")


def _tell_what_wins(usual: Path, remedy: str) -> None:
    talk(f"SCOOTER_OPERATOR_BUNDLE is set, and while it is, commands use {usual}: {remedy}")

"""What `scooter login` and `scooter logout` do."""

from pathlib import Path

from devices.console.exits import CommandFailed, Exit
from devices.console.output import print_json, print_table, talk
from gateway.console import operator_key
from gateway.console.commanding_line import OperatorLine


async def login(bundle: Path, *, as_json: bool) -> None:
    """Keep the key unless the broker refuses it; raises CommandFailed then."""
    key = operator_key.read_key(bundle)
    if not operator_key.is_held(key.login):  # to prove it would take the other's connection
        try:
            await OperatorLine(key, hear=lambda _: None, again=list).prove()
        except CommandFailed as error:
            if error.exit_code == Exit.REFUSED:
                raise
            talk(f"{error}; the key is kept all the same")
    file = operator_key.keep(key)
    talk(f"{key.login} is kept in {file}, and used from now on")
    if as_json:
        print_json({"key": key.login, "file": str(file), "host": key.host, "port": key.port})


def list_kept(*, as_json: bool) -> None:
    """Which keys are here, never their secrets."""
    last = operator_key.remembered()
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


def logout(login: str) -> None:
    """Raises CommandFailed when the key is not kept here."""
    operator_key.forget(login)
    talk(f"{login} is gone from this machine; `scooter operators key revoke` ends it everywhere")

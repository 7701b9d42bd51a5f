"""The broker's password file: who may log in, written whole, verified and replaced at once."""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from broker.admission import NotAdmitted
from broker.files import locked, replace, write_beside, write_private

__all__ = [
    "CANARY",
    "Written",
    "fixed_accounts_file",
    "is_login",
    "new_secret",
    "password_entry",
    "read_logins",
    "secret_hash",
    "secret_matches",
    "write_fixed_accounts",
    "write_passwords",
    "write_private",
]

# A reload hashes the password of every connected client again, in the broker's only thread. Our
# secrets are random and 256 bits long, so slow hashing would only delay that.
ITERATIONS: Final = 101
_SALT_BYTES: Final = 12  # what mosquitto_passwd writes, and all that 2.0 accepts

CANARY: Final = "canary"
"""The account that proves a reload: its secret is new in every rendering."""
RESERVED: Final = frozenset({"gateway", "admin", CANARY})

_SCOOTER = r"[A-Za-z0-9][A-Za-z0-9_-]{2,31}"
_KEY = r"[a-z0-9][a-z0-9_-]{0,30}\.[a-z0-9][a-z0-9_-]{0,30}"
_LOGIN = re.compile(rf"{_SCOOTER}|{_KEY}")
_FIXED = re.compile(r"[a-z][a-z0-9_-]{0,30}")
_HASH = re.compile(r"\$7\$[1-9][0-9]{0,3}\$[A-Za-z0-9+/]{16}\$[A-Za-z0-9+/]{86}==")


@dataclass(frozen=True, slots=True)
class Written:
    """A password file as it is on the disk now."""

    logins: int
    sha256: str
    canary: str = field(repr=False)
    """The secret with which `canary` gets in once this very file is loaded."""


def new_secret() -> str:
    """256 random bits: base64url without padding, 43 characters."""
    return secrets.token_urlsafe(32)


def secret_hash(secret: str) -> str:
    """PBKDF2 with SHA-512 over a salt of its own, as `mosquitto_passwd` of 2.0 writes it."""
    salt = secrets.token_bytes(_SALT_BYTES)
    digest = hashlib.pbkdf2_hmac("sha512", secret.encode(), salt, ITERATIONS)
    encoded = "$".join(base64.b64encode(part).decode() for part in (salt, digest))
    return f"$7${ITERATIONS}${encoded}"


def secret_matches(secret: str, hashed: str) -> bool:
    """Whether this is the secret of a `$7$` hash."""
    found = _HASH.fullmatch(hashed)
    if found is None:
        return False
    _, _, iterations, salt, digest = hashed.split("$")
    mine = hashlib.pbkdf2_hmac("sha512", secret.encode(), base64.b64decode(salt), int(iterations))
    return hmac.compare_digest(mine, base64.b64decode(digest))


def password_entry(name: str, secret: str) -> str:
    """One line of a password file, without its end."""
    return f"{name}:{secret_hash(secret)}"


def is_login(name: str) -> bool:
    """A scooter's id, or an operator's key such as `alice.laptop`; nothing that is reserved."""
    return bool(_LOGIN.fullmatch(name)) and name.partition(".")[0].lower() not in RESERVED


def fixed_accounts_file(passwords: Path) -> Path:
    """Where the accounts stand that no registry knows: beside the password file."""
    return passwords.with_name(f"{passwords.name}.fixed")


def write_fixed_accounts(path: Path, accounts: Mapping[str, str]) -> None:
    """Replace the fixed accounts (name → secret; `gateway` and `admin`); hashes are kept only."""
    if bad := sorted(name for name in accounts if not _FIXED.fullmatch(name) or name == CANARY):
        raise ValueError(f"not a name for a fixed account: {', '.join(map(repr, bad))}")
    lines = [f"{password_entry(name, secret)}\n" for name, secret in accounts.items()]
    write_private(path, "".join(lines))


def write_passwords(path: Path, logins: Mapping[str, str]) -> Written:
    """Replace the password file: the fixed accounts, `canary`, and these logins (name → hash).

    Owner, group and mode stay. Raises NotAdmitted, and then the old file stands: a name or hash is
    not valid, the fixed accounts are missing, or the disk did not take what was written.
    """
    try:
        with locked(path.parent):
            return _replace(path, logins)
    except OSError as error:
        raise NotAdmitted(
            f"The password file {path} cannot be written ({error.strerror or error}): "
            "the old one stands. Make room or give access, then try again.",
            written=False,
        ) from error


def read_logins(path: Path) -> dict[str, str]:
    """Name → hash of who gets in now beside fixed accounts and `canary`; empty without a file.

    Raises NotAdmitted when a line is not one that we write.
    """
    fixed = _parse(fixed_accounts_file(path))
    return {name: hashed for name, hashed in _parse(path).items() if name not in {*fixed, CANARY}}


def _replace(path: Path, logins: Mapping[str, str]) -> Written:
    canary = new_secret()
    # The canary stands first: who looks at the first line sees that the file is another one.
    accounts = {CANARY: secret_hash(canary), **_fixed_accounts(path)}
    _check(logins, taken={name.lower() for name in accounts})
    accounts |= logins
    text = "".join([f"{name}:{hashed}\n" for name, hashed in accounts.items()])
    new = write_beside(path, text, like=path)
    if _parse(new) != accounts:
        raise NotAdmitted(
            f"The disk did not keep what was written to {new}: the old password file stands. "
            "Check the disk.",
            written=False,
        )
    replace(new, path)
    return Written(len(logins), hashlib.sha256(text.encode()).hexdigest(), canary)


def _fixed_accounts(path: Path) -> dict[str, str]:
    file = fixed_accounts_file(path)
    if accounts := _parse(file):
        return accounts
    raise NotAdmitted(
        f"There are no fixed accounts in {file}: without them the gateway itself would be locked "
        "out, so the old password file stands. Write them first.",
        written=False,
    )


def _check(logins: Mapping[str, str], *, taken: set[str]) -> None:
    """A name or hash that Mosquitto reads otherwise than we mean it must not reach the file."""
    for name, hashed in logins.items():
        if not is_login(name) or name.lower() in taken:
            raise NotAdmitted(f"{name!r} cannot be a login: the old ones stand.", written=False)
        if not _HASH.fullmatch(hashed):
            raise NotAdmitted(
                f"The hash of {name} is not one that Mosquitto checks: the old logins stand.",
                written=False,
            )


def _parse(path: Path) -> dict[str, str]:
    """Name → hash, every line checked; empty without a file."""
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return {}
    accounts: dict[str, str] = {}
    lines = text.split("\n")
    for number, line in enumerate(lines[:-1], 1):
        name, _, hashed = line.partition(":")
        known = _FIXED.fullmatch(name) or _LOGIN.fullmatch(name)
        if not known or name in accounts or not _HASH.fullmatch(hashed):
            raise NotAdmitted(
                f"Line {number} of {path} is not an account: mend or remove it.", written=False
            )
        accounts[name] = hashed
    if lines[-1]:
        raise NotAdmitted(f"{path} has no end of line at its end: it is cut short.", written=False)
    return accounts

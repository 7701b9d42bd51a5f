"""The broker's password file: entries for generated secrets, written whole and atomically."""

import base64
import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

# A reload hashes the password of every connected client again, in the broker's only thread. Our
# secrets are random and 256 bits long, so slow hashing would only delay that.
ITERATIONS = 101
_SALT_BYTES = 12  # what mosquitto_passwd writes, and all that 2.0 accepts


def password_entry(name: str, secret: str) -> str:
    """One line of a password file: PBKDF2 with SHA-512, as `mosquitto_passwd` of 2.0 writes it."""
    salt = secrets.token_bytes(_SALT_BYTES)
    digest = hashlib.pbkdf2_hmac("sha512", secret.encode(), salt, ITERATIONS)
    encoded = "$".join(base64.b64encode(part).decode() for part in (salt, digest))
    return f"{name}:$7${ITERATIONS}${encoded}"


def write_password_file(path: Path, accounts: Mapping[str, str]) -> None:
    """Replace the file at once with these names and secrets, readable by us alone."""
    text = "".join(f"{password_entry(name, secret)}\n" for name, secret in accounts.items())
    write_private(path, text)


def write_private(path: Path, text: str) -> None:
    """Replace a file at once, with mode 0600 from its first byte on."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)

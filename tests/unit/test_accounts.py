"""The password file: what may stand in it, and that it is always a whole one."""

import base64
import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.accounts import (
    fixed_accounts_file,
    is_login,
    new_secret,
    password_entry,
    read_logins,
    secret_hash,
    secret_matches,
    write_fixed_accounts,
    write_passwords,
)
from broker.admission import NotAdmitted
from devices.operators import parse_login
from devices.scooters import NewScooter

HASH = secret_hash("known to the tests")
OLD = {"SC-0001": HASH, "alice.laptop": HASH}
NEW = {"SC-0002": secret_hash("other"), **OLD}

DISK_FULL = """
import resource, sys
from pathlib import Path
from broker.accounts import secret_hash, write_passwords
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
write_passwords(Path(sys.argv[1]), {f"SC-{n:04}": secret_hash("x") for n in range(200)})
"""

REPLACE = """
import sys
from pathlib import Path
from broker.accounts import write_passwords
write_passwords(Path(sys.argv[1]), {})
"""


@pytest.fixture
def passwords(tmp_path: Path) -> Path:
    """A password file with fixed accounts and two logins, in a folder of its own."""
    path = tmp_path / "passwords"
    write_fixed_accounts(fixed_accounts_file(path), {"gateway": "g", "admin": "a"})
    write_passwords(path, OLD)
    return path


def names_in(path: Path) -> list[str]:
    return [line.split(":")[0] for line in path.read_text().splitlines()]


def run(script: str, *arguments: object, prefix: tuple[str, ...] = ()) -> tuple[str, str]:
    """Output and errors of a process of its own."""
    done = subprocess.run(  # noqa: S603 - our own script
        [*prefix, sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout, done.stderr


@pytest.mark.parametrize("name", ["SC-0001", "abc", "a" * 32, "alice.laptop", "a.b", "0_-.1-"])
def test_a_scooter_and_an_operators_key_are_logins(name: str) -> None:
    assert is_login(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", "ab", "a" * 33, "-abc", "SC 1", "SC-0001\n", "SC:1x", "#abc", "S/1x", "S+1x", "Sé01"),
        *("a.b.c", ".a", "a.", "Alice.laptop", "alice.Laptop", "a" * 32 + ".b"),
        *("gateway", "Gateway", "ADMIN", "canary", "gateway.control", "admin.laptop"),
    ],
)
def test_what_is_reserved_or_could_be_read_otherwise_is_no_login(name: str) -> None:
    assert not is_login(name)


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=40))
def test_a_login_is_one_level_of_a_topic_and_one_field_of_a_line(name: str) -> None:
    if is_login(name):
        assert name.isascii()
        assert not set(name) & set("/+#$:% \t\r\n")


@given(st.from_regex(r"[A-Za-z0-9_.-]{1,40}|(gateway|admin|Canary)(\.key)?", fullmatch=True))
def test_the_registry_and_the_broker_agree_on_names(name: str) -> None:
    # One row that the broker does not take would keep everybody's changes out.
    known = NewScooter(name).problem is None or parse_login(name) is not None

    assert is_login(name) == known


def test_a_secret_has_256_random_bits() -> None:
    secrets = {new_secret() for _ in range(1000)}

    assert len(secrets) == 1000
    assert {len(base64.urlsafe_b64decode(secret + "=")) for secret in secrets} == {32}


def test_a_password_entry_is_pbkdf2_over_a_salt_of_its_own() -> None:
    name, hashed = password_entry("gateway", "s3cret").split(":")
    _, kind, iterations, salt, digest = hashed.split("$")
    expected = hashlib.pbkdf2_hmac("sha512", b"s3cret", base64.b64decode(salt), int(iterations))

    assert (name, kind, iterations) == ("gateway", "7", "101")
    assert base64.b64decode(digest) == expected
    assert password_entry("gateway", "s3cret") != password_entry("gateway", "s3cret")


def test_a_hash_matches_its_secret_and_no_other() -> None:
    assert secret_matches("known to the tests", HASH)
    assert not secret_matches("known to the test", HASH)
    assert not secret_matches("known to the tests", "known to the tests")


def test_the_file_names_the_canary_the_fixed_accounts_and_exactly_these_logins(
    passwords: Path,
) -> None:
    written = write_passwords(passwords, NEW)

    assert names_in(passwords) == ["canary", "gateway", "admin", *NEW]
    assert read_logins(passwords) == NEW
    assert written.logins == 3
    assert written.sha256 == hashlib.sha256(passwords.read_bytes()).hexdigest()


def test_each_rendering_has_another_canary_on_its_first_line(passwords: Path) -> None:
    seen = set()
    for _ in range(3):
        written = write_passwords(passwords, OLD)
        first = passwords.read_text().splitlines()[0]
        _, _, _, salt, digest = first.split("$")
        expected = hashlib.pbkdf2_hmac(
            "sha512", written.canary.encode(), base64.b64decode(salt), 101
        )
        assert base64.b64decode(digest) == expected
        assert written.canary not in repr(written)
        seen.add(first)

    assert len(seen) == 3


@pytest.mark.parametrize(
    ("name", "hashed"),
    [
        ("SC-0003\nevil", HASH),
        ("SC-0003:x", HASH),
        ("gateway", HASH),
        ("Canary", HASH),
        ("SC-0003", f"{HASH}\nevil:{HASH}"),
        ("SC-0003", HASH + "\n"),
        ("SC-0003", "secret in the clear"),
        ("SC-0003", HASH.replace("$7$", "$6$")),
        ("SC-0003", HASH.replace("$101$", "$999999$")),
        ("SC-0003", ""),
    ],
)
def test_a_bad_name_or_hash_leaves_the_old_file_as_it_was(
    passwords: Path, name: str, hashed: str
) -> None:
    before = passwords.read_bytes()

    with pytest.raises(NotAdmitted) as caught:
        write_passwords(passwords, {**OLD, name: hashed})

    assert not caught.value.written
    assert hashed not in str(caught.value) or not hashed
    assert passwords.read_bytes() == before


def test_without_fixed_accounts_nothing_is_replaced(passwords: Path) -> None:
    before = passwords.read_bytes()
    fixed_accounts_file(passwords).unlink()

    with pytest.raises(NotAdmitted, match="no fixed accounts"):
        write_passwords(passwords, NEW)

    assert passwords.read_bytes() == before


def test_a_login_that_a_fixed_account_has_already_is_refused(passwords: Path) -> None:
    write_fixed_accounts(fixed_accounts_file(passwords), {"gateway": "g", "load": "l"})

    with pytest.raises(NotAdmitted, match="'Load' cannot be a login"):
        write_passwords(passwords, {"Load": HASH})


@pytest.mark.parametrize("name", ["canary", "Gateway", "a:b", "a\nb", ""])
def test_a_fixed_account_has_a_plain_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a name for a fixed account"):
        write_fixed_accounts(tmp_path / "fixed", {name: "secret"})


def test_fixed_accounts_are_kept_as_hashes_only(tmp_path: Path) -> None:
    file = tmp_path / "passwords.fixed"
    write_fixed_accounts(file, {"gateway": "in the clear"})

    assert "in the clear" not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("line", ["garbage", "SC-0001:x", f"SC-0001:{HASH}\nSC-0001:{HASH}"])
def test_a_line_that_we_did_not_write_is_told_by_its_number(passwords: Path, line: str) -> None:
    passwords.write_text(f"{line}\n")

    with pytest.raises(NotAdmitted, match=r"Line [12] of .* is not an account"):
        read_logins(passwords)


def test_a_file_that_was_cut_short_is_told(passwords: Path) -> None:
    passwords.write_text(f"SC-0001:{HASH}\nSC-0002:{HASH[:-2]}")

    with pytest.raises(NotAdmitted, match="cut short"):
        read_logins(passwords)


def test_a_file_is_private_from_the_start(passwords: Path) -> None:
    assert passwords.stat().st_mode & 0o777 == 0o600


def test_who_could_read_the_old_file_can_read_the_new_one(passwords: Path) -> None:
    passwords.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(passwords, 1883, 1884)
    before = passwords.stat()
    write_passwords(passwords, NEW)
    after = passwords.stat()

    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )
    assert after.st_ino != before.st_ino


def test_a_full_disk_leaves_the_old_file_and_is_told(passwords: Path) -> None:
    before = passwords.read_bytes()
    _, errors = run(DISK_FULL, passwords)

    assert "cannot be written (File too large): the old one stands" in errors
    assert passwords.read_bytes() == before

    write_passwords(passwords, NEW)  # over what was left
    assert read_logins(passwords) == NEW
    assert not passwords.with_name("passwords.new").exists()


def test_an_unwritable_folder_leaves_the_old_file_and_is_told(passwords: Path) -> None:
    before = passwords.read_bytes()
    passwords.parent.chmod(0o500)
    # Root may write anywhere, unless it gives that up.
    humble = ("setpriv", "--bounding-set=-dac_override") if os.geteuid() == 0 else ()
    try:
        _, errors = run(REPLACE, passwords, prefix=humble)
    finally:
        passwords.parent.chmod(0o700)

    assert "cannot be written (Permission denied): the old one stands" in errors
    assert passwords.read_bytes() == before


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotAdmitted, match="No such file or directory"):
        write_passwords(tmp_path / "missing" / "passwords", {})


def test_two_writers_at_once_take_turns(passwords: Path) -> None:
    renderings = [{f"SC-{n:04}": HASH for n in range(size)} for size in (500, 900)] * 4
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda logins: write_passwords(passwords, logins), renderings))

    assert read_logins(passwords) in renderings

import json
from pathlib import Path

import pytest
from cryptography import x509

from broker.accounts import new_secret, read_logins, secret_hash, secret_matches, write_passwords
from gateway.deployment.setup import SECRET_NAMES, NotSetUp, set_up
from gateway.errors import SettingsError

GIVEN = "0123456789abcdef" * 4


def texts(folder: Path) -> dict[Path, str]:
    return {path: path.read_text() for path in folder.rglob("*") if path.is_file()}


def known(folder: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((folder / "own" / "secrets.json").read_text())
    return found


def test_again_it_changes_nothing(tmp_path: Path) -> None:
    assert set_up(tmp_path, names=["mqtt.example.org"])
    before = texts(tmp_path)

    assert set_up(tmp_path, names=["mqtt.example.org"]) == []
    assert texts(tmp_path) == before


def test_no_two_installations_share_a_secret(tmp_path: Path) -> None:
    for name in ("one", "other"):
        set_up(tmp_path / name, names=[])

    both = [*known(tmp_path / "one").values(), *known(tmp_path / "other").values()]
    assert len(both) == len(set(both)) == 2 * len(SECRET_NAMES)


def test_nobody_else_can_read_a_file(tmp_path: Path) -> None:
    set_up(tmp_path, names=[])

    for path in texts(tmp_path):
        others = path.stat().st_mode & 0o007
        is_public = path.suffix == ".crt" and path.parent.name == "authority"
        assert is_public or not others, path


def test_each_server_is_handed_only_its_own_secrets(tmp_path: Path) -> None:
    set_up(tmp_path, names=[])
    secrets = known(tmp_path)

    for folder, may_have in {
        "broker": set[str](),
        "passwords": set[str](),
        "redis": {"redis", "redis_admin", "redis_reader"},
        "postgres": {"postgres_superuser"},
        "gateway": {
            *("mqtt", "mqtt_admin", "fleet", "redis", "redis_reader"),
            *("postgres", "postgres_reader"),
        },
    }.items():
        written = "".join(texts(tmp_path / folder).values())
        assert {name for name, secret in secrets.items() if secret in written} == may_have


def test_the_certificate_follows_the_names_and_the_authority_stays(tmp_path: Path) -> None:
    set_up(tmp_path, names=["old.example.org"])
    authority = (tmp_path / "gateway" / "authority.crt").read_text()

    made = set_up(tmp_path, names=["new.example.org"])

    assert made == ["broker/server.crt written"]
    assert (tmp_path / "gateway" / "authority.crt").read_text() == authority
    certificate = x509.load_pem_x509_certificate((tmp_path / "broker/server.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "new.example.org" in names.get_values_for_type(x509.DNSName)


def test_logins_of_the_registry_outlive_another_set_up(tmp_path: Path) -> None:
    set_up(tmp_path, names=[])
    passwords = tmp_path / "passwords" / "passwords"
    logins = {"SC-0001": secret_hash(new_secret())}
    write_passwords(passwords, logins)
    text = passwords.read_text()

    set_up(tmp_path, names=[])

    assert passwords.read_text() == text
    assert read_logins(passwords) == logins


def test_a_given_secret_is_taken_instead_of_a_new_one(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    (given / "mqtt").write_text(f"{GIVEN}\n")

    set_up(tmp_path / "made", names=[], given=given)

    assert (tmp_path / "made/gateway/scooter_mqtt_password").read_text() == GIVEN
    lines = (tmp_path / "made/passwords/passwords.fixed").read_text().splitlines()
    assert secret_matches(GIVEN, dict(line.split(":") for line in lines)["gateway"])


@pytest.mark.parametrize("text", ["", "changeme", "a b" * 20, "p@ss/word" * 8])
def test_a_weak_or_unsafe_given_secret_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "redis").write_text(text)

    with pytest.raises(SettingsError, match="32 letters and digits"):
        set_up(tmp_path / "made", names=[], given=tmp_path)

    assert not (tmp_path / "made" / "own" / "secrets.json").exists()


def test_an_unwritable_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(NotSetUp, match="Mend that"):
        set_up(tmp_path / "file", names=[])

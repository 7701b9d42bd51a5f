"""The README shows the lines that the demo prints, and nothing else to paste while it runs."""

import re
from pathlib import Path

import pytest

from gateway.local.demo_look import LOOK, environment, newcomer

ROOT = Path(__file__).parents[2]


def pasted(section: str) -> list[str]:
    text = (ROOT / "README.md").read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line for line in lines if not line.startswith("make ")]


def test_to_look_inside_the_readme_shows_what_the_demo_prints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.executable", str(ROOT / ".venv/bin/python"))
    assert pasted("See it run") == [environment(Path(".demo"), []), *LOOK]


def test_to_connect_a_scooter_the_readme_shows_what_the_demo_prints() -> None:
    assert pasted("Connect a scooter") == newcomer(Path(".demo/bundles"), "mosquitto_pub")

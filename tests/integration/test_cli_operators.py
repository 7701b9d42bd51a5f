"""`scooter operators …` on real servers: rights as the registry has them, keys that get in."""

import json
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from devices.console.exits import Exit
from gateway.errors import ServerAway
from gateway.local.servers import Servers
from tests.command_line import Ended, access_settings, gets_in, logged_in, scooter

Run = Callable[..., Awaitable[Ended]]

pytestmark = pytest.mark.timeout(300)  # many processes, one after the other


@pytest.fixture
def run(own_mosquitto: Servers, redis_url: str, postgres_url: str) -> Run:
    servers = {"redis_url": redis_url, "postgres_url": postgres_url}
    settings = access_settings(own_mosquitto) | servers

    async def run_scooter(*arguments: str, **changed: object) -> Ended:
        return await scooter("operators", *arguments, **(settings | changed))

    return run_scooter


async def new_key(run: Run, login: str) -> dict[str, Any]:
    """The bundle of a key that was made just now."""
    ended = await run("key", "add", login, "--json")
    assert ended.code == Exit.OK, ended.err
    bundle: dict[str, Any] = ended.json["bundle"]
    return bundle


async def test_rights_are_given_and_taken_one_by_one(run: Run) -> None:
    await run("add", "alice")
    two = ("--command", "lock", "--command", "unlock", "--tag", "munich")

    granted = await run("grant", "alice", *two, "--json")
    taken = await run("ungrant", "alice", "--command", "unlock", "--tag", "munich", "--json")
    any_ = await run("grant", "alice", "--any-command", "--any-scooter", "--json")
    neither = await run("grant", "alice", "--command", "lock")
    unknown = await run("grant", "alice", "--command", "fly", "--any-scooter")
    nobody = await run("grant", "bob", "--command", "lock", "--any-scooter")
    listed = await run("list", "--csv")

    assert granted.json["rights"] == ["lock:munich", "unlock:munich"]
    assert taken.json["rights"] == ["lock:munich"]
    assert any_.json["rights"] == ["*:*", "lock:munich"]
    assert (neither.code, "--any-scooter" in neither.err) == (Exit.USAGE, True)
    assert (unknown.code, "no command 'fly'" in unknown.err) == (Exit.REFUSED, True)
    assert nobody.code == Exit.NOT_FOUND
    assert listed.lines[0].startswith("operator,standing,rights,keys")
    assert listed.lines[1].startswith("alice,active,*:* lock:munich,")


async def test_a_key_gets_in_and_its_secret_is_shown_once(run: Run, tmp_path: Path) -> None:
    await run("add", "alice")
    file = tmp_path / "alice.json"

    shown = await run("key", "add", "alice.laptop")
    written = await run("key", "add", "alice.phone", "--out", str(file))
    listed = await run("key", "list", "alice", "--json")

    header, row = shown.lines
    secret = row.split()[header.split().index("secret")]
    bundle = json.loads(file.read_text())
    assert secret not in shown.err + listed.out
    assert bundle["secret"] not in written.out + written.err + listed.out
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert await gets_in(bundle)
    assert await gets_in(bundle | {"username": "alice.laptop", "secret": secret})
    assert [each["login"] for each in listed.json] == ["alice.laptop", "alice.phone"]
    assert {each["standing"] for each in listed.json} == {"active"}


async def test_a_rotated_key_has_one_secret_and_a_revoked_one_has_none(run: Run) -> None:
    await run("add", "alice")
    first, other = await new_key(run, "alice.laptop"), await new_key(run, "alice.phone")

    unasked = await run("key", "rotate", "alice.laptop")
    async with logged_in(first) as live:
        rotated = await run("key", "rotate", "alice.laptop", "--yes", "--json")
        with pytest.raises(ServerAway, match=r"ended|closed"):
            await live.receive(1, within_s=10)
    second = rotated.json["bundle"]
    gets_in_rotated = (await gets_in(first), await gets_in(second))
    revoked = await run("key", "revoke", "alice.laptop", "--yes", "--json")

    assert unasked.code == Exit.REFUSED
    assert gets_in_rotated == (False, True)
    assert [each["client_id"] for each in revoked.json["ended"]] == ["alice.laptop"]
    assert not revoked.json["ended"][0]["returned"]
    assert revoked.json["admitted"]["logins"] == 1
    assert (await gets_in(second), await gets_in(other)) == (False, True)


async def test_a_revoked_operator_keeps_neither_rights_nor_keys(run: Run) -> None:
    await run("add", "alice")
    await run("grant", "alice", "--any-command", "--any-scooter")
    bundle = await new_key(run, "alice.laptop")

    unasked = await run("revoke", "alice")
    revoked = await run("revoke", "alice", "--yes", "--reason", "left", "--json")
    listed = await run("list", "--json")
    key_again = await run("key", "add", "alice.laptop")
    unknown = await run("revoke", "bob", "--yes")

    assert unasked.code == Exit.REFUSED
    assert revoked.json["logins"] == ["alice.laptop"]
    assert not await gets_in(bundle)
    assert (listed.json[0]["standing"], listed.json[0]["rights"]) == ("revoked", [])
    assert listed.json[0]["keys"] == []
    assert (key_again.code, unknown.code) == (Exit.NOT_FOUND, Exit.NOT_FOUND)
    assert "`scooter operators add` it again" in key_again.err


async def test_names_that_cannot_be_are_refused_with_a_sentence(run: Run) -> None:
    await run("add", "alice")

    again = await run("add", "alice")
    reserved = await run("add", "gateway")
    no_key = await run("key", "add", "alice")
    nobody = await run("key", "list", "bob")

    assert (again.code, "operator alice exists" in again.err) == (Exit.REFUSED, True)
    assert (reserved.code, "reserved" in reserved.err) == (Exit.REFUSED, True)
    assert (no_key.code, "is no key" in no_key.err) == (Exit.REFUSED, True)
    assert nobody.code == Exit.NOT_FOUND

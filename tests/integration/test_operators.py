"""Operators: rights by command and tag, named keys, and a revoked login that never comes back."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from broker.accounts import new_secret, password_entry
from devices.operators import OperatorError, Operators, Right, UnknownOperator, parse_login
from devices.registry import Registry
from gateway.storage.postgres import open_postgres

pytestmark = pytest.mark.integration

LAPTOP = "alice.laptop"


@pytest.fixture
async def pool(postgres_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with open_postgres(postgres_url) as pool:
        yield pool


@pytest.fixture
async def operators(pool: asyncpg.Pool) -> Operators:
    operators = Operators(pool)
    await operators.add("alice", by="me")
    return operators


def a_hash() -> str:
    return password_entry("x", new_secret()).partition(":")[2]


@pytest.mark.parametrize(
    "name", ["", "Alice", "a.b", "-a", "gateway", "admin", "canary", "a" * 32, "ä", "a b", "a\n"]
)
async def test_a_name_that_cannot_be_one_is_refused(operators: Operators, name: str) -> None:
    with pytest.raises(OperatorError):
        await operators.add(name, by="me")


async def test_a_name_is_taken_once(operators: Operators) -> None:
    with pytest.raises(OperatorError, match="alice exists"):
        await operators.add("alice", by="me")
    assert [each.operator for each in await operators.list()] == ["alice"]


async def test_rights_are_granted_by_command_and_tag_and_taken_away(operators: Operators) -> None:
    await operators.grant("alice", ["lock", "unlock"], ["berlin", "blue"], by="me")
    await operators.grant("alice", ["*"], by="me")
    await operators.grant("alice", ["*"], by="me")
    left = await operators.ungrant("alice", ["unlock"], ["berlin", "blue", "no"], by="me")

    assert left.rights == (Right("*", "*"), Right("lock", "berlin"), Right("lock", "blue"))
    assert await operators.get("alice") == left
    assert await operators.get("bob") is None


async def test_a_right_that_could_never_count_is_refused(operators: Operators) -> None:
    with pytest.raises(OperatorError, match="no command 'fly'"):
        await operators.grant("alice", ["lock", "fly"], by="me")
    with pytest.raises(OperatorError, match="no tag"):
        await operators.grant("alice", ["lock"], ["a b"], by="me")
    with pytest.raises(UnknownOperator):
        await operators.grant("bob", ["lock"], by="me")
    assert (await operators.list())[0].rights == ()


async def test_each_secret_of_a_key_is_a_new_generation(
    operators: Operators, pool: asyncpg.Pool
) -> None:
    first, second, third = a_hash(), a_hash(), a_hash()

    assert await operators.add_key(LAPTOP, first, by="me") == 1
    assert await operators.rotate_key(LAPTOP, second, by="me") == 2
    assert await Registry(pool).logins() == {LAPTOP: second}
    assert await operators.revoke_key(LAPTOP, by="me", reason="stolen")
    assert not await operators.revoke_key(LAPTOP, by="me")
    assert await Registry(pool).logins() == {}
    assert await operators.add_key(LAPTOP, third, by="me") == 3
    assert [(key.login, key.is_active, key.generation) for key in await operators.keys()] == [
        (LAPTOP, True, 3)
    ]
    noted = [audit.action for audit in reversed(await Registry(pool).audits(LAPTOP))]
    assert noted == ["add", "rotate", "revoke", "add"]


async def test_a_key_is_added_once_and_only_an_active_one_is_rotated(operators: Operators) -> None:
    with pytest.raises(UnknownOperator):
        await operators.rotate_key(LAPTOP, a_hash(), by="me")
    await operators.add_key(LAPTOP, a_hash(), by="me")

    with pytest.raises(OperatorError, match="exists: rotate or revoke it"):
        await operators.add_key(LAPTOP, a_hash(), by="me")
    with pytest.raises(UnknownOperator):
        await operators.revoke_key("alice.phone", by="me")
    with pytest.raises(UnknownOperator):
        await operators.add_key("bob.laptop", a_hash(), by="me")
    for login in ("alice", "alice.", "alice.a.b", "alice.Laptop", "gateway.x", "SC-0001"):
        with pytest.raises(OperatorError):
            await operators.add_key(login, a_hash(), by="me")


async def test_a_key_is_kept_as_a_hash_only(operators: Operators) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await operators.add_key(LAPTOP, new_secret(), by="me")
    assert await operators.keys() == []


async def test_revoking_an_operator_ends_all_keys_and_rights_and_adding_it_again_revives_none(
    operators: Operators, pool: asyncpg.Pool
) -> None:
    await operators.grant("alice", ["*"], by="me")
    await operators.add("bob", by="me")
    for login in (LAPTOP, "alice.phone", "bob.phone"):
        await operators.add_key(login, a_hash(), by="me")

    assert sorted(await operators.revoke("alice", by="me")) == [LAPTOP, "alice.phone"]
    assert await operators.revoke("alice", by="me") == []
    with pytest.raises(UnknownOperator):
        await operators.add_key(LAPTOP, a_hash(), by="me")
    with pytest.raises(UnknownOperator, match="revoked"):
        await operators.grant("alice", ["lock"], by="me")

    again = await operators.add("alice", by="me")

    assert again.is_active
    assert again.rights == ()
    assert set(await Registry(pool).logins()) == {"bob.phone"}
    assert await operators.add_key(LAPTOP, a_hash(), by="me") == 2
    with pytest.raises(UnknownOperator):
        await operators.revoke("carol", by="me")


def test_a_login_is_an_operator_one_dot_and_a_key() -> None:
    assert parse_login("alice.laptop") == ("alice", "laptop")
    for login in ("alice", "a.b.c", ".b", "a.", "A.b", "admin.b", "SC-0001", "a.b\n"):
        assert parse_login(login) is None

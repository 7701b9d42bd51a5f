"""The registry: ids are never used twice, moves are legal, and each change has its audit."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.accounts import new_secret, password_entry
from devices.registry import (
    RESERVED,
    CredentialRaced,
    NewScooter,
    Registry,
    RegistryBusy,
    Standing,
    StandingError,
    TagsError,
    UnknownScooter,
)
from devices.standing import NEXT
from gateway.storage.postgres import AWAY, open_postgres

pytestmark = pytest.mark.integration

ID = "SC-0001"


@pytest.fixture
async def pool(postgres_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with open_postgres(postgres_url) as pool:
        yield pool


@pytest.fixture
def registry(pool: asyncpg.Pool) -> Registry:
    return Registry(pool)


def hash_of(secret: str) -> str:
    return password_entry("x", secret).partition(":")[2]


async def added(registry: Registry, *ids: str) -> None:
    assert set((await registry.add([NewScooter(each) for each in ids], by="me")).values()) == {
        "added"
    }


async def actions(registry: Registry, subject: str = ID) -> list[str]:
    return [audit.action for audit in reversed(await registry.audits(subject))]


async def test_what_was_added_is_read_as_it_was_told(registry: Registry) -> None:
    scooter = NewScooter(ID, "B-77", "scooter_seated", ("blue", "berlin"), {"lot": [1, "é"]})

    assert await registry.add([scooter], by="me") == {ID: "added"}

    found = await registry.get(ID)
    assert found is not None
    assert (found.vehicle_id, found.vehicle_type) == ("B-77", "scooter_seated")
    assert (found.tags, found.metadata) == (("berlin", "blue"), {"lot": [1, "é"]})
    assert (found.standing, found.generation) == (Standing.REGISTERED, 0)
    assert not found.has_credential
    assert await registry.get("SC-0002") is None


async def test_a_row_that_exists_is_left_as_it_is(registry: Registry) -> None:
    await registry.add([NewScooter(ID, tags=("a",))], by="me")

    assert await registry.add([NewScooter(ID, tags=("b",))], by="you") == {ID: "exists"}
    found = await registry.get(ID)
    assert found is not None
    assert found.tags == ("a",)
    assert await actions(registry) == ["add"]


@pytest.mark.parametrize(
    ("scooter", "problem"),
    [
        (NewScooter("x"), "is no scooter id"),
        (NewScooter("alice.laptop"), "is no scooter id"),
        (NewScooter("Gateway"), "reserved"),
        (NewScooter("CANARY"), "reserved"),
        (NewScooter("sc-0001"), "SC-0001 exists: ids that differ only in case"),
        (NewScooter("SC-0009", vehicle_id="SC-0001"), "vehicle id SC-0001 is taken by SC-0001"),
        (NewScooter("SC-0009", vehicle_id="a\nb"), "printable"),
        (NewScooter("SC-0009", vehicle_id=" 12"), "no space around"),
        (NewScooter("SC-0009", vehicle_type="boat"), "vehicle type 'boat'"),
        (NewScooter("SC-0009", tags=("a b",)), "is no tag"),
        (NewScooter("SC-0009", tags=("*",)), "is no tag"),
        (NewScooter("SC-0009", metadata={"a": "\0"}), "NUL"),
        (NewScooter("SC-0009", metadata={"a": "x" * 9000}), "at most 8192"),
        (NewScooter("SC-0009", metadata={"a": {1, 2}}), "metadata"),
    ],
    ids=lambda each: each if isinstance(each, str) else None,
)
async def test_what_cannot_be_added_says_why_and_keeps_nobody_else_out(
    registry: Registry, scooter: NewScooter, problem: str
) -> None:
    await added(registry, ID)

    results = await registry.add([scooter, NewScooter("SC-0002")], by="me")

    assert results["SC-0002"] == "added"
    assert problem in results[scooter.scooter_id]


async def test_a_retired_id_never_comes_back(registry: Registry) -> None:
    await added(registry, ID)
    await registry.set_credentials({ID: hash_of("s")}, by="me")
    retired = await registry.set_standing(ID, Standing.RETIRED, by="me", reason="burnt")

    assert not retired.has_credential
    assert "retired for ever" in (await registry.add([NewScooter(ID)], by="me"))[ID]
    for standing in set(Standing) - {Standing.RETIRED}:
        with pytest.raises(StandingError, match="SC-0001 is retired: retired is for ever"):
            await registry.set_standing(ID, standing, by="me")
    with pytest.raises(StandingError):
        await registry.set_credentials({ID: hash_of("s")}, by="me")
    assert await registry.set_credentials({ID: None}, by="me") == {ID: 1}
    assert await registry.logins() == {}


@pytest.mark.parametrize("current", Standing)
@pytest.mark.parametrize("to", Standing)
async def test_only_legal_moves_are_made(
    registry: Registry, pool: asyncpg.Pool, current: Standing, to: Standing
) -> None:
    await added(registry, ID)
    await pool.execute("UPDATE scooters SET standing = $1", str(current))

    if to is current or to in NEXT[current]:
        assert (await registry.set_standing(ID, to, by="me")).standing is to
    else:
        with pytest.raises(StandingError):
            await registry.set_standing(ID, to, by="me")
        found = await registry.get(ID)
        assert found is not None
        assert found.standing is current


async def test_a_move_made_twice_has_one_audit(registry: Registry) -> None:
    await added(registry, ID)
    for _ in range(2):
        await registry.set_standing(ID, Standing.SUSPENDED, by="alice", reason="lost key")

    newest = (await registry.audits(ID, kind="scooter"))[0]
    assert await actions(registry) == ["add", "suspended"]
    assert (newest.by, newest.reason, newest.detail) == (
        "alice",
        "lost key",
        {"from": "registered"},
    )


async def test_moves_of_many_are_made_all_or_none(registry: Registry) -> None:
    await added(registry, ID, "SC-0002")
    await registry.set_standing("SC-0002", Standing.RETIRED, by="me")

    with pytest.raises(StandingError):
        await registry.set_standings([ID, "SC-0002"], Standing.ACTIVE, by="me")
    with pytest.raises(UnknownScooter):
        await registry.set_standings([ID, "SC-9999"], Standing.ACTIVE, by="me")

    assert await actions(registry) == ["add"]
    assert await registry.set_standings([ID], Standing.ACTIVE, by="me") == 1


async def test_each_secret_is_a_new_generation_and_the_old_hash_is_gone(
    registry: Registry, pool: asyncpg.Pool
) -> None:
    await added(registry, ID, "SC-0002")
    first, second = hash_of("one"), hash_of("two")

    assert await registry.set_credentials({ID: first, "SC-0002": first}, by="me") == {
        ID: 1,
        "SC-0002": 1,
    }
    assert await registry.set_credentials({ID: second}, by="me") == {ID: 2}
    assert await registry.logins() == {ID: second, "SC-0002": first}
    assert await registry.set_credentials({ID: None}, by="me") == {ID: 2}
    assert await registry.logins() == {"SC-0002": first}
    assert await registry.set_credentials({ID: first}, by="me") == {ID: 3}
    assert await actions(registry) == ["add", *["credential"] * 2, "no credential", "credential"]
    everything = await pool.fetch(
        "SELECT s::text FROM scooters s UNION ALL SELECT a::text FROM access_audit a"
    )
    assert second not in str(everything)


async def test_nothing_but_a_hash_is_taken_for_one(registry: Registry) -> None:
    await added(registry, ID)
    secret = new_secret()

    for text in (secret, f"{hash_of('x')}\nroot:{hash_of('y')}", "$6$x$y", ""):
        with pytest.raises(asyncpg.CheckViolationError) as failure:
            await registry.set_credentials({ID: text}, by="me")
        assert failure.value.constraint_name


async def test_a_credential_that_somebody_else_changed_meanwhile_is_not_replaced(
    registry: Registry,
) -> None:
    await added(registry, ID)
    await registry.set_credentials({ID: hash_of("1")}, by="me", following={ID: 0})

    with pytest.raises(CredentialRaced):
        await registry.set_credentials({ID: hash_of("2")}, by="me", following={ID: 0})
    with pytest.raises(UnknownScooter):
        await registry.set_credentials({ID: hash_of("2"), "SC-9": hash_of("3")}, by="me")

    found = await registry.get(ID)
    assert found is not None
    assert found.generation == 1


async def test_another_secret_makes_an_active_scooter_registered_in_the_same_transaction(
    registry: Registry,
) -> None:
    await registry.add([NewScooter(ID)], by="me")
    await registry.set_credentials({ID: hash_of("1")}, by="me")
    await registry.activate({ID: 1}, by="me")
    with pytest.raises(CredentialRaced):
        await registry.set_credentials({ID: hash_of("2")}, by="me", following={ID: 0})
    before = await registry.get(ID)
    await registry.set_credentials({ID: hash_of("2")}, by="me", following={ID: 1})
    after = await registry.get(ID)
    await registry.set_standing(ID, Standing.SUSPENDED, by="me")
    await registry.set_credentials({ID: hash_of("3")}, by="me")
    suspended = await registry.get(ID)

    assert before is not None
    assert after is not None
    assert suspended is not None
    assert (before.standing, before.generation) == (Standing.ACTIVE, 1)
    assert (after.standing, after.generation) == (Standing.REGISTERED, 2)
    assert (suspended.standing, suspended.generation) == (Standing.SUSPENDED, 3)
    told = [(each.action, each.reason) for each in await registry.audits(ID)][::-1]
    assert told[2:5] == [("active", None), ("registered", "rotate"), ("credential", None)]


async def test_only_heard_scooters_with_a_credential_get_in(registry: Registry) -> None:
    one = hash_of("x")
    for standing in Standing:
        scooter_id = f"SC-{standing}"
        await added(registry, scooter_id, f"{scooter_id}-none")
        await registry.set_credentials({scooter_id: one}, by="me")
        await registry.set_standing(scooter_id, standing, by="me")

    assert set(await registry.logins()) == {"SC-registered", "SC-active"}


async def test_scooters_are_found_by_tags_standings_and_ids(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("devices.registry._CHUNK", 3)
    scooters = [
        NewScooter(f"SC-{n:02}", tags=("even" if n % 2 == 0 else "odd", "all")) for n in range(10)
    ]
    await registry.add(scooters, by="me")
    await registry.set_standing("SC-04", Standing.RETIRED, by="me")

    async def found(**wanted: object) -> list[str]:
        return [each.scooter_id async for each in registry.find(**wanted)]  # type: ignore[arg-type]

    assert await found() == [each.scooter_id for each in scooters]
    assert await found(tags=["even", "all"]) == ["SC-00", "SC-02", "SC-04", "SC-06", "SC-08"]
    assert await found(tags=["even"], standings=[Standing.RETIRED]) == ["SC-04"]
    assert await found(ids=["SC-09", "SC-01", "SC-77"]) == ["SC-01", "SC-09"]


async def test_tags_are_added_and_removed(registry: Registry) -> None:
    await registry.add([NewScooter(ID, tags=("a", "b"))], by="me")

    assert (await registry.set_tags(ID, add=["c", "a"], remove=["b", "z"], by="me")).tags == (
        "a",
        "c",
    )
    await registry.set_tags(ID, add=["c"], by="me")

    assert await actions(registry) == ["add", "tag"]
    assert (await registry.audits(ID))[0].detail == {"added": ["c"], "removed": ["b"]}
    with pytest.raises(TagsError):
        await registry.set_tags(ID, add=["no space"], by="me")
    with pytest.raises(UnknownScooter):
        await registry.set_tags("SC-0002", add=["a"], by="me")


async def test_two_imports_of_the_same_scooters_at_once_add_each_once(
    postgres_url: str,
) -> None:
    scooters = [NewScooter(f"SC-{n:05}") for n in range(3000)]

    async with open_postgres(postgres_url) as one, open_postgres(postgres_url) as two:
        results = await asyncio.gather(
            Registry(one).add(scooters, by="a"), Registry(two).add(scooters[::-1], by="b")
        )
        rows = await one.fetchval("SELECT count(*) FROM access_audit")

    verdicts = [{results[0][each.scooter_id], results[1][each.scooter_id]} for each in scooters]
    assert all(verdict == {"added", "exists"} for verdict in verdicts)
    assert rows == 3000


async def test_whoever_renders_takes_turns(registry: Registry) -> None:
    steps: list[str] = []

    async def render(name: str) -> None:
        async with registry.locked():
            steps.append(name)
            await asyncio.sleep(0)
            steps.append(name)

    await asyncio.gather(*(render(str(number)) for number in range(4)))
    assert steps[::2] == steps[1::2]

    async with registry.locked():
        with pytest.raises(RegistryBusy, match="another command"):
            async with registry.locked(wait_s=0.2):
                pass
    with pytest.raises(ZeroDivisionError):
        async with registry.locked():
            raise ZeroDivisionError
    async with registry.locked(wait_s=0.2):
        pass


async def test_a_lock_that_was_lost_is_free_and_its_holder_learns_of_it(
    postgres_url: str, registry: Registry, pool: asyncpg.Pool
) -> None:
    async def lose_it() -> None:
        async with open_postgres(postgres_url) as other, Registry(other).locked():
            await pool.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
            async with registry.locked(wait_s=5):
                pass

    with pytest.raises(AWAY):
        await lose_it()
    async with registry.locked(wait_s=5):
        pass


async def test_each_change_tells_once_what_committed(postgres_url: str, registry: Registry) -> None:
    told: list[object] = []
    listener = await asyncpg.connect(postgres_url)
    await listener.add_listener("registry", lambda *what: told.append(what[-1]))

    await added(registry, ID)
    await registry.set_credentials({ID: hash_of("x")}, by="me")
    await listener.execute("DELETE FROM scooters")
    await listener.fetchval("SELECT 1")
    await listener.close()

    assert told == ["", "", "whole"]


async def test_firmware_is_what_the_scooter_told_last(
    registry: Registry, pool: asyncpg.Pool
) -> None:
    await added(registry, ID)
    await pool.execute(
        "INSERT INTO scooter_state (scooter_id, version, received_at, firmware, fields)"
        " VALUES ($1, 1, now(), '2.4.1', '{}')",
        ID,
    )

    found = await registry.get(ID)
    assert found is not None
    assert found.firmware == "2.4.1"


@given(st.text(max_size=40))
def test_whatever_is_no_scooter_id_has_a_problem(text: str) -> None:
    if NewScooter(text).problem is None:
        assert text.isascii()
        assert 3 <= len(text) <= 32
        assert text.lower() not in RESERVED


async def test_ten_thousand_are_added_in_chunks(registry: Registry) -> None:
    results = await registry.add([NewScooter(f"SC-{n:05}") for n in range(10_000)], by="me")

    assert set(results.values()) == {"added"}

"""A provisioning desk on real servers, and what its bundles open."""

import asyncio
import json
import os
import secrets
import signal
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiomqtt
import asyncpg

from broker.administration import Listener, Login, connected
from broker.admission import Broker
from broker.mosquitto import MosquittoBroker, parse_reload
from devices.bundle import Bundle, BundleFacts
from devices.bundle_places import FolderPlace
from devices.keys import Keys
from devices.operators import Operators
from devices.provisioning import Provisioning
from devices.registry import Registry
from gateway.storage.postgres import open_postgres
from tests.broker_place import BrokerPlace

BY: Final = "tests"
FLEET_SECRET: Final = "a fleet secret of the tests, long enough"  # noqa: S105 - not one

Document = Mapping[str, Any]
"""A bundle's JSON, as whoever received it reads it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a broker and its registry are: all that another process needs to know."""

    port: int
    scooters_port: int
    operators_port: int
    admin_password: str = field(repr=False)
    password_file: str
    reload: str
    authority_file: str
    postgres_url: str = field(repr=False)

    def broker(self, *, proof_within_s: float = 30.0) -> MosquittoBroker:
        return MosquittoBroker(
            host="127.0.0.1",
            port=self.port,
            admin_password=self.admin_password,
            password_file=Path(self.password_file),
            reload=parse_reload(self.reload, Path(self.password_file)),
            proof_within_s=proof_within_s,
            hold_s=0.2,
        )

    def facts(self) -> BundleFacts:
        return BundleFacts(
            host="127.0.0.1",
            scooters_port=self.scooters_port,
            operators_port=self.operators_port,
            authority_pem=Path(self.authority_file).read_text(),
            fleet_secret=FLEET_SECRET,
        )


def address_of(place: BrokerPlace, postgres_url: str) -> Address:
    return Address(
        port=place.ports.internal,
        scooters_port=place.ports.scooters,
        operators_port=place.ports.operators,
        admin_password=place.secrets["admin"],
        password_file=str(place.passwords),
        reload=f"pid:{place.pid_file}",
        authority_file=str(place.authority.ca),
        postgres_url=postgres_url,
    )


@dataclass(frozen=True, slots=True)
class Desk:
    """Who provisions; `forgotten` are the scooters that were retired."""

    address: Address
    pool: asyncpg.Pool
    registry: Registry
    operators: Operators
    provisioning: Provisioning
    keys: Keys
    forgotten: list[str]

    async def actions(self, subject: str) -> list[str]:
        """What the audit tells of it, oldest first."""
        return [each.action for each in await self.registry.audits(subject)][::-1]


@asynccontextmanager
async def open_desk(
    address: Address,
    *,
    broker: Broker | None = None,
    wrapped: Callable[[Any], Any] = lambda target: target,
) -> AsyncGenerator[Desk, None]:
    """`wrapped` may put something around registry and broker."""
    async with open_postgres(address.postgres_url) as pool:
        registry, operators = wrapped(Registry(pool)), Operators(pool)
        gate = wrapped(broker or address.broker())
        forgotten: list[str] = []

        async def forget(scooter_id: str) -> None:
            forgotten.append(scooter_id)

        yield Desk(
            address,
            pool,
            registry,
            operators,
            Provisioning(registry=registry, broker=gate, facts=address.facts(), forget=forget),
            Keys(operators=operators, registry=registry, broker=gate, facts=address.facts()),
            forgotten,
        )


class Dying:
    """Something whose process is killed before or after a method: `after:set_credentials`."""

    def __init__(self, target: object, step: str) -> None:
        self._target = target
        self._step = step

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the target has
        method = getattr(self._target, name)
        if self._step == f"before:{name}":
            return lambda *_, **__: _die()
        if self._step != f"after:{name}":
            return method
        return _then_die(method) if isinstance(self._target, FolderPlace) else _later_die(method)


def _then_die(method: Callable[..., object]) -> Callable[..., None]:
    def call(*arguments: object, **more: object) -> None:
        method(*arguments, **more)
        _die()

    return call


def _later_die(method: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[None]]:
    async def call(*arguments: object, **more: object) -> None:
        await method(*arguments, **more)
        _die()

    return call


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def document_of(found: Bundle | Path | None) -> Document:
    """The bundle as it was handed over: in a folder or file, or printed."""
    if isinstance(found, Bundle):
        document = json.loads(found.json())
    else:
        assert found is not None
        file = found / "bundle.json" if found.is_dir() else found
        document = json.loads(file.read_text())
    assert isinstance(document, dict)
    return document


def trusting(bundle: Document) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=bundle["authority"])


def client_of(bundle: Document) -> aiomqtt.Client:
    """Who has nothing but this bundle; the broker forces the client id."""
    return aiomqtt.Client(
        bundle["host"],
        bundle["port"],
        username=bundle["username"],
        password=bundle["secret"],
        identifier="whatever",
        protocol=aiomqtt.ProtocolVersion.V5,
        tls_context=trusting(bundle),
    )


async def ends(client: aiomqtt.Client, *, within_s: float = 10.0) -> None:
    """Returns when the broker has closed this connection."""
    with suppress(aiomqtt.MqttError):
        async with asyncio.timeout(within_s):
            await anext(aiter(client.messages))


async def gets_in(bundle: Document) -> bool:
    """Whether the broker takes this login now; the session ends at once."""
    listener = Listener(host=bundle["host"], port=bundle["port"], tls=trusting(bundle))
    login = Login(
        name=bundle["username"], secret=bundle["secret"], client_id=f"t/{secrets.token_hex(6)}"
    )
    async with connected(listener, login, within_s=10) as connection:
        return connection.accepted


async def all_get_in(bundles: Iterable[Document]) -> bool:
    return all([await gets_in(each) for each in bundles])

"""Mosquitto as the broker: its password file is rendered, reloaded and proved by a canary."""

import asyncio
import secrets
import ssl
from collections.abc import Coroutine, Mapping
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from broker.accounts import CANARY, Written, new_secret, read_logins, write_passwords
from broker.administration import Listener, Login, connected
from broker.admission import Admitted, BrokerAway, Ended, NotAdmitted
from broker.reload import PidFileReload, Reload, ServiceReload, WatchedReload, parse_reload

__all__ = [
    "MosquittoBroker",
    "PidFileReload",
    "Reload",
    "ServiceReload",
    "WatchedReload",
    "parse_reload",
]

_ADMIN = "admin"
_ANSWER_S = 5.0
_AT_ONCE = 20
# A SIGHUP that arrives while Mosquitto still reloads for an earlier one is lost.
_ASK_AGAIN_S = 2.0
_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.25


class MosquittoBroker:
    """Lets in whom `passwords` names, and ends sessions from the administration listener.

    `proof_within_s` bounds a reload: Mosquitto hashes the secret of every connected client again
    (about 0.1 ms each) and serves nobody meanwhile. `hold_s` is how long a client id is kept.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        admin_password: str,
        password_file: Path,
        reload: Reload,
        tls: ssl.SSLContext | None = None,
        proof_within_s: float = 30.0,
        hold_s: float = 0.5,
    ) -> None:
        self._listener = Listener(host=host, port=port, tls=tls)
        self._admin_password = admin_password
        self._file = password_file
        self._reload = reload
        self._proof_within_s = proof_within_s
        self._hold_s = hold_s

    async def listed(self) -> dict[str, str] | None:
        """See `Broker.listed`."""
        try:
            return await asyncio.to_thread(read_logins, self._file)
        except (NotAdmitted, OSError):
            return None

    async def admit(self, logins: Mapping[str, str]) -> Admitted:
        """See `Broker.admit`. Whoever is connected and not named is disconnected by Mosquitto."""
        before = await self.listed() or {}
        written = await _finish(asyncio.to_thread(write_passwords, self._file, logins))
        await self._wipe_sessions(before, logins)
        started = monotonic()
        await self._reload.request()
        await self._prove(written)
        return Admitted(
            logins=written.logins,
            file=self._file,
            sha256=written.sha256,
            reload=str(self._reload),
            proved_after_s=monotonic() - started,
        )

    async def end_session(self, client_id: str) -> Ended:
        """See `Broker.end_session`; a will of that client goes out, as the broker's rules say."""
        login = Login(name=_ADMIN, secret=self._admin_password, client_id=client_id)
        async with connected(self._listener, login, within_s=_ANSWER_S) as connection:
            if not connection.accepted:
                raise BrokerAway(
                    "The broker refuses the account `admin`: its secret is not the one that was "
                    f"written to {self._file}.fixed. Give the right one."
                )
            taken_over_at, started = datetime.now(UTC), monotonic()
            returned = await connection.ended(self._hold_s)
            held_s = monotonic() - started
        if returned:  # or the broker itself is gone, which raises BrokerAway here
            await self._lets_in(new_secret(), until=monotonic())
        return Ended(client_id, taken_over_at, held_s, returned)

    async def _wipe_sessions(self, before: Mapping[str, str], after: Mapping[str, str]) -> None:
        """Of whoever loses a login or has a new secret, before the reload that keeps them out.

        A reload ends every session whose secret is not right any more, also one that is away; if
        that one was to expire, it is then listed for it twice, and the broker crashes later
        (eclipse-mosquitto/mosquitto#3341). A broker that is away is told of by what comes next.
        """
        names = [name for name, known in before.items() if after.get(name) != known]
        for start in range(0, len(names), _AT_ONCE):
            async with asyncio.TaskGroup() as group:
                wiping = [
                    group.create_task(self._wipe_session(name), name=f"wipe {name}")
                    for name in names[start : start + _AT_ONCE]
                ]
            if not all(task.result() for task in wiping):
                return

    async def _wipe_session(self, client_id: str) -> bool:
        login = Login(name=_ADMIN, secret=self._admin_password, client_id=client_id)
        try:
            async with connected(self._listener, login, within_s=_ANSWER_S) as connection:
                return connection.accepted
        except BrokerAway:
            return False

    async def _prove(self, written: Written) -> None:
        """The broker has this very file once the canary's new secret is right, and only that."""
        give_up_at = monotonic() + self._proof_within_s
        ask_again_at = monotonic() + _ASK_AGAIN_S
        pause_s = _FIRST_PAUSE_S
        while not await self._lets_in(written.canary, until=give_up_at):
            if monotonic() > give_up_at:
                raise NotAdmitted(
                    f"The broker did not load {self._file} in {self._proof_within_s:.0f} s after "
                    f"it was asked to ({self._reload}). The file is in place: look into the "
                    "broker's log, whether it may read it, and whether it is this broker's.",
                    written=True,
                )
            if monotonic() > ask_again_at:
                await self._reload.request()
                ask_again_at = monotonic() + _ASK_AGAIN_S
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        if await self._lets_in(new_secret(), until=give_up_at):
            raise NotAdmitted(
                "The broker lets in whoever comes, whatever the secret: stop it, and look into "
                "its log and its configuration.",
                written=True,
            )

    async def _lets_in(self, secret: str, *, until: float) -> bool:
        client_id = f"{CANARY}/{secrets.token_hex(8)}"  # no login contains a slash
        login = Login(name=CANARY, secret=secret, client_id=client_id)
        left_s = max(until - monotonic(), _ANSWER_S)  # it answers nobody while it reloads
        async with connected(self._listener, login, within_s=left_s) as connection:
            return connection.accepted


async def _finish(writing: Coroutine[object, object, Written]) -> Written:
    """A thread cannot be cancelled, so nothing may go on before it has ended."""
    task = asyncio.create_task(writing)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise

"""The seal of a pool: its processes agree, over the server, on which keys seal and which open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.pool_key_files import KeyRing, socket_keys
from tokenlane.routing.contract.envelope import Envelope
from tokenlane.routing.contract.errors import PoolKeyMismatch
from tokenlane.routing.support.tasks import together

from .keychain import Keychain
from .keys import Keys
from .replies.values import as_list, as_text
from .scripts import Scripts
from .server import Server


class Sealing:
    """What a pool and this process say to each other of keys."""

    def __init__(self, scripts: Scripts, keys: Keys, keychain: Keychain, server: Server) -> None:
        self._scripts = scripts
        self._keys = keys
        self._keychain = keychain
        self._server = server

    async def join(self, ring: KeyRing, *, opens: bool) -> None:
        """Agree with the pool on its keys; announce them if nobody uses it yet.

        Args:
            ring: the caller's keys; none given, those beside the server's socket.
            opens: to open what others sealed takes all of the pool's keys; to seal takes one.

        Raises:
            PoolKeyMismatch: the pool has other keys, or none and is in use.
        """
        try:
            self._keychain.ring = ring if ring.keys else socket_keys(self._server.url)
        except ConfigError as error:
            raise PoolKeyMismatch(str(error)) from error
        outcome, ids, *others = await self._announce(self._keychain.ring)
        if outcome == "open" and ids:
            raise PoolKeyMismatch(
                f"{self._keychain.pool} is in use without a key, and yours is {ids}: leave it out, or stop the pool's "
                "workers and agents, and then the first to come with a key seals it"
            )
        self._keychain.learn(ids, *others)
        self._keychain.check(opens=opens)

    async def announce(self, ring: KeyRing, retiring: Sequence[str] = ()) -> None:
        """Have these keys, and no others, be the pool's; those that are prepared seal nothing yet.

        Args:
            retiring: ids of those that seal no more, and still open what waits.
        """
        self._keychain.ring = ring
        _, *ids = await self._announce(ring, "replace", retiring)
        self._keychain.learn(*ids)

    async def announce_again(self, ring: KeyRing) -> None:
        """Have these keys, and no others, be the pool's; those of them that are retiring go on doing so."""
        *_, retiring, _ = await self._announce(KeyRing())
        old = [key_id for key_id in retiring.split() if ring.find(key_id) is not None]
        await self.announce(replace(ring, keys=tuple(key for key in ring.keys if key.id not in old)), old)

    async def unseal(self, envelope: Envelope, payload: bytes) -> bytes:
        """The payload of a request as its agent wrote it.

        Raises:
            PoolKeyMismatch: it was sealed under a key that is not ours, or not sealed in a pool that is; `retryable` if
                another worker may have that key.
            BadRequest: it was changed since, or is another request's.
        """
        if not self._keychain.has(envelope.key_id):
            # Keys may have come and gone since this worker joined; what is sealed with one of them was accepted.
            _, *ids = await self._announce(KeyRing())
            self._keychain.learn(*ids)
        return self._keychain.unseal(envelope, payload)

    async def check(self, ring: KeyRing) -> None:
        """Find these keys good enough for a worker, as joining with them would, and leave the pool as it is.

        Raises:
            PoolKeyMismatch: the pool is sealed, and they are not.
        """
        _, *ids = await self._announce(KeyRing())
        keychain = Keychain(ring, self._keychain.pool)
        keychain.learn(*ids)
        keychain.check(opens=True)

    async def key_ids(self) -> tuple[str, ...]:
        """The ids of the pool's keys, the newest first; none if it is not sealed."""
        _, ids, *_ = await self._announce(KeyRing())
        return tuple(ids.split())

    async def sealed_with(self, key_ids: Sequence[str]) -> int:
        """How many requests that have not ended are sealed with one of these keys."""
        ids = as_list(await self._scripts.ask("ZRANGE", self._keys.deadlines, 0, -1))
        requests = [self._keys.request(as_text(request_id)) for request_id in ids]
        used = await together(*(self._scripts.ask("HGET", request, "key") for request in requests))
        return sum(key is not None and as_text(key) in key_ids for key in used)

    async def _announce(self, ring: KeyRing, how: str = "", retiring: Sequence[str] = ()) -> tuple[str, str, str, str]:
        prepared = " ".join(key.id for key in ring.prepared)
        reply = await self._scripts.run("announce", " ".join(ring.ids), how, " ".join(retiring), prepared)
        outcome, ids, old, new = map(as_text, as_list(reply))
        return outcome, ids, old, new

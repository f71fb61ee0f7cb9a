"""Agrees with a pool's other processes, through the Redis server, on the keys that seal requests and answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.pool_key_files import KeyRing, socket_keys
from tokenlane.routing.contract.envelope import Envelope
from tokenlane.routing.contract.errors import PoolKeyMismatch
from tokenlane.routing.support.tasks import gather_to_end

from .keychain import Keychain
from .keys import Keys
from .replies.values import as_list, as_text
from .scripts import Scripts
from .server import Server


class KeyAgreement:
    """Compares this process's keys with the pool's, and changes the pool's keys."""

    def __init__(self, scripts: Scripts, keys: Keys, keychain: Keychain, server: Server) -> None:
        self._scripts = scripts
        self._keys = keys
        self._keychain = keychain
        self._server = server

    async def join(self, ring: KeyRing, *, unseals: bool) -> None:
        """Use these keys for the pool. If nobody uses the pool yet and it has no keys, they become its keys.

        Args:
            ring: the caller's keys; an empty ring stands for the key file next to the server's socket.
            unseals: whether the caller unseals payloads, as workers do, and so needs all of the pool's keys. An agent,
                which only seals payloads, needs one of them.

        Raises:
            PoolKeyMismatch: the pool has keys that the caller does not have; the pool is in use without keys, but the
                caller has keys; or the key file cannot be read.
        """
        try:
            self._keychain.ring = ring if ring.keys else socket_keys(self._server.url)
        except ConfigError as error:
            raise PoolKeyMismatch(str(error)) from error
        outcome, *ids = await self._announce(self._keychain.ring)
        if outcome == "open" and ids[0]:
            raise PoolKeyMismatch(
                f"The {self._keychain.pool} is in use without a key, but this process has key {ids[0]}: connect "
                "without a key; or stop all workers and agents of the pool, and start them again with the key."
            )
        self._keychain.learn(*ids)
        self._keychain.check(unseals=unseals)

    async def announce(self, ring: KeyRing, retiring: Sequence[str] = ()) -> None:
        """Replace the pool's keys.

        Args:
            ring: the new keys, including prepared keys, which do not seal yet.
            retiring: ids of old keys that no longer seal but still unseal waiting requests.
        """
        self._keychain.ring = ring
        _, *ids = await self._announce(ring, "replace", retiring)
        self._keychain.learn(*ids)

    async def announce_again(self, ring: KeyRing) -> None:
        """Replace the pool's keys by the keys in this ring. Keys that the pool is retiring stay retiring."""
        *_, retiring = await self._announce(KeyRing())
        old = [key_id for key_id in retiring.split() if ring.find(key_id) is not None]
        await self.announce(replace(ring, keys=tuple(key for key in ring.keys if key.id not in old)), old)

    async def unseal(self, envelope: Envelope, payload: bytes) -> bytes:
        """Unseal the payload of a request.

        Raises:
            PoolKeyMismatch, BadRequest: for the reasons that `Keychain.unseal` lists.
        """
        if not self._keychain.has_key(envelope.key_id):
            # The pool's keys may have changed since this worker joined the pool.
            _, *ids = await self._announce(KeyRing())
            self._keychain.learn(*ids)
        return self._keychain.unseal(envelope, payload)

    async def check(self, ring: KeyRing) -> None:
        """Check that a worker with these keys could join, without joining.

        Raises:
            PoolKeyMismatch: the worker could not join.
        """
        _, *ids = await self._announce(KeyRing())
        keychain = Keychain(ring, self._keychain.pool)
        keychain.learn(*ids)
        keychain.check(unseals=True)

    async def key_ids(self) -> tuple[str, ...]:
        """The ids of the keys that seal the pool's requests, the newest first; empty if the pool has no keys."""
        _, ids, _ = await self._announce(KeyRing())
        return tuple(ids.split())

    async def sealed_with(self, key_ids: Sequence[str]) -> int:
        """Count the requests that are sealed with one of these keys and have not ended."""
        ids = as_list(await self._scripts.ask("ZRANGE", self._keys.deadlines, 0, -1))
        requests = [self._keys.request(as_text(request_id)) for request_id in ids]
        used = await gather_to_end(*(self._scripts.ask("HGET", request, "key") for request in requests))
        return sum(key is not None and as_text(key) in key_ids for key in used)

    async def _announce(self, ring: KeyRing, how: str = "", retiring: Sequence[str] = ()) -> tuple[str, str, str]:
        prepared = " ".join(key.id for key in ring.prepared)
        reply = await self._scripts.run("announce", " ".join(ring.ids), how, " ".join(retiring), prepared)
        outcome, ids, old = map(as_text, as_list(reply))
        return outcome, ids, old

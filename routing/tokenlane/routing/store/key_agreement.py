"""How the processes of a pool agree, through its server, on the keys that seal payloads and the keys that only open."""

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


class Sealing:
    """The keys of this process and those of its pool, brought together."""

    def __init__(self, scripts: Scripts, keys: Keys, keychain: Keychain, server: Server) -> None:
        self._scripts = scripts
        self._keys = keys
        self._keychain = keychain
        self._server = server

    async def join(self, ring: KeyRing, *, opens: bool) -> None:
        """Check these keys against the pool's, or make them the pool's if it has none and nobody uses it yet.

        Args:
            ring: the caller's keys; an empty ring is replaced by the keys next to the server's socket.
            opens: the caller opens what others sealed, and needs all of the pool's keys; to seal, one is enough.

        Raises:
            PoolKeyMismatch: the pool has other keys, or none and is in use.
        """
        try:
            self._keychain.ring = ring if ring.keys else socket_keys(self._server.url)
        except ConfigError as error:
            raise PoolKeyMismatch(str(error)) from error
        outcome, *ids = await self._announce(self._keychain.ring)
        if outcome == "open" and ids[0]:
            raise PoolKeyMismatch(
                f"{self._keychain.pool} is in use without a key, and yours is {ids[0]}: leave it out, or stop its "
                "workers and agents, and then the first of them with a key seals it"
            )
        self._keychain.learn(*ids)
        self._keychain.check(opens=opens)

    async def announce(self, ring: KeyRing, retiring: Sequence[str] = ()) -> None:
        """Make these keys the pool's only keys. Its prepared keys do not seal yet.

        Args:
            retiring: ids of keys that no longer seal, and still open what waits.
        """
        self._keychain.ring = ring
        _, *ids = await self._announce(ring, "replace", retiring)
        self._keychain.learn(*ids)

    async def announce_again(self, ring: KeyRing) -> None:
        """Make these keys the pool's only keys; those that were retiring still are."""
        *_, retiring = await self._announce(KeyRing())
        old = [key_id for key_id in retiring.split() if ring.find(key_id) is not None]
        await self.announce(replace(ring, keys=tuple(key for key in ring.keys if key.id not in old)), old)

    async def unseal(self, envelope: Envelope, payload: bytes) -> bytes:
        """The payload of a request as its agent wrote it.

        Raises:
            PoolKeyMismatch, BadRequest: as `Keychain.unseal`.
        """
        if not self._keychain.has(envelope.key_id):
            # The pool may have got and dropped keys since this worker joined, and accepted what they sealed.
            _, *ids = await self._announce(KeyRing())
            self._keychain.learn(*ids)
        return self._keychain.unseal(envelope, payload)

    async def check(self, ring: KeyRing) -> None:
        """Check that a worker with these keys could join, without joining.

        Raises:
            PoolKeyMismatch: it could not.
        """
        _, *ids = await self._announce(KeyRing())
        keychain = Keychain(ring, self._keychain.pool)
        keychain.learn(*ids)
        keychain.check(opens=True)

    async def key_ids(self) -> tuple[str, ...]:
        """The ids of the keys that seal the pool, the newest first; none if it is not sealed."""
        _, ids, _ = await self._announce(KeyRing())
        return tuple(ids.split())

    async def sealed_with(self, key_ids: Sequence[str]) -> int:
        """How many live requests are sealed with one of these keys."""
        ids = as_list(await self._scripts.ask("ZRANGE", self._keys.deadlines, 0, -1))
        requests = [self._keys.request(as_text(request_id)) for request_id in ids]
        used = await gather_to_end(*(self._scripts.ask("HGET", request, "key") for request in requests))
        return sum(key is not None and as_text(key) in key_ids for key in used)

    async def _announce(self, ring: KeyRing, how: str = "", retiring: Sequence[str] = ()) -> tuple[str, str, str]:
        prepared = " ".join(key.id for key in ring.prepared)
        reply = await self._scripts.run("announce", " ".join(ring.ids), how, " ".join(retiring), prepared)
        outcome, ids, old = map(as_text, as_list(reply))
        return outcome, ids, old

"""The pool keys that this process holds, and the key ids that the pool announces.

An announced key seals and unseals payloads. A retiring key only unseals requests that still wait. A prepared key only
unseals, until `tokenlane key rotate` makes it the announced key. The pool does not use any other key.
"""

from __future__ import annotations

from tokenlane.config.host.pool_key_files import KeyRing, PoolKey
from tokenlane.routing.contract.envelope import Envelope
from tokenlane.routing.contract.errors import PoolKeyMismatch
from tokenlane.routing.contract.sealing.payloads import fingerprint, unseal


class Keychain:
    """This process's keys for one pool.

    `ring`: the keys. `pool`: the pool's name and server, for messages.
    """

    def __init__(self, ring: KeyRing, pool: str) -> None:
        self.ring = ring
        self.pool = pool
        self._announced: tuple[str, ...] = ()
        self._retiring: tuple[str, ...] = ()

    def learn(self, ids: str, retiring: str = "") -> None:
        """Store the ids of the pool's keys: the announced keys and the retiring keys, separated by spaces. If this
        process does not have the newest key, read its key file again."""
        announced = tuple(ids.split())
        if announced and announced != self._announced and self.ring.find(announced[0]) is None:
            self.ring = self.ring.reread()
        self._announced, self._retiring = announced, tuple(retiring.split())

    @property
    def announced(self) -> str:
        """The ids of the keys that seal the pool's requests, separated by spaces; empty if the pool has no keys. Beats
        send them, for a server that has lost its data."""
        return " ".join(self._announced)

    @property
    def held(self) -> str:
        """The ids of all keys that this process holds, separated by spaces, as a worker registers them."""
        return " ".join(self.ring.all_ids)

    def reread(self) -> None:
        """Read the key file again, if there is one."""
        self.ring = self.ring.reread()

    def check(self, *, unseals: bool) -> None:
        """Check that this process has the keys it needs.

        Args:
            unseals: whether the process unseals payloads, and so needs all of the pool's keys. To seal payloads, one of
                them is enough.

        Raises:
            PoolKeyMismatch: the process does not have the keys.
        """
        wanted = (*self._announced, *self._retiring) if unseals else self._announced
        missing = [key_id for key_id in wanted if self.ring.find(key_id) is None]
        if missing and (unseals or len(missing) == len(wanted)):
            raise self.mismatch(wanted)

    @property
    def key_id(self) -> str | None:
        """The id of the pool's newest key; None if the pool has no keys, or if this process has not joined the pool."""
        return self._announced[0] if self._announced else None

    @property
    def key(self) -> PoolKey | None:
        """The key with which this process seals payloads: the newest key that both it and the pool have. If the pool
        announces no keys, the newest key of the process; None if the process has no keys."""
        keys = (self.ring.find(key_id) for key_id in self._announced or self.ring.ids)
        return next((key for key in keys if key is not None), None)

    def fingerprint(self, idempotency_key: str) -> str:
        """A keyed hash of an idempotency key, so that the server never stores the idempotency key itself."""
        return fingerprint(idempotency_key, self.key)

    def has_key(self, key_id: str | None) -> bool:
        """Whether this process has the key; true for None. If the key is missing, read the key file again first."""
        if key_id is None or self.ring.find(key_id) is not None:
            return True
        self.reread()
        return self.ring.find(key_id) is not None

    def key_of(self, envelope: Envelope) -> PoolKey | None:
        """The key that seals the request; None if the request is not sealed, or this process does not have the key."""
        return None if envelope.key_id is None else self.ring.find(envelope.key_id)

    def unseal(self, envelope: Envelope, payload: bytes) -> bytes:
        """Unseal the payload of a request.

        Raises:
            PoolKeyMismatch: the payload is sealed with a key that this process does not have (`retryable` if the pool
                still uses the key); or the payload is not sealed, although this process has keys.
            BadRequest: the payload has been changed, or belongs to another request.
        """
        if envelope.key_id is None:
            if not self.ring.keys:
                return payload
            raise PoolKeyMismatch(
                f"The request is not sealed, but the pool is sealed with key {self.key_id}: give the agent that key."
            )
        key = self.ring.find(envelope.key_id) if self.has_key(envelope.key_id) else None
        if key is None and self._announced and envelope.key_id not in (*self._announced, *self._retiring):
            raise PoolKeyMismatch(
                f"The request is sealed with key {envelope.key_id}, which the pool no longer uses: send it again."
            )
        if key is None:
            raise PoolKeyMismatch(
                f"The request is sealed with key {envelope.key_id}, which the worker does not have: restart the worker "
                "with the keys that `tokenlane key show --reveal` prints on a host that has them.",
                retryable=True,  # another worker may have the key
            )
        return unseal(payload, envelope.id, key)

    def mismatch(self, wanted: tuple[str, ...] = ()) -> PoolKeyMismatch:
        """The error with the ids of the keys that the pool has and of the keys that this process has.

        Args:
            wanted: the ids of the keys that this process needs; by default the announced keys.
        """
        yours = f"key {', '.join(self.ring.all_ids)}" if self.ring.keys else "no key"
        return PoolKeyMismatch(
            f"The {self.pool} is sealed with key {', '.join(wanted or self._announced)}, but this process has {yours}: "
            "set TOKENLANE_POOL_KEY, or Client(key=...), to the output of `tokenlane key show --reveal` on a host that "
            "has the key."
        )

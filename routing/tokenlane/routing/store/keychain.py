"""The pool keys that this process holds, and the key ids that the pool announces.

An announced key seals and unseals payloads. A retiring key only unseals requests that still wait. A prepared key only
unseals until the pool is rotated to it. The pool has dropped all other keys."""

from __future__ import annotations

from tokenlane.config.host.pool_key_files import KeyRing, PoolKey
from tokenlane.routing.contract.envelope import Envelope
from tokenlane.routing.contract.errors import PoolKeyMismatch
from tokenlane.routing.contract.seal import fingerprint, unseal


class Keychain:
    """The keys of this process for one pool. `pool`: the pool as messages name it."""

    def __init__(self, ring: KeyRing, pool: str) -> None:
        self.ring = ring
        self.pool = pool
        self._announced: tuple[str, ...] = ()
        self._retiring: tuple[str, ...] = ()

    def learn(self, ids: str, retiring: str = "") -> None:
        """Note the pool's current key ids. If this process lacks the newest key, read its key file again."""
        announced = tuple(ids.split())
        if announced and announced != self._announced and self.ring.find(announced[0]) is None:
            self.ring = self.ring.reread()
        self._announced, self._retiring = announced, tuple(retiring.split())

    @property
    def held(self) -> str:
        """The ids of all keys that this process holds, separated by spaces, as a worker registers them."""
        return " ".join(self.ring.opening)

    def reread(self) -> None:
        """Read the key file again, if there is one."""
        self.ring = self.ring.reread()

    def check(self, *, unseals: bool) -> None:
        """Check that this process has all of the pool's keys if it `unseals` payloads, or one of them if it only seals.

        Raises:
            PoolKeyMismatch: it does not.
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
        """The key with which this process seals payloads: the newest that both the process and the pool have. The
        newest of the process if the pool announces no keys; None if the process has none either."""
        keys = (self.ring.find(key_id) for key_id in self._announced or self.ring.ids)
        return next((key for key in keys if key is not None), None)

    def fingerprint(self, idempotency_key: str) -> str:
        """A keyed hash of an idempotency key, which is stored on the server in place of the idempotency key."""
        return fingerprint(idempotency_key, self.key)

    def has(self, key_id: str | None) -> bool:
        """Whether this process has the key. If the key is missing, the key file is read again, if there is one."""
        if key_id is None or self.ring.find(key_id) is not None:
            return True
        self.reread()
        return self.ring.find(key_id) is not None

    def unseal(self, envelope: Envelope, payload: bytes) -> bytes:
        """Unseal the payload of a request.

        Raises:
            PoolKeyMismatch: the payload is sealed with a key that this process does not have (`retryable` if the pool
                still has the key); or the payload is not sealed, although the pool has keys.
            BadRequest: the payload has been changed, or belongs to another request.
        """
        if envelope.key_id is None:
            if not self.ring.keys:
                return payload
            raise PoolKeyMismatch(f"the request is not sealed, but this pool is sealed with key {self.key_id}")
        key = self.ring.find(envelope.key_id) if self.has(envelope.key_id) else None
        if key is None and self._announced and envelope.key_id not in (*self._announced, *self._retiring):
            raise PoolKeyMismatch(
                f"the request is sealed with key {envelope.key_id}, which the pool no longer uses: send it again"
            )
        if key is None:
            raise PoolKeyMismatch(
                f"the request is sealed with key {envelope.key_id}, which the worker does not have: restart the worker "
                "with the keys that `tokenlane key show --reveal` prints on a host that has them",
                retryable=True,  # another worker may have the key
            )
        return unseal(payload, envelope.id, key)

    def mismatch(self, wanted: tuple[str, ...] = ()) -> PoolKeyMismatch:
        """The error that names the pool's keys and this process's. `wanted`: the ids of the keys that this process
        needs; by default the announced keys."""
        yours = f"you gave key {', '.join(self.ring.opening)}" if self.ring.keys else "you gave no key"
        return PoolKeyMismatch(
            f"{self.pool} is sealed with key {', '.join(wanted or self._announced)}, but {yours}: set "
            "TOKENLANE_POOL_KEY, or Client(key=...), to the output of `tokenlane key show --reveal` on a host that has "
            "the key"
        )

"""The pool keys this process holds, and the key ids that the pool announces.

An announced key seals and opens. A retiring key only opens what waits, and a prepared key only opens until the pool is
rotated to it. The pool has dropped any other key."""

from __future__ import annotations

from tokenlane.config.host.pool_key_files import KeyRing, PoolKey
from tokenlane.routing.contract.envelope import Envelope
from tokenlane.routing.contract.errors import PoolKeyMismatch
from tokenlane.routing.contract.seal import fingerprint, unseal


class Keychain:
    """`ring`: the keys this process holds. `pool`: its pool, as messages name it."""

    def __init__(self, ring: KeyRing, pool: str) -> None:
        self.ring = ring
        self.pool = pool
        self._announced: tuple[str, ...] = ()
        self._retiring: tuple[str, ...] = ()

    def learn(self, ids: str, retiring: str = "") -> None:
        """Take over the key ids that the pool has now; read the ring's file again, if it has one, for a new key."""
        announced = tuple(ids.split())
        if announced and announced != self._announced and self.ring.find(announced[0]) is None:
            self.ring = self.ring.reread()
        self._announced, self._retiring = announced, tuple(retiring.split())

    @property
    def held(self) -> str:
        """The ids of all keys this process holds, separated by blanks, as a worker registers them."""
        return " ".join(self.ring.opening)

    def reread(self) -> None:
        """Read the ring's file again, if it has one."""
        self.ring = self.ring.reread()

    def check(self, *, opens: bool) -> None:
        """Check that the ring has all of the pool's keys, to open what others sealed, or one of them, to seal.

        Raises:
            PoolKeyMismatch: it has not.
        """
        wanted = (*self._announced, *self._retiring) if opens else self._announced
        missing = [key_id for key_id in wanted if self.ring.find(key_id) is None]
        if missing and (opens or len(missing) == len(wanted)):
            raise self.mismatch(wanted)

    @property
    def key_id(self) -> str | None:
        """The id of the key that seals the pool; None without one, or if the pool was not asked when connecting."""
        return self._announced[0] if self._announced else None

    @property
    def key(self) -> PoolKey | None:
        """The key that seals what this process sends: the newest that both it and the pool have; its newest in a pool
        that has forgotten its keys; None in a pool without keys."""
        keys = (self.ring.find(key_id) for key_id in self._announced or self.ring.ids)
        return next((key for key in keys if key is not None), None)

    def fingerprint(self, idempotency_key: str) -> str:
        """The name that stands for an idempotency key on the server."""
        return fingerprint(idempotency_key, self.key)

    def has(self, key_id: str | None) -> bool:
        """Whether the ring has the key; its file, if it has one, is read again for a new key."""
        if key_id is None or self.ring.find(key_id) is not None:
            return True
        self.reread()
        return self.ring.find(key_id) is not None

    def unseal(self, envelope: Envelope, payload: bytes) -> bytes:
        """The payload of a request as its agent wrote it.

        Raises:
            PoolKeyMismatch: it is sealed with a key that this process does not have, which is `retryable` if the pool
                still has that key; or it is not sealed, in a pool that is.
            BadRequest: it has been changed, or belongs to another request.
        """
        if envelope.key_id is None:
            if not self.ring.keys:
                return payload
            raise PoolKeyMismatch(f"the request is not sealed, and this pool is, with key {self.key_id}")
        key = self.ring.find(envelope.key_id) if self.has(envelope.key_id) else None
        if key is None and self._announced and envelope.key_id not in (*self._announced, *self._retiring):
            raise PoolKeyMismatch(
                f"the request is sealed with key {envelope.key_id}, which the pool has dropped since: send it again"
            )
        if key is None:
            raise PoolKeyMismatch(
                f"the request is sealed with key {envelope.key_id}, which its worker does not have: restart the worker "
                "with the keys that `tokenlane key show --reveal` prints where the key is",
                retryable=True,  # by another worker
            )
        return unseal(payload, envelope.id, key)

    def mismatch(self, wanted: tuple[str, ...] = ()) -> PoolKeyMismatch:
        """The error that names the keys of both sides. `wanted`: the ids needed, if more than those that seal."""
        yours = f"yours is {', '.join(self.ring.opening)}" if self.ring.keys else "you gave none"
        return PoolKeyMismatch(
            f"{self.pool} is sealed with key {', '.join(wanted or self._announced)}, and {yours}: set "
            "TOKENLANE_POOL_KEY, or Client(key=...), to what `tokenlane key show --reveal` prints where the key is"
        )

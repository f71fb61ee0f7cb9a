"""The keys of a pool, as one who uses it knows them: those it has, and the ids of those that the pool announces.

A key that the pool announces seals and opens; one that is retiring only opens what waits; one that is prepared only
opens, until it is rotated to; any other was dropped."""

from __future__ import annotations

from tokenlane.config.host.pool_key_files import KeyRing, PoolKey
from tokenlane.routing.contract.envelope import Envelope
from tokenlane.routing.contract.errors import PoolKeyMismatch
from tokenlane.routing.contract.seal import fingerprint, unseal


class Keychain:
    """`ring`: the keys one has. `pool`: whose they are, as messages name it."""

    def __init__(self, ring: KeyRing, pool: str) -> None:
        self.ring = ring
        self.pool = pool
        self._announced: tuple[str, ...] = ()
        self._retiring: tuple[str, ...] = ()
        self.prepared: tuple[str, ...] = ()

    def learn(self, ids: str, retiring: str = "", prepared: str = "") -> None:
        """Hear which keys the pool has now. A ring with a file is read again if the newest is not in it."""
        announced = tuple(ids.split())
        if announced and announced != self._announced and self.ring.find(announced[0]) is None:
            self.ring = self.ring.reread()
        self._announced, self._retiring, self.prepared = announced, tuple(retiring.split()), tuple(prepared.split())

    @property
    def held(self) -> str:
        """The ids of all keys that this process has, separated by blanks, as a worker announces them."""
        return " ".join(self.ring.opening)

    def reread(self) -> None:
        """Read the ring's file again, if it has one: keys may have been added."""
        self.ring = self.ring.reread()

    def check(self, *, opens: bool) -> None:
        """Find the keys good enough: all of the pool's to open what others sealed, one to seal.

        Raises:
            PoolKeyMismatch: they are not.
        """
        wanted = (*self._announced, *self._retiring) if opens else self._announced
        missing = [key_id for key_id in wanted if self.ring.find(key_id) is None]
        if missing and (opens or len(missing) == len(wanted)):
            raise self.mismatch(wanted)

    @property
    def key_id(self) -> str | None:
        """The id of the key that seals the pool; None if none does, or it was not asked for when connecting."""
        return self._announced[0] if self._announced else None

    @property
    def key(self) -> PoolKey | None:
        """The key that seals what is sent from here: the newest of the pool's that is ours; the newest of ours in a
        pool that has forgotten its own; None in a pool without one."""
        found = (self.ring.find(key_id) for key_id in self._announced or self.ring.ids)
        return next((key for key in found if key is not None), None)

    def fingerprint(self, idempotency_key: str) -> str:
        """What an idempotency key is called on the server."""
        return fingerprint(idempotency_key, self.key)

    def has(self, key_id: str | None) -> bool:
        """Whether what is sealed with that key opens here. A ring with a file learns keys that came since."""
        if key_id is None or self.ring.find(key_id) is not None:
            return True
        self.reread()
        return self.ring.find(key_id) is not None

    def unseal(self, envelope: Envelope, payload: bytes) -> bytes:
        """The payload of a request as its agent wrote it, by what was last heard of the pool's keys.

        Raises:
            PoolKeyMismatch: it was sealed under a key that is not ours, or not sealed in a pool that is; `retryable` if
                the pool still has that key.
            BadRequest: it was changed since, or is another request's.
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
        """The error that says which keys are whose, and what to do. `wanted`: more than those that seal."""
        yours = f"yours is {', '.join(self.ring.opening)}" if self.ring.keys else "you gave none"
        return PoolKeyMismatch(
            f"{self.pool} is sealed with key {', '.join(wanted or self._announced)}, and {yours}: set "
            "TOKENLANE_POOL_KEY, or Client(key=...), to what `tokenlane key show --reveal` prints where the key is"
        )

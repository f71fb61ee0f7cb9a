"""Opens the messages of workers, and seals handovers, for all requests of a client."""

from __future__ import annotations

import logging

from pydantic import ValidationError

from tokenlane.config.host.pool_key_files import PoolKey
from tokenlane.routing.contract.messages import Handover, Replay, channel_message, may_be_plain
from tokenlane.routing.contract.sealing.messages import Opener, Sealer, address
from tokenlane.routing.store.keychain import Keychain

logger = logging.getLogger(__name__)


class SealedRequests:
    """The sealed requests of a client. In a pool without a key, messages pass through unchanged.

    `dropped`: how many messages were dropped, because no key of this process opens them or because they are plain.
    """

    def __init__(self, keychain: Keychain) -> None:
        self.dropped = 0
        self._keychain = keychain
        self._openers: dict[str, Opener] = {}
        self._sealers: dict[str, tuple[PoolKey, Sealer]] = {}
        self._warned: set[str] = set()

    def open(self, request_id: str, data: bytes) -> bytes | None:
        """Return a message about a request as JSON; None if the message is dropped."""
        if not self._keychain.ring.keys:
            return data
        if data.startswith(b"{"):
            if _may_be_plain(data):
                return data
            self._drop(request_id, "it is not sealed: find out who else writes to the pool's channels")
            return None
        opener = self._opener(request_id)
        if (opened := opener.open(data)) is None and request_id not in self._warned:
            self._keychain.reread()
            opened = opener.open(data)
        if opened is None:
            self._drop(request_id, "it was changed, or this process lacks the key that `tokenlane key show` names")
        return opened

    def seal(self, message: Handover | Replay) -> bytes | None:
        """Serialize a message to a worker. A handover is sealed with the key of the worker's last message. Return None
        for the handover of a request that was forgotten."""
        wire = message.to_wire()
        if isinstance(message, Replay) or not self._keychain.ring.keys:
            return wire
        opener = self._openers.get(message.id)
        if opener is None or (key := opener.key) is None:
            return None
        known = self._sealers.get(message.id)
        if known is None or known[0] != key:
            known = self._sealers[message.id] = key, Sealer(key, message.id, "handover")
        return address(message.id, known[1].seal(wire))

    def forget(self, request_id: str) -> None:
        """Forget a request, since it has no reader any more."""
        self._openers.pop(request_id, None)
        self._sealers.pop(request_id, None)
        self._warned.discard(request_id)

    def _opener(self, request_id: str) -> Opener:
        if (opener := self._openers.get(request_id)) is None:
            opener = self._openers[request_id] = Opener(lambda: self._keychain.ring.all_keys, request_id, "answer")
        return opener

    def _drop(self, request_id: str, why: str) -> None:
        self.dropped += 1
        if request_id not in self._warned:
            self._warned.add(request_id)
            logger.warning("ignored a message for request %s: %s", request_id, why)


def _may_be_plain(data: bytes) -> bool:
    try:
        return may_be_plain(channel_message(data))
    except ValidationError:
        return True  # the link reports messages that it cannot parse

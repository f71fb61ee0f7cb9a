"""Encrypts (seals) the messages that a worker and an agent send each other about one request.

    1 byte version (1) | 16 bytes random salt | 8 bytes counter | AES-256-GCM ciphertext and tag

Each sender uses a key of its own. HKDF-SHA256 derives it from the pool key that seals the request, the salt, the
request's id, and the direction: a message that was copied to another request, or sent back to its sender, cannot be
opened. The counter is the nonce, so no nonce repeats, however many messages are sent under one pool key. A message that
is published again is the same ciphertext.

A worker has one channel for the messages about all its requests, so the request's id, in 32 hexadecimal digits,
precedes a sealed message to a worker.

A message is padded with blanks to a multiple of 64 bytes: the length of each sealed delta would otherwise reveal the
length of each token, from which an answer can be guessed.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable
from itertools import count
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tokenlane.config.host.pool_key_files import PoolKey

Direction = Literal["answer", "handover"]
"""`answer`: from the workers to the agents. `handover`: from an agent to a worker."""

_VERSION = b"\x01"
_SALT_BYTES = 16
_COUNTER_AT = len(_VERSION) + _SALT_BYTES
_NONCE_BYTES = 12
_COUNTER_BYTES = 8
_HEADER_BYTES = _COUNTER_AT + _COUNTER_BYTES
_NONCE_HEAD = bytes(_NONCE_BYTES - _COUNTER_BYTES)
_BLOCK_BYTES = 64
_MAX_SENDERS = 8
_ADDRESS = re.compile(rb"[0-9a-f]{32}")


class Sealer:
    """Seals the messages that one sender sends about a request."""

    def __init__(self, key: PoolKey, request_id: str, direction: Direction) -> None:
        salt = secrets.token_bytes(_SALT_BYTES)
        self._header = _VERSION + salt
        self._context = _context(request_id, direction)
        self._cipher = _derive(key, salt, self._context)
        self._counter = count()

    def seal(self, message: bytes) -> bytes:
        """Seal a message. It must not end with a blank."""
        counter = next(self._counter).to_bytes(_COUNTER_BYTES)
        padded = message + b" " * (-len(message) % _BLOCK_BYTES)
        return b"%b%b%b" % (self._header, counter, self._cipher.encrypt(_NONCE_HEAD + counter, padded, self._context))


class Opener:
    """Opens the sealed messages about a request that arrive from one direction, from any number of senders.

    Attributes:
        key: the key of the last message that was opened; None before the first.

    Args:
        keys: returns the keys to try. It is called for the first message of each sender.
    """

    def __init__(self, keys: Callable[[], Iterable[PoolKey]], request_id: str, direction: Direction) -> None:
        self.key: PoolKey | None = None
        self._keys = keys
        self._context = _context(request_id, direction)
        self._senders: dict[bytes, tuple[PoolKey, AESGCM]] = {}

    def open(self, sealed: bytes) -> bytes | None:
        """Return the message. Return None if no key opens it: it was changed, cut short or made for another request."""
        salt = sealed[len(_VERSION) : _COUNTER_AT]
        if not sealed.startswith(_VERSION) or len(sealed) < _HEADER_BYTES:
            return None
        sender = self._senders.get(salt)
        if sender is not None:
            self.key = sender[0]
            return self._decrypt(sender[1], sealed)
        for key in self._keys():
            cipher = _derive(key, salt, self._context)
            if (message := self._decrypt(cipher, sealed)) is not None:
                self.key = key
                self._senders[salt] = key, cipher
                if len(self._senders) > _MAX_SENDERS:
                    del self._senders[next(iter(self._senders))]
                return message
        return None

    def _decrypt(self, cipher: AESGCM, sealed: bytes) -> bytes | None:
        nonce = _NONCE_HEAD + sealed[_COUNTER_AT:_HEADER_BYTES]
        try:
            return cipher.decrypt(nonce, sealed[_HEADER_BYTES:], self._context).rstrip(b" ")
        except InvalidTag:
            return None


def address(request_id: str, sealed: bytes) -> bytes:
    """Put the request's id before a sealed message to a worker."""
    return request_id.encode() + sealed


def split_address(data: bytes) -> tuple[str | None, bytes]:
    """Split a message to a worker into the request's id and the sealed message. The id is None for a plain message."""
    if (match := _ADDRESS.match(data)) is None:
        return None, data
    return match[0].decode(), data[match.end() :]


def _context(request_id: str, direction: Direction) -> bytes:
    return f"tokenlane {direction} {request_id}".encode()


def _derive(key: PoolKey, salt: bytes, context: bytes) -> AESGCM:
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=salt, info=context).derive(key.secret))

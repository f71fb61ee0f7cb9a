"""The names and rows of vectors in the cache, sealed with the pool's key if it has one.

A name is the HMAC-SHA-256 of the vector's origin and its text, under a key derived from the pool's; in a pool without a
key it is the SHA-256. A row is the vector as little-endian float32, sealed with AES-256-GCM under another derived key,
with the name as associated data; in a pool without a key it follows a checksum over name and vector.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tokenlane.config.host.pool_key_files import PoolKey

_FORMAT = "tokenlane vector 1"
_NONCE_BYTES = 12
_CHECKSUM_BYTES = 4


@dataclass(frozen=True)
class Origin:
    """The origin of vectors: together with the text, it determines a vector. `build` distinguishes models of one name:
    it is the digest or, if no digest is known, the model server's endpoint."""

    provider: str
    model: str
    build: str
    parameters: str = ""


class RowCodec:
    """Names, writes and reads the vectors of one pool. It keeps no text."""

    def __init__(self, key: PoolKey | None) -> None:
        self._naming = _derived(key, b"names") if key else None
        self._sealing = AESGCM(_derived(key, b"vectors")) if key else None

    def namer(self, origin: Origin) -> Callable[[str], bytes]:
        """Return a function from a text to the 32-byte name of its vector from this origin."""
        head = json.dumps([_FORMAT, origin.provider, origin.model, origin.build, origin.parameters]).encode() + b"\n"
        prefix = hashlib.sha256(head) if self._naming is None else hmac.new(self._naming, head, "sha256")

        def name(text: str) -> bytes:
            digest = prefix.copy()
            digest.update(text.encode())
            return digest.digest()

        return name

    def encode(self, name: bytes, vector: bytes) -> bytes:
        """The row to store under that name."""
        if self._sealing is None:
            return _checksum(name, vector) + vector
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._sealing.encrypt(nonce, vector, name)

    def decode(self, name: bytes, row: bytes) -> bytes | None:
        """The vector in a row; None if the row is not what was written under that name."""
        if self._sealing is None:
            vector = row[_CHECKSUM_BYTES:]
            return vector if row[:_CHECKSUM_BYTES] == _checksum(name, vector) else None
        try:
            return self._sealing.decrypt(row[:_NONCE_BYTES], row[_NONCE_BYTES:], name)
        except (InvalidTag, ValueError):
            return None


def _derived(key: PoolKey, purpose: bytes) -> bytes:
    return hmac.digest(key.secret, b"tokenlane vector cache: " + purpose, "sha256")


def _checksum(name: bytes, vector: bytes) -> bytes:
    return zlib.crc32(vector, zlib.crc32(name)).to_bytes(_CHECKSUM_BYTES, "little")

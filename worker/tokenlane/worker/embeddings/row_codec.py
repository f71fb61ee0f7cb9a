"""Encodes vectors as rows of the cache, sealed with the pool's key if the pool has one.

A row's name is the HMAC-SHA-256 of the vector's origin and text, with a key derived from the pool's key. The row holds
the vector as little-endian float32, sealed with AES-256-GCM under another derived key, with the name as associated
data. In a pool without a key, the name is the SHA-256, and the row is a checksum over name and vector, then the vector.
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
    """The origin of vectors. Together with a text, it determines a vector.

    `build` distinguishes models with the same name: it is the model's digest or, if that is unknown, the model server's
    endpoint. `parameters`: the parameters of the request that change a vector, as JSON.
    """

    provider: str
    model: str
    build: str
    parameters: str = ""


class RowCodec:
    """Names, encodes and decodes the cache rows of one pool. Rows contain no text."""

    def __init__(self, key: PoolKey | None) -> None:
        self._naming = _derived(key, b"names") if key else None
        self._sealing = AESGCM(_derived(key, b"vectors")) if key else None

    def namer(self, origin: Origin) -> Callable[[str], bytes]:
        """Return a function that computes the 32-byte name of a text's vector from this origin."""
        head = json.dumps([_FORMAT, origin.provider, origin.model, origin.build, origin.parameters]).encode() + b"\n"
        prefix = hashlib.sha256(head) if self._naming is None else hmac.new(self._naming, head, "sha256")

        def name(text: str) -> bytes:
            digest = prefix.copy()
            digest.update(text.encode())
            return digest.digest()

        return name

    def encode(self, name: bytes, vector: bytes) -> bytes:
        """Encode a vector as the row to store under this name."""
        if self._sealing is None:
            return _checksum(name, vector) + vector
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._sealing.encrypt(nonce, vector, name)

    def decode(self, name: bytes, row: bytes) -> bytes | None:
        """Decode the vector in a row. Return None if the row is damaged or was stored under another name."""
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

"""How a vector is named and written in the cache.

A name is the HMAC-SHA-256, under a key made from the pool's, of what made the vector and of the text; in a pool that is
not sealed it is the SHA-256. A written vector is little-endian float32, sealed with AES-256-GCM under another key made
from the pool's, or behind a checksum. The name is authenticated, or summed up, with it.
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
_SUM_BYTES = 4


@dataclass(frozen=True)
class Origin:
    """What makes vectors: the same text from the same origin has the same vector.

    `build` tells models of one name apart: the digest, or the back end's endpoint where no digest is known.
    """

    provider: str
    model: str
    build: str
    parameters: str = ""


class Rows:
    """Names and writes the vectors of one pool. Texts, once named, are not kept."""

    def __init__(self, key: PoolKey | None) -> None:
        self._naming = _derived(key, b"names") if key else None
        self._sealing = AESGCM(_derived(key, b"vectors")) if key else None

    def names(self, origin: Origin) -> Callable[[str], bytes]:
        """Gives the 32 bytes by which a text's vector of this origin is found."""
        head = json.dumps([_FORMAT, origin.provider, origin.model, origin.build, origin.parameters]).encode() + b"\n"
        begun = hashlib.sha256(head) if self._naming is None else hmac.new(self._naming, head, "sha256")

        def name(text: str) -> bytes:
            whole = begun.copy()
            whole.update(text.encode())
            return whole.digest()

        return name

    def write(self, name: bytes, vector: bytes) -> bytes:
        """The vector as it is stored under that name."""
        if self._sealing is None:
            return _sum(name, vector) + vector
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._sealing.encrypt(nonce, vector, name)

    def read(self, name: bytes, row: bytes) -> bytes | None:
        """The vector; None if the row is not as it was written under that name."""
        if self._sealing is None:
            vector = row[_SUM_BYTES:]
            return vector if row[:_SUM_BYTES] == _sum(name, vector) else None
        try:
            return self._sealing.decrypt(row[:_NONCE_BYTES], row[_NONCE_BYTES:], name)
        except (InvalidTag, ValueError):
            return None


def _derived(key: PoolKey, purpose: bytes) -> bytes:
    return hmac.digest(key.secret, b"tokenlane vector cache: " + purpose, "sha256")


def _sum(name: bytes, vector: bytes) -> bytes:
    return zlib.crc32(vector, zlib.crc32(name)).to_bytes(_SUM_BYTES, "little")

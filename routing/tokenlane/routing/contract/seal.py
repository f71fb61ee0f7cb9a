"""Seals a request's payload in the agent, so that only a worker with the pool's key can open it.

    1 byte version (1) | 12 bytes random nonce | AES-256-GCM ciphertext and tag

The request's id is the associated data, so a payload that was moved to another request does not open. The key's id is
in the envelope. Random nonces allow about four billion requests under one key: run `tokenlane key rotate` before that.
"""

from __future__ import annotations

import hashlib
import secrets
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tokenlane.config.host.pool_key_files import PoolKey

from .errors import BadRequest

_VERSION = b"\x01"
_NONCE_BYTES = 12


@lru_cache(maxsize=8)
def _cipher(secret: bytes) -> AESGCM:
    return AESGCM(secret)


def fingerprint(text: str, key: PoolKey | None) -> str:
    """A keyed hash that identifies a text. Without the key nobody can guess the text from it."""
    return hashlib.blake2b(
        text.encode(), key=key.secret if key else b"", digest_size=16, person=b"fingerprint"
    ).hexdigest()


def seal(payload: bytes, request_id: str, key: PoolKey) -> bytes:
    """Seal a payload for the request's stream entry."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return _VERSION + nonce + _cipher(key.secret).encrypt(nonce, payload, request_id.encode())


def unseal(sealed: bytes, request_id: str, key: PoolKey) -> bytes:
    """Open a sealed payload.

    Raises:
        BadRequest: a newer version sealed it, or it was changed, or it belongs to another request.
    """
    if not sealed.startswith(_VERSION):
        raise BadRequest("the request is sealed in a format unknown to this worker: update tokenlane on the worker")
    nonce, ciphertext = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
    try:
        return _cipher(key.secret).decrypt(nonce, ciphertext, request_id.encode())
    except (InvalidTag, ValueError):
        raise BadRequest(
            f"the request's payload was changed in Redis or belongs to another request: key {key.id} does not open it"
        ) from None

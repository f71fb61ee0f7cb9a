"""The seal around a request's payload: closed in the agent, opened only in the worker.

    1 byte version (1) | 12 bytes random nonce | AES-256-GCM ciphertext and tag

The request's id is the associated data, so that a payload moved to another request does not open. The key's id is in
the envelope. A random nonce is good for some four billion requests under one key: `tokenlane key rotate` before that.
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
    """A hash by which a text is known again, and cannot be guessed without the key."""
    return hashlib.blake2b(
        text.encode(), key=key.secret if key else b"", digest_size=16, person=b"fingerprint"
    ).hexdigest()


def seal(payload: bytes, request_id: str, key: PoolKey) -> bytes:
    """The payload as it is written to the request's stream entry."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return _VERSION + nonce + _cipher(key.secret).encrypt(nonce, payload, request_id.encode())


def unseal(sealed: bytes, request_id: str, key: PoolKey) -> bytes:
    """The payload as the agent wrote it.

    Raises:
        BadRequest: it was sealed by a newer version, or changed since, or for another request.
    """
    if not sealed.startswith(_VERSION):
        raise BadRequest("the request is sealed in a way this worker does not know: give the worker a newer tokenlane")
    nonce, ciphertext = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
    try:
        return _cipher(key.secret).decrypt(nonce, ciphertext, request_id.encode())
    except (InvalidTag, ValueError):
        raise BadRequest(
            f"the request's payload was changed in Redis, or is another request's: it does not open with key {key.id}"
        ) from None

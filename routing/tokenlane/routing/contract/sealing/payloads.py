"""Encrypts (seals) the payload of a request, so that only workers with the pool's key can read it.

    1 byte version (1) | 12 bytes random nonce | AES-256-GCM ciphertext and tag

The agent seals and the worker unseals. The request's id is the associated data, so a payload that was moved to another
request cannot be unsealed. The envelope names the key's id. Random nonces allow about four billion requests with one
key: run `tokenlane key rotate` before that.
"""

from __future__ import annotations

import hashlib
import secrets
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tokenlane.config.host.pool_key_files import PoolKey
from tokenlane.routing.contract.errors import BadRequest

_VERSION = b"\x01"
_NONCE_BYTES = 12


@lru_cache(maxsize=8)
def _cipher(secret: bytes) -> AESGCM:
    return AESGCM(secret)


def fingerprint(text: str, key: PoolKey | None) -> str:
    """A hash that identifies a text. If there is a key, only its holders can test guesses of the text."""
    return hashlib.blake2b(
        text.encode(), key=key.secret if key else b"", digest_size=16, person=b"fingerprint"
    ).hexdigest()


def seal(payload: bytes, request_id: str, key: PoolKey) -> bytes:
    """Seal a payload for the request's stream entry."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return _VERSION + nonce + _cipher(key.secret).encrypt(nonce, payload, request_id.encode())


def unseal(sealed: bytes, request_id: str, key: PoolKey) -> bytes:
    """Unseal a payload.

    Raises:
        BadRequest: a newer version sealed the payload, or the payload was changed or belongs to another request.
    """
    if not sealed.startswith(_VERSION):
        raise BadRequest("This worker does not know the format of the sealed request: update tokenlane on its host.")
    nonce, ciphertext = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
    try:
        return _cipher(key.secret).decrypt(nonce, ciphertext, request_id.encode())
    except (InvalidTag, ValueError):
        raise BadRequest(
            f"Key {key.id} does not open the request, which was changed in Redis or copied from another request: send "
            "it again, and find out what else writes to the Redis server."
        ) from None

"""The seal around a request's payload: closed in the agent, opened only in the worker.

Without a pool key the payload travels as it is. Both directions take the request's id, so that a sealed payload can be
bound to it.
"""

from __future__ import annotations

__all__ = ["seal", "unseal"]


def seal(payload: bytes, request_id: str) -> bytes:
    """The payload as it is written to the request's stream entry."""
    return payload


def unseal(sealed: bytes, request_id: str) -> bytes:
    """The payload as the agent wrote it."""
    return sealed

"""The error for an answer that cannot be read."""

from __future__ import annotations

from tokenlane.routing.contract.errors import UnreadableAnswer
from tokenlane.worker.providers.errors.http_errors import MAX_DETAIL_BYTES


def unreadable(why: str, data: bytes = b"") -> UnreadableAnswer:
    """Running the request again would change nothing, so it is not worth another try.

    Args:
        why: where and how it is unlike what was expected, in words that quote nothing.
        data: what came, for the detail.
    """
    return UnreadableAnswer(
        f"The back end's answer cannot be read: {why}. Is it a server that the lane's provider can talk to?",
        detail=data[:MAX_DETAIL_BYTES].decode("utf-8", "replace"),
    )

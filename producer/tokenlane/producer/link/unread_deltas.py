"""The deltas that an agent has not read yet. If there are many, plain deltas are merged."""

from __future__ import annotations

from collections import deque

from tokenlane.routing.contract.answers import TokenDelta

UNREAD_DELTAS = 1024
_MERGED_SIZE = 4096  # characters; merging longer pieces would take quadratic time


class UnreadDeltas:
    """A queue of deltas.

    Args:
        merge_from: the number of unread deltas from which on a new delta is merged into the last one, if possible. A
            merged delta has the position of its last part.
    """

    def __init__(self, merge_from: int = UNREAD_DELTAS) -> None:
        self._deltas: deque[TokenDelta] = deque()
        self._merge_from = merge_from

    def __len__(self) -> int:
        return len(self._deltas)

    def put(self, delta: TokenDelta) -> None:
        """Append a delta. The caller must not use it afterwards."""
        if len(self._deltas) < self._merge_from or not _merge(self._deltas[-1], delta):
            self._deltas.append(delta)

    def pop(self) -> TokenDelta | None:
        """Remove and return the first delta; None if there is none."""
        return self._deltas.popleft() if self._deltas else None

    def clear(self) -> None:
        """Drop all deltas."""
        self._deltas.clear()


def _merge(last: TokenDelta, delta: TokenDelta) -> bool:
    """Append `delta` to `last` if both are plain text, or both plain reasoning, and `last` is not too long."""
    size = len(last.text) + len(last.reasoning) + len(last.logprobs)
    if size >= _MERGED_SIZE or not (_is_plain(last) and _is_plain(delta)):
        return False
    if bool(last.reasoning) != bool(delta.reasoning) or last.attempt != delta.attempt:
        return False
    last.text += delta.text
    last.reasoning += delta.reasoning
    last.logprobs += delta.logprobs
    last.position = delta.position
    return True


def _is_plain(delta: TokenDelta) -> bool:
    if delta.tool_calls or delta.finish_reason is not None or delta.usage is not None:
        return False
    return not (delta.text and delta.reasoning)

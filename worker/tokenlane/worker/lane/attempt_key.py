"""Names an attempt."""

from __future__ import annotations

from typing import NamedTuple


class AttemptKey(NamedTuple):
    """An attempt of a request. An outdated attempt may still run on a lane while a newer one of its request does."""

    request: str
    number: int

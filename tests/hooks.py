"""For tests of hooks: the hooks of docs/examples, and answers to pass through hooks."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncGenerator, Iterable
from types import ModuleType

import pytest
from tests.repository import ROOT

from tokenlane.routing.contract.answers import TokenDelta, Usage
from tokenlane.routing.hooks.functions import TokenHook
from tokenlane.routing.hooks.token_hook import filter_deltas


def examples() -> ModuleType:
    """The module docs/examples/filters.py."""
    spec = importlib.util.spec_from_file_location("filters", ROOT / "docs" / "examples" / "filters.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Clock:
    """The clock of the event loop. A hook that adds to `ahead_s` has blocked the loop for that time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        real = loop.time
        self.ahead_s = 0.0
        monkeypatch.setattr(loop, "time", lambda: real() + self.ahead_s)


class Source:
    """An answer with these pieces. `read` and `closed` say how many were read, and whether the answer was closed."""

    def __init__(
        self, *pieces: str | TokenDelta, error: BaseException | None = None, usage: Usage | None = None
    ) -> None:
        self.pieces, self.error, self.usage = pieces, error, usage
        self.read, self.closed = 0, False

    async def deltas(self) -> AsyncGenerator[TokenDelta, None]:
        try:
            for number, piece in enumerate(self.pieces):
                self.read += 1
                delta = TokenDelta(text=piece) if isinstance(piece, str) else piece.model_copy()
                delta.position = number
                yield delta
            if self.error is not None:
                raise self.error
            yield TokenDelta(finish_reason="stop", usage=self.usage or Usage(), position=len(self.pieces))
        finally:
            self.closed = True


async def filtered(hook: TokenHook, source: Source | Iterable[str], **options: float) -> list[TokenDelta]:
    """What comes out of the hook for an answer."""
    source = source if isinstance(source, Source) else Source(*source)
    return [delta async for delta in filter_deltas(hook, source.deltas(), **options)]


def text_of(deltas: Iterable[TokenDelta]) -> str:
    """The text of the deltas."""
    return "".join(delta.text for delta in deltas)

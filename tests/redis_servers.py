"""Redis servers as tests want them to be waited for, also where a client or a worker opens them by their URLs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tokenlane.routing.store.server import Server

__all__ = ["every_server"]


def every_server(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Every server that is opened by its URL from now on differs in these fields of `Server`."""
    of = Server.of
    monkeypatch.setattr(Server, "of", lambda *given: replace(of(*given), **changes))

"""The dashboard's application, served inside the test's process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from pydantic import SecretStr

from tokenlane.producer import Client
from tokenlane.producer.dashboard.access import Access
from tokenlane.producer.dashboard.actions import OpenClient
from tokenlane.producer.dashboard.app import dashboard_app
from tokenlane.producer.dashboard.feed import Feed
from tokenlane.routing.http_server import serve_http
from tokenlane.routing.store.pool import Pool

TOKEN = "a-token"


@asynccontextmanager
async def served(
    pool: Pool,
    *,
    viewing_is_open: bool = True,
    open_client: OpenClient | None = None,
    port: int = 0,
    internal_errors: int = 0,
) -> AsyncIterator[tuple[Feed, str]]:
    """The dashboard of a pool, mounted below a path: its feed and its address.

    Args:
        internal_errors: how many requests must fail unexpectedly by the end of the block.
    """
    feed, root = Feed(pool), web.Application()
    access = Access(SecretStr(TOKEN), frozenset(), viewing_is_open=viewing_is_open)
    root.add_subapp("/live", dashboard_app(feed, open_client or (lambda: Client(pool.server.url)), access))
    async with serve_http(root, ("127.0.0.1", port), option="--listen", errors=pool.internal_errors) as url:
        yield feed, f"{url}/live/"
    assert pool.internal_errors.count == internal_errors

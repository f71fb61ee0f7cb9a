"""Answers of llama.cpp's real server that break off, and that another server continues."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from tokenlane.worker.builtin import MODEL_NAME, model
from tokenlane.worker.builtin.server import builtin_server

from .cut_answers import CUTS, Cut, check_cut

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def endpoints() -> AsyncIterator[tuple[str, str]]:
    """Two servers with the built-in model."""
    file = await model.fetch()
    async with AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(builtin_server(file, capacity=1)) for _ in range(2)]
        yield first, second


@pytest.mark.parametrize("cut", CUTS, ids=str)
async def test_a_cut_answer_goes_on(cut: Cut, endpoints: tuple[str, str], redis_url: str) -> None:
    """In the middle of a word or a character, or after a space: the text is the part before the cut, and what the other
    server gives when it is asked to continue that part."""
    await check_cut(cut, redis_url, "llamacpp", endpoints, MODEL_NAME, {"cache_prompt": False})

"""What tests of all kinds share: one real server for all of them, emptied for each."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Generator, Iterator

import pytest
import pytest_asyncio
from hypothesis import settings
from redis import Redis
from tests.child_output import children_output

from tokenlane.config.host.embedded_server import EmbeddedServer

settings.register_profile("tokenlane", deadline=None)  # a busy machine is no failure
settings.load_profile("tokenlane")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a script runs this in the background: children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


if os.environ.get("TOKENLANE_TEST_LOOP") == "uvloop":

    def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
        """All tests run on uvloop."""
        import uvloop

        return {"uvloop": uvloop.new_event_loop}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what the child processes that its fixtures started have written."""
    report = yield
    if report.failed and (output := children_output()):
        report.sections.append(("output of child processes", output))
    return report


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def redis_server() -> AsyncIterator[str]:
    """The URL of a real server on a unix socket, the same for the whole run. Its pools are not sealed."""
    async with EmbeddedServer() as server:
        server.key_file.unlink()
        yield server.url


@pytest.fixture(autouse=True)
def keeps_no_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that tests start leave no cache in the data directory of who runs them."""
    monkeypatch.setenv("TOKENLANE_EMBEDDINGS__CACHE_MB", "0")


@pytest.fixture(autouse=True)
def leaves_log_levels_alone() -> Iterator[None]:
    """A test that leaves a level changed would hide log lines from tests that come after it in the same process."""
    before = logging.getLogger("tokenlane").level
    yield
    assert logging.getLogger("tokenlane").level == before


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The URL of a real server that holds nothing."""
    with Redis.from_url(redis_server) as redis:
        redis.flushall()
    return redis_server

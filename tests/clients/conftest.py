"""One gateway for all tests of clients. It works on a thread of its own, since many clients block."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.clients.behind import Door

from tokenlane.producer.loop_thread import LoopThread


@pytest.fixture(scope="session")
def door(redis_server: str) -> Iterator[Door]:
    """A gateway whose pool has a simulated model server."""
    served = Door(redis_server)
    with LoopThread(served):
        yield served

from __future__ import annotations

import asyncio

import pytest
from tests.unit.worker.lane.test_heartbeat import new_run

from tokenlane.worker.lane.running_attempts import Runs


async def test_how_long_chats_run_without_a_token() -> None:
    """Since the newest token, or since the oldest running chat began if that was later. Other work does not count."""
    runs, old, new, now = Runs(), new_run(), new_run(), asyncio.get_running_loop().time()
    embedding = new_run()
    embedding.claim.envelope.kind = "embed"
    assert runs.silent_ms(now) is None
    with runs.register(embedding):
        assert runs.silent_ms(now - 9) is None
        with runs.register(old), runs.register(new):
            old.started_at = now - 20
            assert runs.silent_ms(now - 9) == pytest.approx(9_000, abs=900)
            assert runs.silent_ms(now - 99) == pytest.approx(20_000, abs=900)

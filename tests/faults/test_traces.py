"""The trace of a request whose worker is killed, as a collector receives it from real processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.collector import collector
from tests.faults.scenario import site

from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.config.exit_codes import OK
from tokenlane.routing.contract.attempt_end import WORKER_LOST
from tokenlane.routing.telemetry import conventions as names

PROMPT = "marked-prompt"
TEXT = "".join(f"w{number} " for number in range(16))


async def test_a_worker_killed_in_the_middle_of_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lost attempt is in the tree, recorded by the worker that continues the answer, whose attempt links to it."""
    async with collector() as spans:
        for name, value in spans.environment.items():
            monkeypatch.setenv(name, value)
        async with site(tmp_path, lanes=("gpu0", "gpu1"), provider="llamacpp") as town:
            town.backends["gpu0"].faults.append(FaultScript(hold_after=5))
            chat = await town.farm.tokenlane("chat", PROMPT, "--role", "planner")
            await town.backends["gpu0"].held()
            (worker,) = [child for child, lane in town.workers.items() if lane == "gpu0"]
            del town.workers[worker]
            await worker.kill()
            ended = await chat.ended()
            assert (ended.code, ended.out.strip()) == (OK, TEXT.strip())
            request = await spans.one("llm.request")
            lost, continued = await spans.named("llm.attempt", 2)
            call = await spans.one("chat sim")

    assert {span.trace_id for span in (lost, continued, call)} == {request.trace_id}
    assert (lost.parent, continued.parent, call.parent) == (request.id, request.id, continued.id)
    assert (lost.links, continued.links) == ((), (lost.id,))

    assert (lost.has_failed, lost.attributes[names.ERROR_TYPE]) == (True, WORKER_LOST)
    assert (lost.attributes[names.OUTCOME], continued.attributes[names.OUTCOME]) == ("requeued", "completed")
    assert (lost.attributes[names.LANE], continued.attributes[names.LANE]) == ("gpu0", "gpu1")
    assert not any(span.has_failed for span in (request, continued, call))
    assert (request.attributes[names.OUTCOME], request.attributes[names.ATTEMPTS]) == ("completed", 2)
    assert request.attributes[names.LANE] == "gpu1"

    # A worker knows these moments only in ms, and reads its own clock.
    tolerance_ns = 500_000_000
    waited_ns = 10**6 * int(str(continued.attributes[names.QUEUE_MS]))
    assert abs(continued.started_ns - waited_ns - lost.ended_ns) < tolerance_ns
    assert request.started_ns - tolerance_ns < lost.started_ns < lost.ended_ns <= continued.started_ns
    assert PROMPT.encode() not in spans.bytes
    assert b"w1 w2" not in spans.bytes

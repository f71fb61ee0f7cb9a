"""An answer of 64 tokens, cut after any of its tokens, goes on where it broke off, whatever servers the lanes have."""

from __future__ import annotations

import asyncio
from itertools import product

import pytest
from tests.integration.lanes import lane_of

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.config.settings.values import LaneSettings
from tokenlane.producer import Client
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.store.pool import connect
from tokenlane.worker.lane.model_server import circuit_breaker

TOKENS = 64
WHOLE = "".join(f"w{number} " for number in range(TOKENS))
APIS = ("ollama", "vllm", "llamacpp", "lmstudio", "tgi", "openai")
PAIRS = [pair for pair in product(APIS, APIS) if pair != ("openai", "openai")]
"""OpenAI's dialect cannot continue an answer, so one of the two lanes must speak another."""
TEXTS = {
    "a text that repeats itself": ("ha",) * 8,
    "white space": tuple(" \n\ta\r\n\r\nb \u00a0c  \n"),
    "characters of several code points": tuple("👩\u200d👩\u200d👧 e\u0301🇩🇪\ufeff"),
    "tags of reasoning in the text": ("a ", "<think>", " b ", "</think>", " c"),
}
ROUTE = RolePolicy(route=(Candidate(lane="first"), Candidate(lane="second")))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("first", "second"), PAIRS)
async def test_an_answer_cut_after_any_token_is_whole(
    redis_url: str, first: str, second: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text is byte for byte the undisturbed text, positions have no gap, and only delivered tokens count. The
    circuit breaker stays closed, so that each answer is cut."""
    monkeypatch.setattr(circuit_breaker, "LEAST_FAILED", 1_000)
    async with connect(redis_url) as pool:
        await pool.policies.write(Policy(roles={"planner": ROUTE}))
    async with (
        Simulator(api=first, tokens=TOKENS, loaded=["sim"], capacity=2 * TOKENS) as one,
        Simulator(api=second, tokens=TOKENS, loaded=["sim"], capacity=2 * TOKENS) as two,
        lane_of(redis_url, LaneSettings("first", first, one.url, capacity=2 * TOKENS)),
        lane_of(redis_url, LaneSettings("second", second, two.url, capacity=2 * TOKENS)),
        Client(redis_url) as client,
    ):
        one.faults += [FaultScript(cut_after=tokens) for tokens in range(TOKENS + 1)]
        await asyncio.gather(*(_ask(client, None if second == "openai" else "second") for _ in range(TOKENS + 1)))
        assert not one.faults


async def _ask(client: Client, lane: str | None) -> None:
    """Ask, and check the answer. `lane`: the lane that must end it, if only one can."""
    text, positions = "", []
    async with client.chat("hi", role="planner") as stream:
        async for delta in stream:
            text += delta.text
            positions.append(delta.position)
        answer = await stream.answer()
    assert (text, answer.text) == (WHOLE, WHOLE)
    assert positions == list(range(len(positions)))
    assert (answer.usage.attempts, answer.lane, answer.finish_reason) == (2, lane or answer.lane, "stop")
    assert answer.usage.completion_tokens == TOKENS


@pytest.mark.timeout(60)
@pytest.mark.parametrize("api", [api for api in APIS if api != "openai"])
@pytest.mark.parametrize("name", TEXTS)
async def test_any_text_cut_anywhere_is_whole(redis_url: str, api: str, name: str) -> None:
    """The text is byte for byte the undisturbed text, whatever it consists of, and also if only its end is missing."""
    pieces = TEXTS[name]
    async with connect(redis_url) as pool:
        await pool.policies.write(Policy(roles={"planner": ROUTE}))
    async with (
        Simulator(api=api, loaded=["sim"], capacity=32) as one,
        Simulator(api=api, loaded=["sim"], capacity=32) as two,
        lane_of(redis_url, LaneSettings("first", api, one.url, capacity=32)),
        lane_of(redis_url, LaneSettings("second", api, two.url, capacity=32)),
        Client(redis_url) as client,
    ):
        one.faults += [FaultScript(pieces=pieces, cut_after=tokens) for tokens in range(len(pieces) + 1)]
        two.faults += [FaultScript(pieces=pieces)] * (len(pieces) + 1)
        answers = await asyncio.gather(*(client.complete("hi", role="planner") for _ in range(len(pieces) + 1)))
    assert {answer.text for answer in answers} == {"".join(pieces)}
    assert {(answer.lane, answer.usage.attempts) for answer in answers} == {("second", 2)}

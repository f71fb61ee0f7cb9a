"""What is said to a request that no lane can serve."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.lanes import in_state, lane_view

from tokenlane.routing.contract.envelope import Needs
from tokenlane.routing.contract.errors import LlmError, ModelNotFound, ProviderDown
from tokenlane.routing.contract.wire import Kind
from tokenlane.routing.decide.no_candidate import no_candidate_error, no_lane
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.decide.queue_key import Queue

LANES = (
    lane_view("gpu0", "ollama", models=("phi3:latest", "qwen3:8b")),
    lane_view("gpu1", "vllm", models=("phi3",)),
)


def said(model: str | None, provider: str | None) -> LlmError:
    """To a request with that wish."""
    return no_candidate_error(Queue("r", "chat", "normal", Needs(model=model, provider=provider)), Policy(), LANES)


def test_models_of_the_provider_that_is_asked_for() -> None:
    """Who asks one provider for a model that only another has is told that, and what this one has."""
    error = said("qwen3:8b", "vllm")
    assert isinstance(error, ModelNotFound)
    assert "'vllm'" in error.message
    assert error.message.endswith(": phi3")
    anywhere = said("typo", None)
    assert anywhere.message.endswith(": phi3, phi3:latest, qwen3:8b")


def test_a_provider_nobody_has() -> None:
    """A provider's name that no lane has is what is wrong, and not the role's route."""
    error = said("phi3", "vlm")
    assert isinstance(error, ProviderDown)
    assert not error.retryable
    assert "'vlm'" in error.message
    assert error.message.endswith(": gpu0 (ollama), gpu1 (vllm)")


@pytest.mark.parametrize("needs", [Needs(), Needs(model="typo"), Needs(provider="tgi"), Needs(lane="gpu7")])
@pytest.mark.parametrize("kind", ["chat", "embed"])
def test_a_client_is_told_of_what_it_may_use_alone(needs: Needs, kind: Kind) -> None:
    """Lanes that have left are not connected and serve nothing; those its role may not use are not its business."""
    gone = replace(LANES[0], name="was-here", models=("was-served",), facts=in_state("left"), beat_ms=600_000)
    others = replace(LANES[0], name="not-ours", models=("not-for-us",))
    policy = Policy(roles={"r": RolePolicy(route=(Candidate(lane="gpu1"), Candidate(lane="was-here")))})
    told = no_candidate_error(Queue("r", kind, "normal", needs), policy, (LANES[1], gone, others)).message
    assert not [word for word in ("was-here", "was-served", "not-ours", "not-for-us") if word in told]


def test_a_pool_that_all_lanes_have_left_has_none() -> None:
    """What was there within the hour is not connected."""
    left = tuple(replace(lane, facts=in_state("left"), beat_ms=600_000) for lane in LANES)
    assert no_candidate_error(Queue("r", "chat", "normal", Needs()), Policy(), left).message == no_lane().message


def test_the_pool_without_lanes_is_named_in_one_line() -> None:
    """Whoever asks the wrong pool sees which one it was, and no page about model servers."""
    pool = "pool 'main' at redis://gpu-hub/3"
    message = no_candidate_error(Queue("r", "chat", "normal", Needs()), Policy(), (), pool).message
    assert pool in message.partition("?")[0]
    assert "\n" not in message


@pytest.mark.parametrize("why", ["It is off.", ""])
def test_lanes_that_take_no_work_are_told_with_the_reason(why: str) -> None:
    """Nobody is told to start a worker where one waits for its model server, or does not start what it is given."""
    down = replace(LANES[0], facts=in_state("down"), why=why)
    error = no_lane(lanes=[down])
    assert error.retryable
    assert f"'gpu0' is down: {why.rstrip('.')}" in error.message


def test_what_a_lane_that_is_away_said_last_is_no_reason() -> None:
    """Its worker has vanished: nobody waits for its model server any more."""
    gone = replace(LANES[0], facts=in_state("gone"), why="It is off.")
    assert no_lane(lanes=[gone]).message == no_lane().message

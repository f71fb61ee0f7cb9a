"""The errors for requests that no lane can serve."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
from tests.lanes import chats, in_state, lane_view

from tokenlane.routing.contract.envelope import Needs
from tokenlane.routing.contract.errors import Interrupted, LlmError, ModelNotFound, ProviderDown
from tokenlane.routing.contract.wire import Kind
from tokenlane.routing.decide.lanes.offer import LaneView
from tokenlane.routing.decide.no_candidate import no_candidate_error, no_lane
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.decide.queue_key import Queue

LANES = (
    lane_view("gpu0", "ollama", models=("phi3:latest", "qwen3:8b")),
    lane_view("gpu1", "vllm", models=("phi3",)),
)


def error_for(model: str | None, provider: str | None) -> LlmError:
    """The error for a request for this model from this provider."""
    return no_candidate_error(Queue("r", "chat", "normal", Needs(model=model, provider=provider)), Policy(), LANES)


def test_the_error_lists_the_models_of_the_requested_provider() -> None:
    """A model that only another provider serves is not found, and the models of the requested provider are listed."""
    error = error_for("qwen3:8b", "vllm")
    assert isinstance(error, ModelNotFound)
    assert "'vllm'" in error.message
    assert error.message.endswith(": phi3.")
    anywhere = error_for("typo", None)
    assert anywhere.message.endswith(": phi3, phi3:latest, qwen3:8b.")


def test_an_unknown_provider() -> None:
    """The error blames the name of the provider, not the role's route."""
    error = error_for("phi3", "vlm")
    assert isinstance(error, ProviderDown)
    assert not error.retryable
    assert "'vlm'" in error.message
    assert error.message.endswith(": gpu0 (ollama), gpu1 (vllm).")


@pytest.mark.parametrize("needs", [Needs(), Needs(model="typo"), Needs(provider="tgi"), Needs(lane="gpu7")])
@pytest.mark.parametrize("kind", ["chat", "embed"])
def test_errors_name_only_connected_lanes_that_the_role_may_use(needs: Needs, kind: Kind) -> None:
    """An error does not name lanes that were shut down or that the role may not use, or their models."""
    gone = replace(LANES[0], name="was-here", models=("was-served",), facts=in_state("left"), beat_ms=600_000)
    others = replace(LANES[0], name="not-ours", models=("not-for-us",))
    policy = Policy(roles={"r": RolePolicy(route=(Candidate(lane="gpu1"), Candidate(lane="was-here")))})
    told = no_candidate_error(Queue("r", kind, "normal", needs), policy, (LANES[1], gone, others)).message
    assert not [word for word in ("was-here", "was-served", "not-ours", "not-for-us") if word in told]


def test_a_pool_whose_lanes_have_all_left() -> None:
    """Its error is the error of a pool without lanes."""
    left = tuple(replace(lane, facts=in_state("left"), beat_ms=600_000) for lane in LANES)
    assert no_candidate_error(Queue("r", "chat", "normal", Needs()), Policy(), left).message == no_lane().message


def test_the_error_names_the_pool_without_lanes() -> None:
    """A user of the wrong pool sees its name in one line."""
    pool = "pool 'main' at redis://gpu-hub/3"
    message = no_candidate_error(Queue("r", "chat", "normal", Needs()), Policy(), (), pool).message
    assert pool in message
    assert "\n" not in message


@pytest.mark.parametrize("why", ["It is off.", ""])
def test_the_error_says_why_lanes_are_down(why: str) -> None:
    """A lane whose worker is alive but accepts no work is named with the reason."""
    down = replace(LANES[0], facts=in_state("down"), why=why)
    error = no_lane(lanes=[down])
    assert error.retryable
    assert f"'gpu0' is down: {why.rstrip('.')}" in error.message


def test_the_last_reason_of_a_vanished_lane_is_not_shown() -> None:
    """Without its worker, the condition of its model server does not matter."""
    gone = replace(LANES[0], facts=in_state("gone"), why="It is off.")
    assert no_lane(lanes=[gone]).message == no_lane().message


@pytest.mark.parametrize("continue_with", ["same-model", "any"])
def test_an_answer_that_no_lane_can_continue(continue_with: Literal["same-model", "any"]) -> None:
    """The error names the model that began it, and the lanes that serve this model."""

    def error(*lanes: LaneView) -> LlmError:
        policy = Policy(roles={"r": RolePolicy(continue_with=continue_with)})
        needs = Needs(continues="phi3", size=64)
        return no_candidate_error(Queue("r", "chat", "normal", needs), policy, lanes, "pool 'main'")

    other = lane_view("gpu2", models=("qwen3",), offer=chats(1, abilities={"qwen3": ("chat", "prefill")}))
    gone = replace(other, name="gpu3", models=("phi3",), facts=in_state("gone"), beat_ms=600_000)
    for lanes, fact in (((), "'main'"), ((gone,), "'main'"), (LANES, "gpu0, gpu1"), ((LANES[1], gone), "'gpu1'")):
        refused = error(*lanes)
        assert isinstance(refused, Interrupted)
        assert (refused.model, refused.retryable) == ("phi3", False)
        assert "'phi3'" in refused.message
        assert fact in refused.message
        assert "gpu3" not in refused.message
    if continue_with == "same-model":
        assert "continue_with" in error(other, *LANES).message
    assert "continue_with" not in error(*LANES).message
    messages = {error(*lanes).message for lanes in ((), LANES, (lane_view("gpu4", models=("qwen3",)),))}
    assert len(messages) == 3


def test_an_answer_that_only_lanes_of_other_roles_can_continue() -> None:
    """The error does not name lanes that the role may not use."""
    policy = Policy(roles={"r": RolePolicy(route=(Candidate(lane="gpu1"),))})
    able = lane_view("gpu7", models=("phi3",), offer=chats(1, abilities={"phi3": ("chat", "prefill")}))
    message = no_candidate_error(Queue("r", "chat", "normal", Needs(continues="phi3")), policy, (*LANES, able)).message
    assert "'gpu1'" in message
    assert not [name for name in ("gpu0", "gpu7", "continue_with") if name in message]

"""Which places in routes are none of the pool's lanes."""

from __future__ import annotations

import pytest
from tests.lanes import chats, lane_view

from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.decide.unknown_places import unknown_places

LANES = (
    lane_view("gpu0", "vllm", models=("m1",)),
    lane_view("gpu1", "ollama", models=("m2:latest",), state="gone"),
    lane_view("gpu2", "lmstudio", models=(), offer=chats(4, pulls=True, lacks=("m3",))),
    lane_view("gpu3", "tgi", models=(), offer=chats(4, pulls=True)),
)


@pytest.mark.parametrize(
    ("candidate", "unknown"),
    [
        (Candidate(lane="gpu0"), None),
        (Candidate(lane="gpu1"), None),
        (Candidate(lane="nowhere"), "nowhere"),
        (Candidate(lane="gpu0", model="m1"), None),
        (Candidate(lane="gpu0", model="m2"), "m2"),
        (Candidate(provider="vllm"), None),
        (Candidate(provider="llamacpp"), "llamacpp"),
        (Candidate(provider="vllm", lane="gpu1"), "vllm"),
        (Candidate(provider="vllm", model="m1"), None),
        (Candidate(provider="vllm", model="m2"), "m2"),
        (Candidate(provider="ollama", model="m2"), None),
        (Candidate(provider="lmstudio", model="m3"), None),
        (Candidate(provider="lmstudio", model="m4"), "m4"),
        (Candidate(provider="tgi", model="anything"), None),
        (Candidate(provider="vllm", model="m9"), "m9"),
    ],
)
def test_what_no_lane_is(candidate: Candidate, unknown: str | None) -> None:
    """A lane that left is known; a model that a lane may pull is served."""
    policy = Policy(roles={"coder": RolePolicy(route=(candidate,))})
    found = list(unknown_places(policy, LANES))
    assert [(it.role, it.candidate) for it in found] == ([] if unknown is None else [("coder", candidate)])
    assert all(repr(unknown) in it.message and "'coder'" in it.message for it in found)


def test_without_lanes_every_place_is_unknown() -> None:
    """And a policy without routes names none."""
    policy = Policy(roles={"coder": RolePolicy(route=(Candidate(lane="gpu0"), Candidate(model="m")))})
    assert len(list(unknown_places(policy, ()))) == 2
    assert list(unknown_places(Policy(roles={"coder": RolePolicy()}), ())) == []

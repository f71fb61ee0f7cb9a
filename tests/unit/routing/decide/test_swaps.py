"""Which routes a swap of a model changes, and to what."""

from __future__ import annotations

import pytest
from tests.lanes import lane_view

from tokenlane.config.settings.values import FALLBACK_LANE
from tokenlane.routing.contract.envelope import Needs
from tokenlane.routing.contract.errors import BadRequest, ModelNotFound
from tokenlane.routing.decide.candidates import candidates
from tokenlane.routing.decide.lanes.offer import Offer
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.decide.swaps import Target, find_target, routes_before, swapped_routes, with_routes

GPU0 = lane_view(name="gpu0", provider="ollama", models=("old", "new"))
GPU1 = lane_view(name="gpu1", provider="ollama", models=("old",))
GPU2 = lane_view(name="gpu2", provider="vllm", models=("new",))
LANES = (GPU0, GPU1, GPU2)


def policy_with(**routes: tuple[Candidate, ...]) -> Policy:
    """A written policy with these routes."""
    return Policy(revision=1, roles={role: RolePolicy(route=route) for role, route in routes.items()})


def places(policy: Policy, role: str, **needs: object) -> dict[str, str]:
    """The lanes that may serve the role, with their models."""
    pairs = candidates(policy, role, Needs.model_validate(needs), LANES)
    return {lane.name: model for lane, model in pairs}


def test_a_role_is_served_by_the_new_model_alone() -> None:
    """Entries keep their order and their place; those without a lane that has the model are left out."""
    route = (Candidate(lane="gpu1", model="old"), Candidate(provider="ollama"), Candidate(provider="vllm", model="x"))
    policy = policy_with(planner=route)
    routes = swapped_routes(policy, Target(("planner",)), "new", LANES)
    assert routes == {"planner": (Candidate(provider="ollama", model="new"), Candidate(provider="vllm", model="new"))}
    after = with_routes(policy, routes)
    assert places(after, "planner") == {"gpu0": "new", "gpu2": "new"}
    assert after.roles["planner"].swapped_from == route


def test_a_role_without_a_route_gets_one_and_back_frees_it_again() -> None:
    """Any lane with the model serves it after the swap; the undone swap can be undone, too."""
    target = Target(("planner",))
    before = Policy()
    after = with_routes(before, swapped_routes(before, target, "new", LANES))
    assert after.roles["planner"].route == (Candidate(model="new"),)
    back = with_routes(after, routes_before(after, target))
    assert back.roles["planner"].route == ()
    assert with_routes(back, routes_before(back, target)).roles == after.roles


def test_a_lane_gets_an_entry_of_its_own() -> None:
    """Other lanes of the routes keep their models, and routes that do not lead to the lane stay as they are."""
    policy = policy_with(
        planner=(Candidate(provider="vllm"), Candidate(provider="ollama", model="old")),
        coder=(Candidate(lane="gpu0", model="old"),),
        other=(Candidate(lane="gpu2"),),
    )
    target = find_target("gpu0", policy, (), LANES)
    assert target == Target(("planner", "coder"), "gpu0")
    after = with_routes(policy, swapped_routes(policy, target, "new", LANES))
    assert places(after, "planner") == {"gpu2": "new", "gpu0": "new", "gpu1": "old"}
    assert places(after, "coder") == {"gpu0": "new"}
    assert after.roles["other"] == policy.roles["other"]
    assert {role: rules.route for role, rules in with_routes(after, routes_before(after, target)).roles.items()} == {
        role: rules.route for role, rules in policy.roles.items()
    }


def test_a_model_that_no_lane_offers_is_refused() -> None:
    """A model that only embeds counts as not offered, and so does one on a lane outside the route."""
    policy = policy_with(planner=(Candidate(lane="gpu1"),))
    for model in ("new", "unknown"):
        with pytest.raises(ModelNotFound):
            swapped_routes(policy, Target(("planner",)), model, LANES)
    embeds = lane_view(name="gpu3", models=("embed",), offer=Offer(abilities={"embed": ("embed",)}))
    with pytest.raises(ModelNotFound):
        swapped_routes(Policy(), Target(("planner",)), "embed", (embeds,))


def test_why_no_lane_offers_the_model() -> None:
    """The error tells a model outside the route from one that only embeds and from one that no lane has."""
    embeds = lane_view("gpu3", models=("embed",), offer=Offer(abilities={"embed": ("embed",)}, limits={"embed": 1}))
    lanes = (*LANES, embeds, lane_view(FALLBACK_LANE, models=("built-in",)))
    policy = policy_with(planner=(Candidate(lane="gpu1"), Candidate(lane="gpu3")), other=())
    said = {}
    for model in ("new", "embed", "unknown", "built-in"):
        with pytest.raises(ModelNotFound) as refused:
            swapped_routes(policy, Target(("planner",)), model, lanes)
        said[model] = refused.value.message
        assert "built-in" not in said[model].split("offered models")[1]
    assert "'gpu0'" in said["new"]
    assert "'gpu3'" in said["embed"]
    assert "--lane gpu1" in said["unknown"]


def test_another_spelling_is_no_swap() -> None:
    """Else the way back to the model before would be lost."""
    lane = lane_view("gpu0", provider="ollama", models=("old:latest", "new:latest"))
    policy = policy_with(
        planner=(Candidate(provider="ollama", model="new"),), coder=(Candidate(lane="gpu0", model="new"),)
    )
    for target in (Target(("planner",)), Target(("coder",)), Target(("coder",), "gpu0")):
        for model in ("new", "new:latest"):
            routes = swapped_routes(policy, target, model, (lane,))
            assert routes == {role: policy.roles[role].route for role in target.roles}


def test_targets() -> None:
    """A name is a role or a lane; a role may be known from its requests alone."""
    policy = policy_with(planner=(Candidate(provider="ollama"),), gpu0=())
    assert find_target("planner", policy, (), LANES) == Target(("planner",))
    assert find_target("active", policy, ("active",), LANES) == Target(("active",))
    assert find_target("lane:gpu0", policy, (), LANES) == Target(("planner",), "gpu0")
    fallback = lane_view(FALLBACK_LANE, models=("built-in",))
    with pytest.raises(BadRequest):
        find_target(FALLBACK_LANE, policy, (), (*LANES, fallback))
    for name in ("gpu0", "plannr", "lane:planner", "gpu2"):  # ambiguous, unknown, no lane, no route leads to it
        with pytest.raises(BadRequest):
            find_target(name, policy, (), LANES)


def test_no_swap_to_undo() -> None:
    """A policy that remembers no swap of the role, or only one of another lane, refuses."""
    policy = policy_with(planner=(Candidate(provider="ollama"),))
    with pytest.raises(BadRequest):
        routes_before(policy, Target(("planner",)))
    swapped = with_routes(policy, {"planner": (Candidate(lane="gpu1", model="old"),)})
    with pytest.raises(BadRequest):
        routes_before(swapped, Target(("planner",), "gpu0"))


def test_the_old_model_continues_its_answers_and_serves_those_who_name_it() -> None:
    """A request that names a model may use the route before the swap; a request without one may not."""
    can = {"old": ("chat", "prefill"), "new": ("chat", "prefill")}
    one = lane_view(name="gpu0", models=("old", "new"), offer=Offer(abilities=can, limits={"chat": 4}))
    policy = with_routes(policy_with(planner=(Candidate(model="old"),)), {"planner": (Candidate(model="new"),)})

    def found(needs: Needs) -> list[str]:
        return [model for _, model in candidates(policy, "planner", needs, (one,))]

    assert found(Needs()) == ["new"]
    assert found(Needs(model="old")) == ["old"]
    assert found(Needs(continues="old")) == ["old"]
    assert found(Needs(model="other")) == []


def test_a_request_that_names_its_lane_follows_no_route() -> None:
    """A swap asks a model on a lane before any route leads to it."""
    policy = policy_with(models=(Candidate(lane="gpu1"),))
    assert places(policy, "models", lane="gpu2", model="new") == {"gpu2": "new"}

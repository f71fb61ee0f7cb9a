from __future__ import annotations

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.watch.route_coverage import lines_to_add, route_coverage

POLICY = Policy(
    roles={
        "coder": RolePolicy(route=(Candidate(provider="vllm", model="m1"), Candidate(lane="gpu9"))),
        "planner": RolePolicy(route=(Candidate(provider="ollama"),)),
        "free": RolePolicy(),
    }
)


def test_roles_by_their_routes() -> None:
    """A role comes to a lane that its route names, by provider, model or lane; one without a route is in neither."""
    found = route_coverage(POLICY, lane="gpu0", provider="vllm", models=("m1",))
    assert (found.routed, found.left_out) == (("coder",), ("planner",))
    assert route_coverage(POLICY, lane="gpu9", provider="tgi", models=("m2",)).routed == ("coder",)
    assert route_coverage(POLICY, lane="gpu0", provider="vllm", models=("m2",)).left_out == ("coder", "planner")
    assert route_coverage(Policy(), lane="gpu0", provider="vllm", models=()).left_out == ()


def test_what_to_add_keeps_what_is_there() -> None:
    """The printed lines are TOML: the role's route as it is, and the lane at its end."""
    policy = Policy(roles={"a.b": RolePolicy(route=(Candidate(model="m"), Candidate(provider="tgi")))})
    lines = lines_to_add(policy, "a.b", provider="ollama", models=('odd "name"', "m2"))
    assert tomllib.loads(lines) == {"roles": {"a.b": {"route": [{"model": "m"}, "tgi", 'ollama/odd "name"']}}}
    assert lines_to_add(POLICY, "coder", provider="ollama", models=("phi3:8b",)) == (
        '[roles.coder]\nroute = ["vllm/m1", "lane:gpu9", "ollama/phi3:8b"]'
    )


@given(st.sampled_from(["coder", "planner"]), st.sampled_from(["tgi", "lmstudio"]))
def test_what_to_add_sends_the_role_there(role: str, provider: str) -> None:
    """A policy with the printed route sends the role to the lane."""
    assert role in route_coverage(POLICY, lane="gpu0", provider=provider, models=("m7",)).left_out
    (*_, last) = tomllib.loads(lines_to_add(POLICY, role, provider=provider, models=("m7",)))["roles"][role]["route"]
    kind, _, model = last.partition("/")
    route = (*POLICY.roles[role].route, Candidate(provider=kind, model=model))
    assert (
        role
        in route_coverage(
            Policy(roles={role: RolePolicy(route=route)}), lane="g", provider=provider, models=("m7",)
        ).routed
    )

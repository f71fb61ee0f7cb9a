from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.settings.merged import Setting, Settings
from tokenlane.config.settings.read_layers import file_layer
from tokenlane.config.settings.schema import PolicyRules
from tokenlane.routing.decide.policy import Candidate, Limits, Policy, PromptPolicy, RolePolicy
from tokenlane.routing.decide.policy_file import as_toml, policy_of

FILE = """\
[policy]
lease_ms = 5000
[roles.coder]
route = ["vllm/meta/llama", "ollama", "lane:gpu0", "lane:gpu1/phi3", { model = "m", provider = "acme" }]
limits = { depth = 5 }
weight = 3
continue_with = "any"
[roles.planner]
[aliases]
"gpt-4*" = "planner"
"*" = "coder"
"""


def settings(text: str, tmp_path: Path) -> Settings:
    file = tmp_path / "llm.toml"
    file.write_text(text, encoding="utf-8")
    return Settings([file_layer(file)], {}, file)


def test_a_file_is_a_whole_policy(tmp_path: Path) -> None:
    """Routes are read in their order, the first slash ends a provider's or lane's name, the rest is default."""
    route = (
        Candidate(provider="vllm", model="meta/llama"),
        Candidate(provider="ollama"),
        Candidate(lane="gpu0"),
        Candidate(lane="gpu1", model="phi3"),
        Candidate(provider="acme", model="m"),
    )
    coder = RolePolicy(route=route, limits=Limits(depth=5), weight=3, continue_with="any")
    assert policy_of(settings(FILE, tmp_path)) == Policy(
        lease_ms=5_000,
        roles={"coder": coder, "planner": RolePolicy()},
        aliases={"gpt-4*": "planner", "*": "coder"},
    )


def test_a_route_to_no_provider_is_told(tmp_path: Path) -> None:
    """A model's name that looks like a provider's is not taken for one; the line and what to write are told."""
    with pytest.raises(ConfigError, match=r"llm.toml:3: .*'olama'.*'ollama'"):
        policy_of(settings('\n[roles.coder]\nroute = ["olama/phi3"]', tmp_path))


@pytest.mark.parametrize("entry", ["lane:", "lane:a b", "lane:gpu0/", "vllm/", "/phi3", ""])
def test_a_route_to_nowhere_is_refused(entry: str, tmp_path: Path) -> None:
    """What no lane, provider or model can be called is told, and not taken for another wish."""
    with pytest.raises(ConfigError, match=r"llm.toml:2: "):
        policy_of(settings(f'[roles.coder]\nroute = ["{entry}"]', tmp_path))


text = st.text(min_size=1, max_size=8)
name = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,5}", fullmatch=True)
candidates = st.builds(
    Candidate,
    provider=st.none() | st.sampled_from(["ollama", "vllm", "acme"]),
    model=st.none() | text,
    lane=st.none() | name,
)
digests = st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True)
policies = st.builds(
    Policy,
    roles=st.dictionaries(
        name,
        st.builds(
            RolePolicy,
            route=st.lists(candidates, max_size=3).map(tuple),
            limits=st.builds(Limits, depth=st.none() | st.integers(1, 9), in_flight=st.none() | st.integers(1, 9)),
            weight=st.integers(1, 9),
            continue_with=st.sampled_from(["same-model", "any"]),
            swapped_from=st.none() | st.lists(candidates, max_size=2).map(tuple),
            prompt=st.none() | st.builds(PromptPolicy, plugin=digests, on_error=st.sampled_from(["fail", "skip"])),
        ),
        max_size=3,
    ),
    aliases=st.dictionaries(st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=8), name),
    depth=st.integers(1, 9),
    lease_ms=st.integers(300, 9_000),
    fallback=st.sampled_from(["fasttext", "error"]),
    keep_payload=st.booleans(),
)


@given(policies)
def test_what_is_shown_can_be_applied(tmp_path_factory: pytest.TempPathFactory, policy: Policy) -> None:
    """A policy written as TOML and read again is the same policy, with its aliases in the same order."""
    file = tmp_path_factory.getbasetemp() / "shown.toml"
    file.write_bytes(as_toml(policy).encode())
    read = policy_of(Settings([file_layer(file)], {}, file))
    assert (read, list(read.aliases)) == (policy, list(policy.aliases))


def test_the_file_knows_every_rule_and_its_bounds() -> None:
    """[policy] has the rules of a policy, each with the same least value, or the same choice."""

    def bounds(field: dict[str, object]) -> object:
        return field.get("minimum", field.get("enum"))

    schema = Policy.model_json_schema()["properties"]
    rules = {
        rule: bounds(schema[rule])
        for rule in Policy.model_fields.keys() - {"revision", "roles", "aliases", "keep_payload"}
    }
    there = PolicyRules.model_json_schema()["properties"]
    assert {rule: bounds(there[rule]["anyOf"][0]) for rule in there} == rules


def test_an_empty_section_is_the_default_policy() -> None:
    """Where [policy] stands and says nothing, everything is default, and that is what is shown."""
    policy = policy_of(Settings([{("policy",): Setting({})}], {}))
    assert policy == Policy()
    shown = tomllib.loads(as_toml(policy))
    assert shown["policy"] | shown["failed"] == policy.model_dump(exclude={"revision", "roles", "aliases"})

"""What a model's name means."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlane.config.settings.values import is_name
from tokenlane.producer.gateway.access.addressee import Addressee, addressee
from tokenlane.producer.gateway.failures import Refused
from tokenlane.routing.decide.policy import Policy

POLICY = Policy(aliases={"gpt-*": "planner", "*": "coder"})


@pytest.mark.parametrize(
    ("name", "role", "policy", "meant"),
    [
        ("role:planner", "coder", Policy(), Addressee("planner")),
        ("default", "coder", Policy(), Addressee("coder")),
        ("", None, Policy(), Addressee("default")),
        ("qwen3:0.6b", None, Policy(), Addressee("default", "qwen3:0.6b")),
        ("qwen3:0.6b", "coder", Policy(), Addressee("coder", "qwen3:0.6b")),
        ("gpt-5", "tester", POLICY, Addressee("planner")),
        ("claude-x", "tester", POLICY, Addressee("coder")),
        ("role:tester", None, POLICY, Addressee("tester")),
    ],
)
def test_names(name: str, role: str | None, policy: Policy, meant: Addressee) -> None:
    assert addressee(name, role, policy) == meant


@given(name=st.text())
def test_any_text_is_a_name_or_refused(name: str) -> None:
    meant: Addressee | None = None
    with suppress(Refused):
        meant = addressee(name, None, Policy())
    refused = len(name) > 256 or not name.isprintable() or (name.startswith("role:") and not is_name(name[5:]))
    assert meant is not None or refused
    if meant is not None:
        assert is_name(meant.role)
        assert meant.model is None or 0 < len(meant.model) <= 256

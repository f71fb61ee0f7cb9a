from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tokenlane.routing.decide.policy import Policy, role_of

POLICY = Policy(aliases={"gpt-4o": "vision", "gpt-*": "planner", "claude-?-haiku": "fast", "*": "default"})


def test_the_first_pattern_that_matches_names_the_role() -> None:
    """The order of the file counts, and so does the case of letters."""
    named = {name: role_of(name, POLICY) for name in ("gpt-4o", "gpt-4o-mini", "claude-4-haiku", "GPT-4o")}
    assert named == {
        "gpt-4o": "vision",
        "gpt-4o-mini": "planner",
        "claude-4-haiku": "fast",
        "GPT-4o": "default",
    }


def test_what_no_pattern_matches_is_no_alias() -> None:
    """A pattern matches whole names only, line ends included."""
    policy = Policy(aliases={"gpt-?": "planner"})
    assert [role_of(name, policy) for name in ("gpt-", "gpt-45", "a gpt-4", "gpt-4\n", "")] == [None] * 5


@given(
    st.dictionaries(st.text(st.sampled_from("ab*?[]!-"), min_size=1, max_size=6), st.just("r")),
    st.text("ab", max_size=9),
)
def test_any_pattern_can_be_tried(aliases: dict[str, str], name: str) -> None:
    """Brackets that are not closed, and the like, are no errors; `*` behind them all catches every name."""
    assert role_of(name, Policy(aliases=aliases)) in (None, "r")
    assert role_of(name, Policy(aliases={**aliases, "*": "last"})) in ("r", "last")

"""The page of errors has every error that an agent can meet, as its class describes it."""

from __future__ import annotations

from inspect import cleandoc

from tests.documents import GeneratedPart
from tests.repository import ROOT

from tokenlane.producer import ConversationBusy
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.decide import policy
from tokenlane.routing.store.access.api_keys import ApiKeyExists

PAGE = GeneratedPart(ROOT / "docs" / "errors.md", "errors")


def tree(root: type[LlmError]) -> list[type[LlmError]]:
    """The classes below one that have a code of their own, parents before their children."""
    return [found for child in root.__subclasses__() if "code" in vars(child) for found in (child, *tree(child))]


def test_errors_from_elsewhere_are_among_them() -> None:
    """They are defined with the policy, with API keys and with conversations, and are of the same tree."""
    assert {policy.PolicyChanged, policy.PolicyUnreadable, ApiKeyExists, ConversationBusy} <= set(tree(LlmError))


def generated() -> str:
    """A section for each error: its code, whether it may be sent again, its text, and what to do."""
    sections: list[str] = []
    for error in sorted(tree(LlmError), key=lambda error: error.code):
        text, _, advice = cleandoc(error.__doc__ or "").partition("\n\n")
        again = "Retryable." if error.retryable_by_default else "Not retryable."
        base = error.__mro__[1]
        kind = "" if base is LlmError else f", a `{base.__name__}`"
        text = " ".join(text.split())
        sections.append(f"### `{error.code}`\n\n`{error.__name__}`{kind}. {again}\n\n> {text}\n\n{advice}\n")
    return "\n" + "\n".join(sections) + "\n"


def test_every_error_says_what_to_do() -> None:
    """The first paragraph of an error's docstring is its text, the second is advice."""
    assert [error.__name__ for error in tree(LlmError) if not cleandoc(error.__doc__ or "").partition("\n\n")[2]] == []


def test_codes_are_unique() -> None:
    """A code names one class."""
    codes = [error.code for error in tree(LlmError)]
    assert sorted(codes) == sorted(set(codes))


def test_the_page_is_up_to_date() -> None:
    """After a change, `TOKENLANE_RECORD=1` writes it anew."""
    assert PAGE.is_up_to_date(generated())

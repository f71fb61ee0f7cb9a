"""The texts of all errors, where the code makes them: whole sentences, since agents and people read them alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tokenlane.routing.contract.errors import LlmError, _descendants
from tokenlane.routing.decide import policy
from tokenlane.worker.providers.errors import batch_errors

ROOT = Path(__file__).parents[4]
MODULES_WITH_ERRORS = (policy, batch_errors)
"""They define errors, too, and are imported for these."""
CLASSES = [error for error in _descendants(LlmError) if error.__module__.startswith("tokenlane.")]
ERRORS = {error.__name__ for error in CLASSES}
NAMES_IN_LOWER_CASE = ("vLLM", "llama.cpp", "pip ")
PLACEHOLDER = "\0"


def literal(argument: ast.expr) -> str | None:
    """The text of a literal, with a placeholder for each expression in it; None if it is no literal."""
    match argument:
        case ast.Constant(str(text)):
            return text
        case ast.JoinedStr(parts):
            return "".join(str(part.value) if isinstance(part, ast.Constant) else PLACEHOLDER for part in parts)
    return None


def texts() -> Iterator[tuple[str, str]]:
    """Each place that makes an error from a literal, with the text."""
    for component in ("routing", "producer", "worker"):
        for path in sorted((ROOT / component / "tokenlane").rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                match node:
                    case ast.Call(ast.Name(name), [first, *_]) if name in ERRORS and (text := literal(first)):
                        yield f"{path.relative_to(ROOT)}:{node.lineno}", text


def test_errors_are_made_in_many_places() -> None:
    """Else the other test would pass in vain."""
    assert len(list(texts())) > 100


def test_every_text_is_a_sentence() -> None:
    """It begins with a capital, a name or a quoted field, and ends as a sentence does."""
    wrong = [
        f"{place}: {text!r}"
        for place, text in texts()
        if not (re.match(r"[A-Z`\0]", text) or text.startswith(NAMES_IN_LOWER_CASE)) or text[-1] not in ".?!\0"
    ]
    assert wrong == []


@pytest.mark.parametrize("error", CLASSES)
def test_every_default_text_is_a_sentence(error: type[LlmError]) -> None:
    """It is the first paragraph of the class's docstring."""
    assert re.fullmatch(r"[A-Z].*\.", error().message)

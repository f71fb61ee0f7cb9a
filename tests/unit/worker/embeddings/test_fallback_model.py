"""The model that embeds where no lane can."""

from __future__ import annotations

import math
import runpy
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.repository import ROOT

from tokenlane.routing.contract.errors import BadRequest
from tokenlane.routing.contract.requests import ChatRequest, Message
from tokenlane.worker.embeddings.fallback_model import FALLBACK_MODEL, FastText, words_of

pytest.importorskip("fasttext", reason="the extra `fasttext` is not installed")

DIMENSIONS = 32
BEGINS = [0.03654, 0.12785, 0.09009, 0.39288]


async def vectors(*texts: str) -> list[list[float]]:
    return await FastText().embed(texts, FALLBACK_MODEL)


def likeness(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_it_is_the_model_that_was_shipped() -> None:
    """The vectors are those of the file that is pinned here: another file is another space, and needs another name."""
    assert FastText().endpoint == "fasttext:fd88b4e816dfc9c4"
    (vector,) = await vectors("The server closed the connection.")
    assert vector[:4] == pytest.approx(BEGINS, abs=1e-4)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(), max_size=60))
@example("")
@example(" \n\t ")
@example("\x00")
@example("half a character: \ud800")
@example("</s>")
@example("e" * 200_000)
@example("word " * 20_000)
async def test_any_text_has_a_vector_of_length_one(text: str) -> None:
    """Whatever the text, there is a vector, of length 1, and the same when it is asked for again with others."""
    (vector,) = await vectors(text)
    assert len(vector) == DIMENSIONS
    assert math.hypot(*vector) == pytest.approx(1, abs=1e-6)
    assert await vectors("another", text) == [*await vectors("another"), vector]


async def test_texts_about_the_same_are_more_alike() -> None:
    """Of two texts the one on the same subject is nearer."""
    about, same, other = await vectors(
        "the price of the stock fell", "the value of the share decreased", "parse the HTML document"
    )
    assert likeness(about, same) > likeness(about, other)
    opens, reads, sorts = await vectors("open a file", "reading bytes from a file on disk", "integer division")
    assert likeness(opens, reads) > likeness(opens, sorts)


async def test_it_says_what_it_can() -> None:
    """It has one model, which embeds and cannot chat."""
    (model,) = await FastText().models()
    assert (model.name, model.capabilities) == (FALLBACK_MODEL, ("embed",))
    question = ChatRequest(role="r", messages=[Message(role="user", content="hi")])
    with pytest.raises(BadRequest):
        FastText().chat(question, FALLBACK_MODEL)


def test_training_gives_the_same_file_every_time(tmp_path: Path) -> None:
    """The script is deterministic: the same text, the same bytes."""
    script = runpy.run_path(str(ROOT / "docs" / "fallback-model" / "train.py"))
    lines = list(islice(script["python_text"](), 400))
    assert all(line == " ".join(words_of(line)) for line in lines)
    for name in ("one", "two"):
        script["train"](tmp_path / name, lines)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()

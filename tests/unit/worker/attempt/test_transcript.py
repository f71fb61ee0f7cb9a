from __future__ import annotations

import logging
from collections.abc import AsyncGenerator

import pytest

from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.requests import ChatRequest, Message
from tokenlane.worker.attempt.transcript import log_answer, log_request, mask_secrets


def test_secrets_are_masked_by_name_and_by_look() -> None:
    """Values of fields named like secrets and texts that look like keys are masked, everything else stays."""
    assert mask_secrets(
        {
            "extra": {"api_key": "abc", "Authorization": "Bearer xyz", "max_tokens": 5, "token": "t", "tokens": ["a"]},
            "messages": [{"content": "my key is sk-abcdefghijklmnopqrst, keep it"}],
        }
    ) == {
        "extra": {"api_key": "***", "Authorization": "***", "max_tokens": 5, "token": "***", "tokens": ["a"]},
        "messages": [{"content": "my key is ***, keep it"}],
    }


async def test_request_and_answer_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The transcript holds the request, and the answer as far as it came, also if its reader goes away."""

    async def stream() -> AsyncGenerator[TokenDelta, None]:
        yield TokenDelta(text="forty")
        yield TokenDelta(text="two")

    caplog.set_level(logging.INFO, "tokenlane.worker.attempt.transcript")
    request = ChatRequest(role="r", messages=[Message(role="user", content="the question")])
    log_request(request, 5, "m")
    answer = log_answer(stream(), request.id, 5)
    await anext(answer)
    await answer.aclose()
    assert "the question" in caplog.text
    assert "forty" in caplog.text
    assert "two" not in caplog.text


async def test_a_secret_that_comes_in_pieces_is_masked(caplog: pytest.LogCaptureFixture) -> None:
    """What looks like a key is masked in the answer as a whole, wherever its deltas were cut."""

    async def stream() -> AsyncGenerator[TokenDelta, None]:
        for piece in ("it is sk-abcd", "efghijkl", "mnopqrst, ", "keep it"):
            yield TokenDelta(text=piece)

    caplog.set_level(logging.INFO, "tokenlane.worker.attempt.transcript")
    async for _ in log_answer(stream(), "0" * 32, 5):
        pass
    assert "it is ***, keep it" in caplog.text
    assert "efgh" not in caplog.text

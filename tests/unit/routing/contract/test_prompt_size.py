"""One estimate of a prompt's length, for who sends it and for who may refuse it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import pages
from tests.fake_server import Reply, answer_of, driven, ndjson, sse

from tokenlane.producer.compose import compose
from tokenlane.routing.contract.errors import ContextTooLong
from tokenlane.routing.contract.prompt_size import MEDIA_TOKENS, estimated_tokens, most_tokens
from tokenlane.routing.contract.requests import ChatRequest
from tokenlane.routing.contract.wire import new_id

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 400_000}}
WORDS = {"type": "text", "text": "What is this?"}
TOOL = {"type": "function", "function": {"name": "f", "description": "d" * 400}}


def request(*contents: object, **options: object) -> ChatRequest:
    turns = [{"role": "user", "content": content} for content in contents]
    return ChatRequest.model_validate({"role": "r", "messages": turns, **options})


@given(st.lists(st.text(max_size=2000), min_size=1, max_size=5), st.integers(0, 3))
def test_the_agent_says_what_the_worker_finds(texts: list[str], pictures: int) -> None:
    """The envelope's estimate is the worker's of the same request, whatever else it holds."""
    asked = request(*texts, [WORDS, *[PICTURE] * pictures], tools=[TOOL])
    told = [message.model_dump(exclude_unset=True) for message in asked.messages]
    options: Any = {"tools": [TOOL], "max_tokens": 1, "metadata": {"note": "x" * 50_000}}
    envelope, payload = compose(new_id(), told, "r", options, agent="a", client="c")
    found = estimated_tokens(ChatRequest.model_validate_json(payload))
    assert envelope.needs.size // 2 < found + 1 <= envelope.needs.size
    assert found <= envelope.needs.input if envelope.needs.input else found <= 1024
    assert estimated_tokens(asked) <= most_tokens(asked)


def test_what_counts() -> None:
    """Text by its bytes, a picture as one, tools and their calls as text."""
    alone = estimated_tokens(request("x" * 400))
    assert 100 <= alone < 120
    assert estimated_tokens(request("ü" * 400)) - alone == 100
    assert estimated_tokens(request([{"type": "text", "text": "x" * 400}, PICTURE])) - alone == MEDIA_TOKENS
    assert estimated_tokens(request("x" * 400, tools=[TOOL])) - alone >= 100


CHAT = "POST /v1/chat/completions"
SAID = {
    CHAT: sse({"model": "m", "choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}),
    "POST /api/chat": ndjson({"model": "m", "message": {"content": "a"}, "done": True}),
    "POST /api/show": {"capabilities": ["completion", "vision"]},
    "GET /api/version": {"version": "0.13.0"},
    "GET /info": {**pages.TGI["/info"], "model_id": "m", "model_pipeline_tag": "image-text-to-text"},
    "POST /tokenize": lambda asked: {"count": len(str(asked)), "tokens": [1] * len(str(asked))},
    "POST /apply-template": lambda asked: {"prompt": str(asked)},
    "POST /chat_tokenize": lambda asked: {"tokenize_response": [1] * len(str(asked)), "templated_text": ""},
}


def answering() -> Any:
    """The servers' pages; those that count do so by the characters they are sent."""

    def reply(answer: Any) -> Any:
        return (lambda asked: Reply(answer(asked))) if callable(answer) else answer

    return {path: reply(answer) for path, answer in SAID.items()}


@pytest.mark.parametrize("name", ["openai", "vllm", "llamacpp", "lmstudio", "tgi", "ollama"])
async def test_a_picture_is_no_text_for_any_provider(name: str) -> None:
    """400,000 characters of base64 pass a limit of 8,192 tokens, also where the server counts what it is sent; nine
    pictures do not."""
    async with driven(name, answering(), max_input_tokens=8192) as (provider, _):
        assert await answer_of(provider, request([WORDS, PICTURE])) == "a"
        with pytest.raises(ContextTooLong):
            await answer_of(provider, request([WORDS, *[PICTURE] * 9]))

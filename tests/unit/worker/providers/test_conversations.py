"""What each provider makes of what a turn of a conversation may hold: it is sent, or the request is refused."""

from __future__ import annotations

from typing import Any

import pytest
from tests import pages
from tests.fake_server import Reply, answer_of, driven, ndjson, sse

from tokenlane.routing.contract.errors import BadRequest
from tokenlane.routing.contract.requests import ChatRequest
from tokenlane.worker.attempt.perform import provider_arguments

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
OURS: dict[str, Any] = {"role": "assistant", "content": "so"}
SAID = sse({"model": "m", "choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]})
OLLAMA_SAID = ndjson({"model": "m", "message": {"content": "a"}, "done": True})
ANSWERS: dict[str, Any] = {
    "POST /v1/chat/completions": SAID,
    "POST /api/chat": OLLAMA_SAID,
    "POST /api/show": {"capabilities": ["completion", "vision"]},
    "GET /api/version": {"version": "0.13.0"},
    "GET /info": {**pages.TGI["/info"], "model_id": "m"},
}
PROVIDERS = ("openai", "vllm", "llamacpp", "lmstudio", "tgi", "ollama")
OPEN = ("vllm", "llamacpp", "lmstudio")


async def sent(provider: str, turn: dict[str, Any]) -> dict[str, Any] | None:
    """The turn as it reached the server; None if it was refused before."""
    question = {"role": "user", "content": "q"}
    request = ChatRequest.model_validate({"role": "r", "messages": [question, turn, question]})
    async with driven(provider, ANSWERS) as (driver, server):
        try:
            await answer_of(driver, request)
        except BadRequest:
            assert not [path for path, _ in server.asked if "chat" in path]
            return None
        told: dict[str, Any] = server.asked[-1][1]["messages"][1]
        return told


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "thinking"])
async def test_reasoning_is_sent_by_the_servers_name(provider: str, name: str) -> None:
    """However an agent calls it, it reaches every server: by the name it was given, or by the server's own."""
    told = await sent(provider, {**OURS, name: "hm"})
    known = {
        "openai": {**OURS, "reasoning" if name == "thinking" else name: "hm"},
        "ollama": {**OURS, "thinking": "hm"},
        "tgi": {**OURS, "content": "<think>\nhm\n</think>\n\nso"},
    }
    assert told == known.get(provider, {**OURS, "reasoning_content": "hm"})


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_refusal_is_sent(provider: str) -> None:
    """OpenAI has a field for it; for the others it is what was said."""
    told = await sent(provider, {"role": "assistant", "refusal": "I will not."})
    if provider == "openai":
        assert told == {"role": "assistant", "refusal": "I will not."}
    else:
        assert told == {"role": "assistant", "content": "I will not."}


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_the_name_of_who_speaks(provider: str) -> None:
    """It is sent, but for Ollama, which has no such field."""
    told = await sent(provider, {"role": "user", "content": "so", "name": "ann"})
    assert told == (None if provider == "ollama" else {"role": "user", "content": "so", "name": "ann"})


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_text_beside_a_call(provider: str) -> None:
    """TGI would read the text and drop the call."""
    told = await sent(provider, {**OURS, "tool_calls": [CALL]})
    assert (told is None) is (provider == "tgi")
    alone = await sent(provider, {"role": "assistant", "content": None, "tool_calls": [CALL]})
    assert alone is not None
    assert len(alone["tool_calls"]) == 1
    assert ("content" in alone) is (provider != "tgi")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": "a", "cache_control": {}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD", "detail": "high"}},
        {"type": "text", "txt": "a"},
        {"type": "input_audio", "input_audio": {"data": "QUJD", "format": "wav"}},
    ],
)
async def test_parts_of_a_content(part: dict[str, Any]) -> None:
    """They go to servers of OpenAI's dialect as they are; what Ollama has no place for is refused."""
    for provider in ("openai", *OPEN):
        told = await sent(provider, {"role": "user", "content": [part]})
        assert told == {"role": "user", "content": [part]}
    assert await sent("ollama", {"role": "user", "content": [part]}) is None


CONTINUED = sse({"model": "m", "choices": [{"delta": {"content": " France"}, "finish_reason": "stop"}]})
CONTINUED_TEXT = sse({"model": "m", "choices": [{"text": " France", "finish_reason": "stop"}]})
RENDERED = {"_debug_info": {"rendered_template": "q The capital of"}}


def ollama(asked: Any) -> Reply:
    if "_debug_render_only" in asked:
        return Reply(RENDERED)
    return ndjson({"model": "m", "message": {"content": " France"}, "done": True})


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_begun_answer_is_continued_or_refused(provider: str) -> None:
    """Each server is asked in its way to go on, and what comes is what was missing; the dialect alone cannot be."""
    begun_turn = {"role": "assistant", "content": "The capital of "}
    request = ChatRequest.model_validate(
        {"role": "r", "messages": [{"role": "user", "content": "q"}, begun_turn], "continue_final": True}
    )
    answers = {
        **ANSWERS,
        "POST /v1/chat/completions": CONTINUED,
        "POST /v1/completions": CONTINUED_TEXT,
        "POST /api/chat": ollama,
        "POST /apply-template": {"prompt": "q The capital of"},
        "POST /chat_tokenize": {"tokenize_response": [], "templated_text": "q The capital of"},
    }
    async with driven(provider, answers) as (driver, server):
        asked, model, resume = provider_arguments(request, "m")
        if provider == "openai":
            with pytest.raises(BadRequest):
                await answer_of(driver, asked, model, resume)
            return
        assert await answer_of(driver, asked, model, resume) == "France"
        told = server.asked[-1][1]
        if provider == "llamacpp":
            assert told["prompt"] == "q The capital of"
        else:
            assert told["messages"][-1] == {"role": "assistant", "content": "The capital of"}
        assert "continue_final" not in told


async def test_a_reply_that_is_null_is_not_sent_on() -> None:
    """What another library's dump holds as null is left out, but for the content beside a call."""
    turn = {"role": "assistant", "content": None, "refusal": None, "tool_calls": [CALL], "name": None}
    assert await sent("vllm", turn) == {"role": "assistant", "content": None, "tool_calls": [CALL]}

"""A prompt longer than the lane takes is refused before the server sees it, and the error names limit and tokens."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests import pages
from tests.fake_server import Reply, answer_of, ask, driven, ndjson, sse

from tokenlane.routing.contract.errors import ContextTooLong
from tokenlane.worker.providers import CountsTokens

CHAT = "/v1/chat/completions"
ANSWER = sse({"model": "m", "choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]})
TOKENS = list(range(99))
WORDS = "word " * 99

SERVERS: dict[str, dict[str, Any]] = {
    "vllm": {"POST /tokenize": {"count": 99, "max_model_len": 4096, "tokens": TOKENS}},
    "llamacpp": {"POST /apply-template": {"prompt": "<s>word"}, "POST /tokenize": {"tokens": TOKENS}},
    "tgi": {
        "GET /info": {**pages.TGI["/info"], "model_id": "m"},
        "POST /chat_tokenize": {"tokenize_response": [{"id": 1} for _ in TOKENS], "templated_text": "word"},
    },
    "openai": {},
    "lmstudio": {},
}


@pytest.mark.parametrize("name", ["vllm", "llamacpp", "tgi"])
@pytest.mark.parametrize(("limit", "fits"), [(98, False), (99, True)])
async def test_the_server_counts(name: str, limit: int, fits: bool) -> None:
    """Where it can, its count decides, to the token."""
    async with driven(name, {f"POST {CHAT}": ANSWER, **SERVERS[name]}, max_input_tokens=limit) as (provider, server):
        can: object = provider
        assert isinstance(can, CountsTokens)
        if fits:
            assert await answer_of(provider, ask(WORDS)) == "a"
        else:
            with pytest.raises(ContextTooLong, match=r"\b99\b.*max_input_tokens\D+98\b"):
                await answer_of(provider, ask(WORDS))
        assert (CHAT in [path for path, _ in server.asked]) is fits


@pytest.mark.parametrize("name", ["openai", "lmstudio", "vllm"])
async def test_elsewhere_the_size_tells(name: str) -> None:
    """Four bytes a token, and the error says that this is an estimate; also where a server hides its tokenizer."""
    async with driven(name, {f"POST {CHAT}": ANSWER}, max_input_tokens=100) as (provider, _):
        with pytest.raises(ContextTooLong, match=r"\b13\d\b.*max_input_tokens\D+100\b"):
            await answer_of(provider, ask(WORDS))
    async with driven(name, {f"POST {CHAT}": ANSWER}, max_input_tokens=200) as (provider, _):
        assert await answer_of(provider, ask(WORDS)) == "a"


async def test_ollama_by_its_size() -> None:
    """It has no tokenizer to ask."""
    answer = ndjson({"model": "m", "message": {"content": "a"}, "done": True})
    async with driven("ollama", {"POST /api/chat": answer}, max_input_tokens=100) as (provider, _):
        assert await answer_of(provider, ask("word")) == "a"
        with pytest.raises(ContextTooLong, match=r"\b13\d\b.*max_input_tokens\D+100\b"):
            await answer_of(provider, ask(WORDS))


async def test_ollama_says_no_numbers() -> None:
    """When it refuses a prompt, the error names the context its model was loaded with, and an estimate."""
    refusal = Reply({"error": "prompt is longer than the context length, currently at 16 tokens"}, 400)
    page = {"models": [{"name": "m:latest", "context_length": 16}, {"name": "n:latest", "context_length": 99}]}
    for pages_, limits in (({"GET /api/ps": page}, ["16"]), ({"GET /api/ps": {"models": None}}, []), ({}, [])):
        async with driven("ollama", {"POST /api/chat": refusal, **pages_}) as (provider, _):
            with pytest.raises(ContextTooLong) as raised:
                await answer_of(provider, ask(WORDS))
            estimate, *named = re.findall(r"\d+", raised.value.message)
            assert (130 <= int(estimate) < 140, named) == (True, limits)
            assert raised.value.provider == "ollama"


async def test_what_surely_fits_is_not_counted() -> None:
    """A token is a byte at least, so a short prompt costs no round trip; without a limit none does."""
    for limit in (4096, None):
        async with driven("vllm", {f"POST {CHAT}": ANSWER, **SERVERS["vllm"]}, max_input_tokens=limit) as (
            provider,
            server,
        ):
            assert await answer_of(provider, ask(WORDS)) == "a"
            assert [path for path, _ in server.asked] == [CHAT]


async def test_what_is_counted_is_what_is_sent() -> None:
    """Messages and tools go to the tokenizer as they go to the model."""
    tools = [{"type": "function", "function": {"name": "f"}}]
    for name, path in (("vllm", "/tokenize"), ("llamacpp", "/apply-template"), ("tgi", "/chat_tokenize")):
        async with driven(name, SERVERS[name]) as (provider, server):
            assert await provider.count_tokens(ask(WORDS, tools=tools), "m") == 99
            assert server.last(path)["messages"] == [{"role": "user", "content": WORDS}]
            assert server.last(path)["tools"] == tools


async def test_a_server_that_refuses_to_count() -> None:
    """Its own word that the prompt is too long is the answer."""
    refusal = Reply({"error": {"message": "This model's maximum context length is 64 tokens."}}, 400)
    async with driven("vllm", {"POST /tokenize": refusal}, max_input_tokens=100) as (provider, _):
        with pytest.raises(ContextTooLong, match=r"\b64\b"):
            await answer_of(provider, ask(WORDS))

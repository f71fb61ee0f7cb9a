"""A prompt that Ollama would cut is refused, and an answer to a part of one is an error: none is silently wrong."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fake_server import answer_of, ask, driven, ndjson

from tokenlane.routing.contract.answers import Usage
from tokenlane.routing.contract.errors import ContextTooLong
from tokenlane.worker.providers.ollama.context import parse_version, refuse_if_truncated, refuses_long_prompts

PARAMETERS = 'stop  "<|im_end|>"\nnum_ctx                        2048'


def pages(
    version: str, read: int, parameters: str = "", made: int | None = None, loaded: int | None = None
) -> dict[str, Any]:
    """An Ollama server that reads so many tokens of whatever it is asked."""
    told = {} if loaded is None else {"context_length": loaded}
    done = {"model": "m", "message": {"content": "a"}, "done": True, "prompt_eval_count": read, "eval_count": 1}
    return {
        "GET /api/version": {"version": version},
        "GET /api/ps": {"models": [{"name": "m:latest", **told}]},
        "POST /api/show": {"parameters": parameters, "model_info": {"llama.context_length": made} if made else {}},
        "POST /api/chat": ndjson(done),
    }


LONG = "word " * 4000  # about 5,000 tokens


@pytest.mark.parametrize(
    ("server", "sent"),
    [
        (pages("0.9.3", 2048, PARAMETERS), False),
        (pages("0.9.3", 2048, made=2048), False),
        (pages("0.9.3", 2048, PARAMETERS, made=8192, loaded=4096), False),
        (pages("0.0.0", 2048, PARAMETERS), False),
        (pages("0.9.3", 2048), True),
    ],
)
async def test_an_old_server_is_not_trusted(server: dict[str, Any], sent: bool) -> None:
    """What is longer than the context that the server tells of is not sent; where it tells of none, what it has read
    gives it away."""
    async with driven("ollama", server) as (provider, fake_server):
        with pytest.raises(ContextTooLong) as raised:
            await answer_of(provider, ask(LONG))
        assert not raised.value.retryable
        assert ("/api/chat" in [path for path, _ in fake_server.asked]) is sent


async def test_what_fits_is_answered() -> None:
    """By an old server too, whose context the request may set."""
    async with driven("ollama", pages("0.9.3", 5000, PARAMETERS, made=32768)) as (provider, _):
        assert await answer_of(provider, ask(LONG, extra={"options": {"num_ctx": 8192}})) == "a"
    async with driven("ollama", pages("0.9.3", 5000, PARAMETERS, made=32768, loaded=8192)) as (provider, _):
        assert await answer_of(provider, ask(LONG)) == "a"
    async with driven("ollama", pages("0.9.3", 5000, made=32768)) as (provider, _):
        assert await answer_of(provider, ask(LONG)) == "a"


async def test_a_short_prompt_and_a_new_server_cost_no_question() -> None:
    """What fits whatever the context is goes out at once; a server of today refuses by itself, and its version is asked
    for now and then."""
    async with driven("ollama", pages("0.13.0", 2048)) as (provider, server):
        assert await answer_of(provider, ask("short")) == "a"
        for _ in range(2):
            assert await answer_of(provider, ask(LONG)) == "a"
        assert [path for path, _ in server.asked] == ["/api/chat"] * 3
        assert (server.last("/api/chat")["truncate"], server.last("/api/chat")["shift"]) == (False, False)


async def test_a_server_that_tells_nothing() -> None:
    """A proxy that lets chats through alone is asked all the same."""
    answer = {"model": "m", "message": {"content": "a"}, "done": True}
    async with driven("ollama", {"POST /api/chat": ndjson(answer)}) as (provider, _):
        assert await answer_of(provider, ask(LONG)) == "a"


@pytest.mark.parametrize(
    ("read", "context", "version", "cut"),
    [
        (2048, 2048, "0.9.3", True),
        (2047, 2048, "0.9.3", False),
        (4096, 131072, "0.9.3", True),
        (4097, 131072, "0.9.3", False),
        (2048, None, "0.9.3", True),
        (5000, None, "0.9.3", False),
        (0, None, "0.9.3", False),
        (100, None, "0.3.0", False),
        (100, None, "0.0.0", False),
    ],
)
def test_what_gives_a_cut_away(read: int, context: int | None, version: str, cut: bool) -> None:
    """A context that is full, or fewer tokens than any text of that size has; not what an old server counts, which
    leaves out what was in its cache."""
    request, usage = ask("word " * (1000 if context == 2048 else 4000)), Usage(prompt_tokens=read)
    if cut:
        with pytest.raises(ContextTooLong):
            refuse_if_truncated(request, usage, context, parse_version(version))
    else:
        refuse_if_truncated(request, usage, context, parse_version(version))


@pytest.mark.parametrize(
    ("said", "knows"),
    [("0.13.0", True), ("0.33.0-rc1", True), ("1.0.0", True), ("0.12.11", False), ("0.9.3-ipexllm", False)]
    + [(said, False) for said in ("0.0.0", "", "of today", None)],
)
def test_versions(said: str | None, knows: bool) -> None:
    """A build of its own, or one that says nothing, is not trusted."""
    assert refuses_long_prompts(parse_version(said)) is knows


async def test_models_have_the_context_they_were_loaded_with() -> None:
    """What a model was made for is more than it reads."""
    listed = {"models": [{"name": "m:latest", "details": {"context_length": 131072}, "capabilities": ["completion"]}]}
    server = {**pages("0.9.3", 1, loaded=4096), "GET /api/tags": listed}
    async with driven("ollama", server) as (provider, _):
        (info,) = await provider.models()
    assert info.context_length == 4096

"""Embeddings in each dialect: what is asked, what an answer means, and who says that it has them."""

from __future__ import annotations

from typing import Any

import pytest
from tests import pages
from tests.fake_server import Reply, driven

from tokenlane.routing.contract.errors import (
    BadRequest,
    ContextTooLong,
    LlmError,
    ModelNotFound,
    ProviderDown,
    Timeout,
    UnreadableAnswer,
)
from tokenlane.worker.providers import Embeds

OPENAI = ("openai", "vllm", "lmstudio", "llamacpp", "builtin")
LIST = {"data": [{"index": 1, "embedding": [0, 2]}, {"index": 0, "embedding": [3, 4]}], "model": "m", "usage": {}}


@pytest.mark.parametrize("name", OPENAI)
async def test_openais_dialect(name: str) -> None:
    """Floats are asked for; the vectors are put in order and made of length 1; of nothing, nothing is asked."""
    async with driven(name, {"POST /v1/embeddings": LIST}) as (provider, server):
        assert isinstance(provider, Embeds)
        assert await provider.embed([], "m") == []
        assert server.asked == []
        assert await provider.embed(["a", "b"], "m") == [[0.6, 0.8], [0.0, 1.0]]
        assert server.asked == [("/v1/embeddings", {"model": "m", "input": ["a", "b"], "encoding_format": "float"})]


async def test_ollamas_dialect() -> None:
    """The same by its own API; an input that is too long is to be refused, not cut."""
    async with driven("ollama", {"POST /api/embed": {"model": "m", "embeddings": [[3, 4]]}}) as (provider, server):
        assert await provider.embed([], "m") == []
        assert await provider.embed(["a"], "m") == [[0.6, 0.8]]
        assert server.asked == [("/api/embed", {"model": "m", "input": ["a"], "truncate": False})]


@pytest.mark.parametrize("name", [*OPENAI, "ollama"])
async def test_dimensions_are_passed_on(name: str) -> None:
    """A server is told how many numbers a vector is to have, where the request says so."""
    pages_of: dict[str, Any] = {"POST /v1/embeddings": LIST, "POST /api/embed": {"embeddings": [[3, 4], [3, 4]]}}
    async with driven(name, pages_of) as (provider, server):
        await provider.embed(["a", "b"], "m", 2)
        assert [question["dimensions"] for _, question in server.asked] == [2]


async def test_a_model_that_cannot_choose_is_asked_without() -> None:
    """A model that refuses to be told gives what it has; what it refuses otherwise is refused."""

    def answer(question: dict[str, Any]) -> Reply:
        message = "does not support matryoshka representation" if "dimensions" in question else "too hot"
        good = "dimensions" not in question and question["input"] != ["hot", "b"]
        return Reply(LIST) if good else Reply({"error": {"message": message, "code": 400}}, 400)

    async with driven("vllm", {"POST /v1/embeddings": answer}) as (provider, server):
        assert await provider.embed(["a", "b"], "m", 2) == [[0.6, 0.8], [0.0, 1.0]]
        with pytest.raises(BadRequest) as raised:
            await provider.embed(["hot", "b"], "m", 2)
        assert "too hot" in raised.value.detail
        assert ["dimensions" in question for _, question in server.asked] == [True, False] * 2


async def test_tgi_has_none() -> None:
    """It does not say that it can."""
    async with driven("tgi", {}) as (provider, _):
        assert not isinstance(provider, Embeds)


@pytest.mark.parametrize(
    ("reply", "error", "retryable"),
    [
        (Reply({"detail": "Not Found"}, 404), BadRequest, False),
        (Reply({"error": {"message": "m", "type": "NotFoundError", "code": 404}}, 404), ModelNotFound, False),
        (Reply({"error": {"code": 501, "message": "Start it with --embeddings"}}, 501), BadRequest, False),
        (Reply({"error": "Unexpected endpoint or method. (POST /v1/embeddings)"}), BadRequest, False),
        (Reply({"error": {"message": "This model's maximum context length is 8 tokens"}}, 400), ContextTooLong, False),
        (Reply({**LIST, "model": "another"}), ModelNotFound, False),
        (Reply({**LIST, "data": LIST["data"][:1]}), UnreadableAnswer, False),  # type: ignore[index] # a dict of mixed values
        (Reply({"data": [{"embedding": "no base64"}, {"embedding": "AAA="}]}), UnreadableAnswer, False),
        (Reply({"data": 7}), UnreadableAnswer, False),
        (Reply({"detail": "secret"}), ProviderDown, True),
        (Reply({}), UnreadableAnswer, False),
        (Reply(b"<html>"), ProviderDown, False),
        (Reply(b"", 302, headers={"Location": "http://127.0.0.1:1/"}), ProviderDown, False),
    ],
)
async def test_failures(reply: Reply, error: type[LlmError], retryable: bool) -> None:
    """Each is a typed error that says where it happened."""
    async with driven("vllm", {"POST /v1/embeddings": reply}) as (provider, _):
        with pytest.raises(LlmError) as raised:
            await provider.embed(["secret", "b"], "m")
    assert (type(raised.value), raised.value.retryable) == (error, retryable)
    assert (raised.value.provider, raised.value.lane, raised.value.model) == ("vllm", "gpu0", "m")
    assert "secret" not in f"{raised.value!r}{raised.value}"


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply({"error": 'model "m" not found, try pulling it first'}, 404), ModelNotFound),
        (Reply({"error": "the input length exceeds the context length"}, 400), ContextTooLong),
        (Reply({"embeddings": []}), UnreadableAnswer),
        (Reply({"embeddings": 7}), UnreadableAnswer),
        (Reply({"model": "n", "embeddings": [[1.0]]}), ModelNotFound),
    ],
)
async def test_ollamas_failures(reply: Reply, error: type[LlmError]) -> None:
    """So are Ollama's."""
    async with driven("ollama", {"POST /api/embed": reply}) as (provider, _):
        with pytest.raises(error):
            await provider.embed(["a"], "m")


async def test_a_huge_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer beyond all bounds is not held in memory."""
    monkeypatch.setattr("tokenlane.worker.providers.http.provider.MAX_ANSWER_BYTES", 1000)
    async with driven("openai", {"POST /v1/embeddings": Reply(b" " * 2000)}) as (provider, _):
        with pytest.raises(ProviderDown, match=r"\b1000\b"):
            await provider.embed(["a"], "m")


async def test_no_answer_in_time() -> None:
    """A model server that is silent is a time-out."""
    async with driven("openai", {}, first_token_timeout_s=1e-9) as (provider, _):
        with pytest.raises(Timeout):
            await provider.embed(["a"], "m")


def get(pages_of: pages.Pages) -> dict[str, Any]:
    return {f"GET {path}": page for path, page in pages_of.items()}


TAGS = {"models": [{"name": "phi3", "capabilities": ["completion"]}, {"name": "nomic", "capabilities": ["embedding"]}]}
LISTED = {"data": [{"id": "gpt-9", "owned_by": "x"}, {"id": "text-embedding-3-small", "owned_by": "x"}]}


@pytest.mark.parametrize(
    ("name", "served", "embed"),
    [
        ("ollama", {**get(pages.OLLAMA), "GET /api/tags": TAGS}, ["nomic"]),
        ("vllm", get(pages.VLLM), []),
        ("vllm", get(pages.VLLM_EMBEDDING), ["qwen", "adapter"]),
        ("lmstudio", get(pages.LM_STUDIO), ["text-embedding-nomic"]),
        ("llamacpp", get(pages.LLAMA_CPP), []),
        ("llamacpp", {**get(pages.LLAMA_CPP), "POST /v1/embeddings": Reply({"error": {"code": 501}}, 501)}, []),
        ("llamacpp", {**get(pages.LLAMA_CPP), "POST /v1/embeddings": LIST}, ["smol"]),
        ("tgi", get(pages.TGI), []),
        ("openai", {"GET /v1/models": LISTED}, ["text-embedding-3-small"]),
    ],
)
async def test_which_models_embed(name: str, served: dict[str, Any], embed: list[str]) -> None:
    """Only the models that can embed are said to."""
    async with driven(name, served) as (provider, _):
        models = await provider.models()
    assert [model.name for model in models if "embed" in model.capabilities] == embed

"""The step that answers an embed request, with a cache and without one."""

from __future__ import annotations

import struct
from base64 import b64decode
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from unittest.mock import MagicMock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.workshop import FakeProvider

from tokenlane.routing.contract.errors import BadRequest, ProviderDown
from tokenlane.routing.contract.requests import EmbedRequest
from tokenlane.routing.contract.results import ModelInfo, Vectors
from tokenlane.routing.support.tasks import background
from tokenlane.worker.embeddings import Embedder
from tokenlane.worker.embeddings.fallback_model import FastText
from tokenlane.worker.embeddings.vector_cache import open_cache

MIB = 1024 * 1024


class Mapper(FakeProvider):
    """Has models that embed, each its own way. `down`: it lists none. `asked`: every text that came."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.listed = 0
        self.down = False

    async def models(self) -> list[ModelInfo]:
        self.listed += 1
        if self.down:
            raise ProviderDown
        return [ModelInfo(name=name, digest=f"sha256:{name}", capabilities=("embed",)) for name in ("one", "two")]

    async def embed(self, inputs: Sequence[str], model: str, dimensions: int | None = None) -> list[list[float]]:
        self.asked += inputs
        return [numbers(model, text)[:dimensions] for text in inputs]


def numbers(model: str, text: str) -> list[float]:
    return [float(len(model)), float(ord(model[0])), *(float(byte) for byte in text.encode().ljust(6, b"\0"))]


def unpacked(found: Vectors) -> list[list[float]]:
    size, data = 4 * found.dimensions, b64decode(found.data)
    return [list(struct.unpack(f"<{found.dimensions}f", data[at : at + size])) for at in range(0, len(data), size)]


@asynccontextmanager
async def embedding(provider: Mapper, folder: pytest.TempPathFactory | None = None) -> AsyncIterator[Embedder]:
    async with AsyncExitStack() as stack:
        cache = None
        if folder is not None:
            cache = await stack.enter_async_context(open_cache(folder.mktemp("cache") / "vectors", MIB))
        embedder = Embedder(provider, "fake", cache)
        tasks = await stack.enter_async_context(background())
        tasks.create_task(embedder.run())
        yield embedder


@settings(max_examples=30, deadline=None)
@given(
    st.booleans(),
    st.lists(
        st.tuples(
            st.sampled_from(["one", "two"]),
            st.sampled_from([None, 3, 5]),
            st.lists(st.text("abc", max_size=2), min_size=1, max_size=6),
        ),
        max_size=10,
    ),
)
async def test_the_cache_says_what_the_model_server_says(
    tmp_path_factory: pytest.TempPathFactory, with_cache: bool, requests: list[tuple[str, int | None, list[str]]]
) -> None:
    """Whatever is asked in which order, of which model, in which size: the vectors are the server's, and no text of a
    model is sent twice for one size if there is a cache."""
    provider = Mapper()
    async with embedding(provider, tmp_path_factory if with_cache else None) as embedder:
        for model, dimensions, texts in requests:
            found, _ = await embedder.embed(EmbedRequest(role="r", inputs=texts, dimensions=dimensions), model)
            assert unpacked(found) == [numbers(model, text)[:dimensions] for text in texts]
        told = {(model, dimensions, text) for model, dimensions, texts in requests for text in texts}
        if with_cache:
            assert len(provider.asked) == len(told)
            assert embedder.cache_hits().asked == sum(len(texts) for *_, texts in requests)
        else:
            assert embedder.cache_hits().asked == 0


async def test_a_model_server_that_is_away_does_not_keep_the_cache_from_answering(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """What was computed is given though the model server does not even list its models, whose digests hold a minute."""
    provider = Mapper()
    async with embedding(provider, tmp_path_factory) as embedder:
        request = EmbedRequest(role="r", inputs=["a"])
        calls = MagicMock(wraps=nullcontext)
        first, is_computed = await embedder.embed(request, "one", calling=calls)
        assert (is_computed, calls.call_count) == (True, 1)
        provider.down = True
        assert await embedder.embed(request, "one", calling=calls) == (first, False)
        assert calls.call_count == 1, "the cache's answer is no call of the model server"
        embedder._digests_read_at = float("-inf")
        assert await embedder.embed(request, "one") == (first, False)
        assert provider.listed == 2


async def test_vectors_of_another_size_are_not_kept(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A model server that does not take the dimensions asked for is an error each time, until it does."""

    class Stubborn(Mapper):
        can = False

        async def embed(self, inputs: Sequence[str], model: str, dimensions: int | None = None) -> list[list[float]]:
            return await super().embed(inputs, model, dimensions if self.can else None)

    provider = Stubborn()
    async with embedding(provider, tmp_path_factory) as embedder:
        request = EmbedRequest(role="r", inputs=["a"], dimensions=3)
        for _ in range(2):
            with pytest.raises(BadRequest, match=r"\b8\b.*\b3\b"):
                await embedder.embed(request, "one")
        provider.can = True
        assert (await embedder.embed(request, "one"))[0].dimensions == 3


async def test_what_is_asked_of_a_vector_is_checked() -> None:
    """Other dimensions than asked for, a provider without embeddings, a fallback that is not wanted: told as such."""
    async with embedding(Mapper()) as embedder:
        with pytest.raises(BadRequest, match=r"\b8\b.*\b9\b"):
            await embedder.embed(EmbedRequest(role="r", inputs=["a"], dimensions=9), "one")
        embedder.check_fallback(EmbedRequest(role="r", inputs=["a"], fallback="error"))
    fallback = Embedder(FastText(), "fasttext")
    fallback.check_fallback(EmbedRequest(role="r", inputs=["a"]))
    with pytest.raises(ProviderDown) as raised:
        fallback.check_fallback(EmbedRequest(role="r", inputs=["a"], fallback="error"))
    assert not raised.value.retryable
    with pytest.raises(BadRequest):
        await Embedder(FakeProvider(), "fake").embed(EmbedRequest(role="r", inputs=["a"]), "one")

"""What an agent holds of vectors, without a server."""

from __future__ import annotations

import math
from array import array

import pytest

from tokenlane.producer import BadRequest, Embeddings, ProviderDown, Usage
from tokenlane.producer.testing import MockPool
from tokenlane.routing.contract.requests import EmbedRequest


def of(model: str, dimensions: int = 2, lane: str = "lane1") -> Embeddings:
    return Embeddings("0" * 32, [array("f", [0.5] * dimensions)], dimensions, model, lane, Usage())


async def test_a_mock_pool_embeds() -> None:
    """By default alike texts have alike vectors, in the order of the texts; a function may give others, or an error."""
    async with MockPool() as pool, pool.client() as client:
        found = await client.embed(["stone", "notes", "fish"], role="indexer", dimensions=7)
        assert found.vectors[0] == found.vectors[1] != found.vectors[2]
        assert math.hypot(*found.vectors[2]) == pytest.approx(1)
        assert (found.model, found.dimensions, found.is_fallback) == ("mock", 27, False)
    (request,) = pool.embed_requests
    assert (request.role, request.inputs, request.dimensions) == ("indexer", ["stone", "notes", "fish"], 7)

    def down(request: EmbedRequest) -> list[list[float]]:
        if request.inputs == ["down"]:
            raise ProviderDown("gone")
        return [[1.0, 0.0]]

    async with MockPool(embed=down) as pool, pool.client() as client:
        assert list((await client.embed("up", role="indexer")).vector) == [1.0, 0.0]
        with pytest.raises(ProviderDown, match="gone"):
            await client.embed("down", role="indexer")


async def test_what_cannot_be_asked() -> None:
    """A wrong option, no text, too many texts, half a character: told before anything is sent, and not quoted."""
    async with MockPool() as pool, pool.client() as client:
        with pytest.raises(TypeError, match="'temperature'"):
            await client.embed("a", role="indexer", temperature=1)  # type: ignore[call-arg]  # that is the point
        for texts in ([], ["a"] * 2049, ["secret \ud800"]):
            with pytest.raises(BadRequest) as raised:
                await client.embed(texts, role="indexer")
            assert "secret" not in str(raised.value)
    assert pool.embed_requests == []


def test_vectors_are_not_in_a_repr() -> None:
    """What was embedded does not get into a log."""
    assert "0.5" not in repr(of("m"))
    with pytest.raises(ValueError):
        _ = Embeddings("0" * 32, [], 2, "m", "lane1", Usage()).vector


@pytest.mark.parametrize("texts", [None, 7, b"text", {"text": 1}, {"one", "two"}, [], [None], "\ud83d"])
async def test_what_is_no_list_of_texts_is_refused(texts: object) -> None:
    """Keys, bytes or what has no order are never embedded in place of what was meant."""
    async with MockPool() as pool, pool.client() as client:
        with pytest.raises(BadRequest):
            await client.embed(texts, role="indexer")  # type: ignore[arg-type]  # what is refused
    assert not pool.embed_requests

"""OpenAI's embeddings, with OpenAI's SDK."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from tests.gateways import gateway_of
from tests.waiting import until

from tokenlane.producer import ProviderDown
from tokenlane.producer.testing import MockPool
from tokenlane.routing.contract.requests import EmbedRequest

VECTORS = [[0.1, -1 / 3, 0.94], [1e-30, 1.0, 0.0]]


def sdk(url: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


async def test_both_formats_have_the_same_numbers() -> None:
    """Each is the float32 that the pool holds, in the order of the texts."""
    async with MockPool(embed=lambda _: VECTORS) as pool, pool.client() as client:
        exact = await client.embed(["a", "b"], role="r")
        async with gateway_of(client) as url, sdk(url) as asks:
            for encoding in ("float", "base64", None):
                more: dict[str, Any] = {} if encoding is None else {"encoding_format": encoding}
                got = await asks.embeddings.create(model="role:r", input=["a", "b"], **more)
                vectors: list[Any] = [entry.embedding for entry in got.data]
                if encoding == "base64":
                    continue  # the SDK leaves it as it is
                assert vectors == [list(vector) for vector in exact.vectors]
                assert [entry.index for entry in got.data] == [0, 1]
                assert got.model == exact.model


async def test_options_reach_the_pool() -> None:
    async with MockPool() as pool, pool.client() as client, gateway_of(client) as url, sdk(url) as asks:
        await asks.embeddings.create(
            model="mapper", input="a", dimensions=27, user="u", extra_headers={"idempotency-key": "k"}
        )
        await asks.embeddings.create(model="role:indexer", input="a")
    first, second = pool.embed_requests
    assert (first.inputs, first.model, first.dimensions, first.idempotency_key) == (["a"], "mapper", 27, "k")
    assert (second.role, second.model) == ("indexer", None)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": [1, 2]}, "input"),
        ({"input": [[1, 2], [3]]}, "input"),
        ({"input": {"a": "b"}}, "input"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "dimensions": "many"}, "dimensions"),
        ({"input": "a", "input_type": "query"}, "input_type"),
        ({}, "input"),
    ],
)
async def test_what_cannot_be_asked_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    async with MockPool() as pool, pool.client() as client, gateway_of(client) as url, sdk(url) as asks:
        with pytest.raises(openai.BadRequestError) as caught:
            await asks.post("/embeddings", cast_to=object, body={"model": "m", **body})
        assert caught.value.param == param
        with pytest.raises(openai.BadRequestError):
            await asks.embeddings.create(model="m", input=[])
    assert pool.embed_requests == []


async def test_an_error_has_its_status() -> None:
    def down(_: EmbedRequest) -> list[list[float]]:
        raise ProviderDown("gone")

    async with MockPool(embed=down) as pool, pool.client() as client, gateway_of(client) as url, sdk(url) as asks:
        with pytest.raises(openai.InternalServerError) as caught:
            await asks.embeddings.create(model="m", input="a")
    assert (caught.value.status_code, caught.value.code) == (503, "provider_down")


async def test_a_client_that_leaves_cancels() -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def wait(_: EmbedRequest) -> list[list[float]]:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        return []

    async with MockPool(embed=wait) as pool, pool.client() as client, gateway_of(client) as url, sdk(url) as asks:
        asking = asyncio.create_task(asks.embeddings.create(model="m", input="a"))
        await asked.wait()
        asking.cancel()
        await until(left.is_set)

"""Batches, with OpenAI's own client in front of a mock pool."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import JsonValue
from starlette.types import ASGIApp
from tests.batches import batch_gateway, begun, chat_lines, ended, lines_of
from tests.waiting import until

from tokenlane.producer.gateway.access.caller import Caller
from tokenlane.producer.gateway.batches import ask
from tokenlane.producer.gateway.batches.in_process import Reply, post
from tokenlane.producer.gateway.files.shelf import KEPT_S
from tokenlane.producer.testing import MockPool
from tokenlane.routing.contract import errors
from tokenlane.routing.contract.envelope import Quota
from tokenlane.routing.contract.requests import ChatRequest

EMBED = "/v1/embeddings"


def text_of(request: ChatRequest) -> str:
    content = request.messages[-1].content
    assert isinstance(content, str)
    return content


async def test_each_line_has_its_answer(tmp_path: Path) -> None:
    texts = [f"question {number}" for number in range(20)]
    async with MockPool(lambda request: f"answer to {text_of(request)}") as pool, pool.client() as client:
        async with batch_gateway(client, tmp_path) as sdk:
            batch = await begun(sdk, chat_lines(texts))
            assert batch.expires_at == batch.created_at + 24 * 3600
            batch = await ended(sdk, batch.id)
            lines = await lines_of(sdk, batch.output_file_id)
            assert batch.output_file_id is not None
            output = await sdk.files.retrieve(batch.output_file_id)
            source = await sdk.files.retrieve(batch.input_file_id)
    assert (batch.status, batch.error_file_id) == ("completed", None)
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": 20, "completed": 20, "failed": 0}
    answers = {line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"] for line in lines}
    assert answers == {text: f"answer to {text}" for text in texts}
    assert len({line["id"] for line in lines}) == len(lines) == 20
    assert {request.priority for request in pool.requests} == {"low"}
    assert output.purpose == "batch_output"
    assert output.expires_at == output.created_at + KEPT_S
    assert source.expires_at is not None
    assert source.expires_at - output.created_at <= KEPT_S + 1


async def test_embeddings_and_responses_are_lines_too(tmp_path: Path) -> None:
    embed = b'{"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m", "input": "text"}}'
    respond = b'{"custom_id": "b", "method": "POST", "url": "/v1/responses", "body": {"model": "m", "input": "text"}}'
    async with MockPool(lambda _: "fine") as pool, pool.client() as client, batch_gateway(client, tmp_path) as sdk:
        batches = [await begun(sdk, embed, endpoint=EMBED), await begun(sdk, respond, endpoint="/v1/responses")]
        over = [await ended(sdk, batch.id) for batch in batches]
        lines = [await lines_of(sdk, batch.output_file_id) for batch in over]
    assert [line[0]["response"]["body"]["object"] for line in lines] == ["list", "response"]


async def test_a_line_that_is_refused_stands_in_the_file_of_errors(tmp_path: Path) -> None:
    content = chat_lines(["good"]) + b"\n" + chat_lines(["bad"], temperature=-1)
    async with MockPool(lambda _: "fine") as pool, pool.client() as client, batch_gateway(client, tmp_path) as sdk:
        batch = await ended(sdk, (await begun(sdk, content)).id)
        refused = await lines_of(sdk, batch.error_file_id)
        answered = await lines_of(sdk, batch.output_file_id)
    assert batch.status == "completed"
    assert [(line["custom_id"], line["response"]["status_code"]) for line in refused] == [("bad", 400)]
    assert [line["custom_id"] for line in answered] == ["good"]


async def test_a_full_pool_only_delays_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals that pass are no answers, however many there are; a line that fails by itself is tried three times."""
    monkeypatch.setattr(ask, "_FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(ask, "_LONGEST_PAUSE_S", 0.0)
    seen: dict[str, int] = {}

    def answer(request: ChatRequest) -> str:
        text = text_of(request)
        seen[text] = seen.get(text, 0) + 1
        if text == "full" and seen[text] < 8:
            raise errors.QueueFull("full", retry_after_s=0.001)
        if text == "slow":
            raise errors.Timeout("slow")
        return "fine"

    async with MockPool(answer) as pool, pool.client() as client, batch_gateway(client, tmp_path) as sdk:
        batch = await ended(sdk, (await begun(sdk, chat_lines(["full", "slow"]))).id)
        refused = await lines_of(sdk, batch.error_file_id)
    assert seen["full"] == 8
    assert [(line["custom_id"], line["response"]["status_code"]) for line in refused] == [("slow", 504)]


@pytest.mark.parametrize(("content", "line"), [(b'{"custom_id": 1}', 1), (chat_lines(["a"]) + b"\n{", 2), (b"", None)])
async def test_an_input_that_is_not_valid_fails_as_a_whole(tmp_path: Path, content: bytes, line: int | None) -> None:
    async with MockPool() as pool, pool.client() as client, batch_gateway(client, tmp_path) as sdk:
        batch = await ended(sdk, (await begun(sdk, content)).id)
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [error.line for error in batch.errors.data] == [line]
    assert pool.requests == []


async def never(_: ChatRequest) -> str:
    await asyncio.Event().wait()
    return ""


async def first_then_never(request: ChatRequest) -> str:
    return "fine" if text_of(request) == "first" else await never(request)


async def test_a_cancelled_batch_keeps_what_it_has(tmp_path: Path) -> None:
    async with MockPool(first_then_never) as pool, pool.client() as client, batch_gateway(client, tmp_path) as sdk:
        batch = await begun(sdk, chat_lines(["first", "second", "third"]))
        await until(lambda: len(pool.requests) == 2)
        assert (await sdk.batches.cancel(batch.id)).status == "cancelling"
        batch = await ended(sdk, batch.id)
        answered = await lines_of(sdk, batch.output_file_id)
        rest = await lines_of(sdk, batch.error_file_id)
        with pytest.raises(openai.ConflictError):
            await sdk.batches.cancel(batch.id)
    assert batch.status == "cancelled"
    assert batch.cancelled_at is not None
    assert [line["custom_id"] for line in answered] == ["first"]
    assert [(line["custom_id"], line["error"]["code"]) for line in rest] == [
        ("second", "batch_cancelled"),
        ("third", "batch_cancelled"),
    ]


async def test_what_has_no_answer_in_time_expires(tmp_path: Path) -> None:
    async with MockPool(first_then_never) as pool, pool.client() as client, batch_gateway(client, tmp_path) as sdk:
        batch = await ended(sdk, (await begun(sdk, chat_lines(["first", "second"]), window="1s")).id)
        rest = await lines_of(sdk, batch.error_file_id)
        assert len(await lines_of(sdk, batch.output_file_id)) == 1
    assert (batch.status, [line["error"]["code"] for line in rest]) == ("expired", ["batch_expired"])


async def test_a_gateway_goes_on_where_another_stopped(tmp_path: Path) -> None:
    async with MockPool(first_then_never) as pool, pool.client() as client:
        async with batch_gateway(client, tmp_path) as sdk:
            batch = await begun(sdk, chat_lines(["first", "second"]))
            await until(lambda: len(pool.requests) == 2)
    async with MockPool(lambda _: "later") as pool, pool.client() as client, batch_gateway(client, tmp_path) as sdk:
        batch = await ended(sdk, batch.id)
        lines = await lines_of(sdk, batch.output_file_id)
    assert [text_of(request) for request in pool.requests] == ["second"]
    contents = [(line["custom_id"], line["response"]["body"]["choices"][0]["message"]["content"]) for line in lines]
    assert contents == [("first", "fine"), ("second", "later")]


async def test_a_batch_whose_input_was_deleted_is_cancelled_with_what_it_has(tmp_path: Path) -> None:
    async with MockPool(first_then_never) as pool, pool.client() as client, batch_gateway(client, tmp_path) as sdk:
        batch = await begun(sdk, chat_lines(["first", "second"]))
        await until(lambda: len(pool.requests) == 2)
        await sdk.files.delete(batch.input_file_id)
        await sdk.batches.cancel(batch.id)
        batch = await ended(sdk, batch.id)
        answered = await lines_of(sdk, batch.output_file_id)
    assert batch.status == "cancelled"
    assert [line["custom_id"] for line in answered] == ["first"]


async def test_a_batch_whose_input_was_deleted_fails_if_it_is_run_again(tmp_path: Path) -> None:
    """It keeps the answers that it has, and says which file it lacks."""
    async with MockPool(first_then_never) as pool, pool.client() as client, batch_gateway(client, tmp_path) as sdk:
        batch = await begun(sdk, chat_lines(["first", "second"]))
        await until(lambda: len(pool.requests) == 2)
        await sdk.files.delete(batch.input_file_id)
    async with MockPool() as pool, pool.client() as client, batch_gateway(client, tmp_path) as sdk:
        batch = await ended(sdk, batch.id)
        answered = await lines_of(sdk, batch.output_file_id)
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [error.code for error in batch.errors.data] == ["file_not_found"]
    assert [line["custom_id"] for line in answered] == ["first"]
    assert pool.requests == []


async def test_lines_count_against_the_quota_of_the_key_that_made_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    callers: list[Caller] = []

    async def noted(app: ASGIApp, path: str, body: JsonValue, headers: Mapping[str, str], caller: Caller) -> Reply:
        callers.append(caller)
        return await post(app, path, body, headers, caller)

    monkeypatch.setattr(ask, "post", noted)
    quota = Quota(name="key", in_flight=3)
    async with MockPool(lambda _: "fine") as pool, pool.client() as client:
        async with batch_gateway(client, tmp_path, quota=quota) as sdk:
            await ended(sdk, (await begun(sdk, chat_lines(["a", "b"]))).id)
    assert [caller.quota for caller in callers] == [quota, quota]


async def test_two_gateways_share_a_directory(tmp_path: Path) -> None:
    """One of them runs the batch; the other shows it, and cancels it."""
    async with MockPool(never) as pool, pool.client() as client:
        async with batch_gateway(client, tmp_path) as first, batch_gateway(client, tmp_path) as second:
            batch = await begun(first, chat_lines(["a"]))
            await until(lambda: len(pool.requests) == 1)
            assert [each.id async for each in second.batches.list()] == [batch.id]
            await second.batches.cancel(batch.id)
            assert (await ended(second, batch.id)).status == "cancelled"
    assert len(pool.requests) == 1


async def test_lists_have_pages_and_callers_their_own(tmp_path: Path) -> None:
    other: dict[str, Any] = {"extra_headers": {"x-agent": "other"}}
    async with MockPool(lambda _: "fine") as pool, pool.client() as client, batch_gateway(client, tmp_path) as sdk:
        ids = [(await begun(sdk, chat_lines(["a"]))).id for _ in range(3)]
        assert [batch.id async for batch in sdk.batches.list(limit=2)] == sorted(ids, reverse=True)
        assert [batch.id async for batch in sdk.batches.list(**other)] == []
        for call in (sdk.batches.retrieve, sdk.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                await call(ids[0], **other)
        for batch_id in ids:
            await ended(sdk, batch_id)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"endpoint": "/v1/completions"}, "endpoint"),
        ({"completion_window": "25h"}, "completion_window"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after"),
        ({"unknown": 1}, "unknown"),
    ],
)
async def test_a_wrong_field_is_named(tmp_path: Path, changes: dict[str, object], param: str) -> None:
    async with MockPool() as pool, pool.client() as client, batch_gateway(client, tmp_path) as sdk:
        file = await sdk.files.create(file=b"{}", purpose="batch")
        body = {"input_file_id": file.id, "endpoint": EMBED, "completion_window": "24h", **changes}
        with pytest.raises(openai.BadRequestError) as caught:
            await sdk.post("/batches", cast_to=object, body=body)
    assert caught.value.param == param

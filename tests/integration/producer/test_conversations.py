"""A conversation moves between model servers of all dialects, and each gets all of it in its own form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from tests.integration.lanes import lane_of

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.model.models import Model
from tokenlane.config.settings.values import LaneSettings
from tokenlane.producer import Client, ImagesNotAccepted, RequestCancelled
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.store.pool import Pool

PROVIDERS = ("ollama", "vllm", "llamacpp", "lmstudio")
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: list[dict[str, Any]] = [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}


class Lanes:
    """A lane with a simulator of each provider, one of which the role is routed to."""

    def __init__(self, pool: Pool, redis_url: str, stack: AsyncExitStack) -> None:
        self._pool, self._redis_url, self._stack = pool, redis_url, stack
        self._servers: dict[str, Simulator] = {}

    async def serve(self, provider: str, model: str = "m1") -> None:
        server = await self._stack.enter_async_context(Simulator(api=provider, models=[model]))
        await self._stack.enter_async_context(lane_of(self._redis_url, LaneSettings(provider, provider, server.url)))
        self._servers[provider] = server

    async def route_to(self, provider: str) -> None:
        role = RolePolicy(route=(Candidate(lane=provider),))
        await self._pool.policies.write(Policy(roles={"r": role}))

    def last_messages(self, provider: str) -> Sequence[dict[str, Any]]:
        """The messages of the last chat that the server received."""
        chats = [received for received in self._servers[provider].log if "chat" in received.path]
        messages: list[dict[str, Any]] = json.loads(chats[-1].body)["messages"]
        return messages


async def test_tool_calls_move_between_dialects(pool: Pool, client: Client, redis_url: str) -> None:
    """A call of one server gets its result on the next, and every server gets every message."""
    async with AsyncExitStack() as stack:
        lanes = Lanes(pool, redis_url, stack)
        for provider in PROVIDERS:
            await lanes.serve(provider)
        conversation = client.conversation(role="r", system="s")
        for turn in range(len(PROVIDERS)):
            for provider, step in ((PROVIDERS[turn], "ask"), (PROVIDERS[(turn + 1) % 4], "result")):
                await lanes.route_to(provider)
                before = conversation.messages
                if step == "ask":
                    answer = await conversation.complete(f"The weather, {turn}?", tools=TOOLS)
                    conversation.add_tool_result(answer.tool_calls[0].id, f"rain {turn}")
                else:
                    answer = await conversation.complete(tools=TOOLS)
                assert answer.lane == provider
                received = lanes.last_messages(provider)
                roles = [message.role for message in before] + (["user"] if step == "ask" else [])
                assert [message["role"] for message in received] == roles
                texts = [message.content for message in before if message.role in ("user", "tool")]
                sent = [message["content"] for message in received if message["role"] in ("user", "tool")]
                assert sent[: len(texts)] == texts
                calls = [call["function"] for message in received for call in message.get("tool_calls", ())]
                arguments = dict if provider == "ollama" else str
                assert all(call["name"] == "weather" and isinstance(call["arguments"], arguments) for call in calls)
                results = [message for message in received if message["role"] == "tool"]
                assert len(results) == len(calls)
                assert provider != "ollama" or all(message["tool_name"] == "weather" for message in results)
        assert len(conversation.messages) == 1 + 4 * 4


async def test_images_stay_behind(pool: Pool, client: Client, redis_url: str) -> None:
    """A model that cannot see answers without the images of earlier turns; one that can gets them again."""
    async with AsyncExitStack() as stack:
        lanes = Lanes(pool, redis_url, stack)
        await lanes.serve("vllm", "m1+vision")
        for provider in ("ollama", "llamacpp", "lmstudio"):
            await lanes.serve(provider)
        conversation = client.conversation(role="r")
        await lanes.route_to("vllm")
        await conversation.complete([{"type": "text", "text": "What is this?"}, PICTURE])
        for provider in ("ollama", "llamacpp", "lmstudio"):
            await lanes.route_to(provider)
            with pytest.warns(UserWarning, match=f"'{provider}'"):
                await conversation.complete("And in other words?")
            with pytest.raises(ImagesNotAccepted):
                await conversation.complete([PICTURE])
        await lanes.route_to("vllm")
        await conversation.complete("Look again.")
        assert PICTURE in lanes.last_messages("vllm")[0]["content"]


async def test_a_context_that_is_too_short(pool: Pool, client: Client, redis_url: str) -> None:
    """The server refuses the whole conversation and answers its newest turns."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(Simulator(api="vllm", models=[Model("m1", context_length=300)]))
        await stack.enter_async_context(lane_of(redis_url, LaneSettings("gpu0", "vllm", server.url)))
        conversation = client.conversation(role="r", system="s")
        for number in range(6):
            async with conversation.ask(f"{number} " * 50, max_tokens=8) as stream:
                assert [delta.finish_reason async for delta in stream][-1] == "length"
        assert conversation.left_out > 0
        assert len(conversation.messages) == 13


async def test_a_question_interrupts(pool: Pool, client: Client, redis_url: str) -> None:
    """The only slot is free for the second question, and the reader of the first answer learns of the interruption."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(Simulator(api="vllm"))
        await stack.enter_async_context(lane_of(redis_url, LaneSettings("gpu0", "vllm", server.url, capacity=1)))
        conversation = client.conversation(role="r", on_busy="interrupt", keep_partial=True)
        async with conversation.ask("1", extra={"simulate": {"hold_after": 4}}) as stream:
            first = await anext(stream)
            await server.held()
            assert (await conversation.complete("2")).text
            with pytest.raises(RequestCancelled):
                await stream.answer()
        texts = [str(message.content) for message in conversation.messages]
        assert texts[0::2] == ["1", "2"]
        assert texts[1].startswith(first.text)

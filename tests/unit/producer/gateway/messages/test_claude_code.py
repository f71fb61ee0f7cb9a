"""What Claude Code sends, recreated from its public format: the requests of a session in front of a mock pool."""

from __future__ import annotations

import json
from typing import Any

import httpx
from tests.gateways import events_of, gateway_of

from tokenlane.producer.testing import MockPool
from tokenlane.routing.contract.answers import TokenDelta, ToolCallDelta
from tokenlane.routing.contract.requests import ChatRequest

SESSION = "68a80524-7628-46c7-bca9-93f6c6ceb0b0"
HEADERS = {
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14,effort-2025-11-24",
    "anthropic-dangerous-direct-browser-access": "true",
    "user-agent": "claude-cli/2.1.197 (external, cli)",
    "x-api-key": "none",
    "x-app": "cli",
    "x-claude-code-session-id": SESSION,
    "x-stainless-retry-count": "0",
    "x-stainless-timeout": "600",
}
CACHED = {"cache_control": {"type": "ephemeral"}}
TOOLS = [
    {
        "name": f"Tool{number}",
        "description": "What it does. " * 100,
        "input_schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {"command": {"type": "string"}},
            "required": ["command"],
            "additionalProperties": False,
        },
    }
    for number in range(24)
]
QUESTION: dict[str, Any] = {
    "role": "user",
    "content": [
        {"type": "text", "text": "<system-reminder>\nContext.\n</system-reminder>"},
        {"type": "text", "text": "run the command", **CACHED},
    ],
}


def body(*turns: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A request of the main loop."""
    return {
        "model": "claude-opus-4-8",
        "messages": list(turns),
        "system": [
            {
                "type": "text",
                "text": "x-anthropic-billing-header: cc_version=2.1.197.b97; cc_entrypoint=cli; cch=8e2c1;",
            },
            {"type": "text", "text": "You are Claude Code.", **CACHED},
            {"type": "text", "text": "\nYou help with software. " * 200, **CACHED},
        ],
        "tools": TOOLS,
        "metadata": {"user_id": json.dumps({"device_id": "d" * 64, "account_uuid": "", "session_id": SESSION})},
        "max_tokens": 64000,
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
        "stream": True,
    } | fields


def works(request: ChatRequest) -> list[TokenDelta]:
    """Calls a tool; says what it returned."""
    if request.messages[-1].role == "tool":
        return [TokenDelta(text="done")]
    return [
        TokenDelta(reasoning="I must run it."),
        TokenDelta(tool_calls=(ToolCallDelta(index=0, name="Tool3", arguments='{"command": "ls"}'),)),
        TokenDelta(finish_reason="tool_calls"),
    ]


def blocks_of(events: list[Any]) -> list[dict[str, Any]]:
    """The blocks of a streamed answer, as Claude Code puts them together."""
    blocks: dict[int, dict[str, Any]] = {}
    for event in events:
        match event:
            case {"type": "content_block_start", "index": index, "content_block": block}:
                blocks[index] = dict(block) | ({"input": ""} if block["type"] == "tool_use" else {})
            case {"type": "content_block_delta", "index": index, "delta": {"type": "input_json_delta"} as delta}:
                blocks[index]["input"] += delta["partial_json"]
            case {"type": "content_block_delta", "index": index, "delta": delta}:
                name = delta["type"].removesuffix("_delta")
                blocks[index][name] = blocks[index].get(name, "") + delta[name]
            case {"type": "content_block_stop", "index": index} if blocks[index]["type"] == "tool_use":
                blocks[index]["input"] = json.loads(blocks[index]["input"])
    return list(blocks.values())


async def test_a_session() -> None:
    """The check of the quota, the count of tokens, a turn with a tool, and the turn with its result."""
    async with (
        MockPool(works) as pool,
        pool.client() as client,
        gateway_of(client) as url,
        httpx.AsyncClient(base_url=url, headers=HEADERS, params={"beta": "true"}) as web,
    ):
        quota = {"model": "claude-haiku-4-5", "max_tokens": 1, "messages": [{"role": "user", "content": "quota"}]}
        assert (await web.post("/v1/messages", json=quota | {"metadata": {"user_id": "x"}})).status_code == 200
        counted = await web.post(
            "/v1/messages/count_tokens", json={"model": "claude-opus-4-8", "messages": [QUESTION], "tools": TOOLS}
        )
        assert counted.json()["input_tokens"] > 1000
        first = events_of((await web.post("/v1/messages", json=body(QUESTION))).content)
        turn = blocks_of(first)
        assert [block["type"] for block in turn] == ["thinking", "tool_use"]
        assert turn[1]["input"] == {"command": "ls"}
        assert first[-2]["delta"]["stop_reason"] == "tool_use"
        result = {"type": "tool_result", "tool_use_id": turn[1]["id"], "content": "a.txt", "is_error": False, **CACHED}
        said = {"role": "user", "content": [result]}
        second = events_of(
            (await web.post("/v1/messages", json=body(QUESTION, {"role": "assistant", "content": turn}, said))).content
        )
        assert [block["text"] for block in blocks_of(second)] == ["done"]

        asked, again = pool.requests[-2:]
        assert {request.conversation for request in (asked, again)} == {SESSION}
        assert again.messages[: len(asked.messages)] == asked.messages  # so that servers can use their caches
        assert "billing" not in str(asked.messages[0].content)
        assert asked.reasoning_effort is None
        assert again.messages[-1].tool_call_id == turn[1]["id"]
        assert again.messages[-2].thought == "I must run it."


async def test_the_end_of_a_session_says_what_it_was_about() -> None:
    """A side call without thinking, for a title in a schema."""
    schema = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}
    async with MockPool(lambda _: '{"title": "ls"}') as pool, pool.client() as client, gateway_of(client) as url:
        side = body(
            QUESTION,
            model="claude-haiku-4-5",
            tools=[],
            thinking={"type": "disabled"},
            temperature=1,
            output_config={"format": {"type": "json_schema", "schema": schema}},
        )
        async with httpx.AsyncClient(headers=HEADERS) as web:
            events = events_of((await web.post(f"{url}/v1/messages?beta=true", json=side)).content)
        assert blocks_of(events) == [{"type": "text", "text": '{"title": "ls"}'}]
        assert pool.requests[0].reasoning_effort == "none"

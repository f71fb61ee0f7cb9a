"""Requests in Messages: what the pool is asked, and what is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tokenlane.producer.gateway.failures import Refused
from tokenlane.producer.gateway.messages.request import read
from tokenlane.producer.gateway.question import Question

PNG = {"type": "base64", "media_type": "image/png", "data": "iVBOR"}
TOOL = {"name": "look", "description": "looks", "input_schema": {"type": "object", "properties": {}}}


def body(**fields: Any) -> dict[str, Any]:
    """A valid body, with these fields."""
    return {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]} | fields


def asked(*turns: dict[str, Any], **fields: Any) -> Question:
    return read(body(messages=list(turns), **fields))


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def text(words: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **fields}


def test_a_plain_question() -> None:
    question = read(body(system="Be brief.", stream=True, metadata={"user_id": "me"}))
    assert list(question.messages) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
    ]
    assert (question.model, question.options, question.is_streamed) == ("m", {"max_tokens": 5}, True)
    assert question.user == "me"


def test_every_option_has_its_place() -> None:
    question = read(
        body(
            temperature=0.5,
            top_p=0.9,
            top_k=40,
            stop_sequences=["END"],
            service_tier="standard_only",
            output_config={"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        )
    )
    assert question.options == {
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "stop": ["END"],
        "priority": "normal",
        "reasoning_effort": "low",
    }
    assert question.response_format is not None
    assert question.response_format["json_schema"] == {"name": "answer", "schema": {"type": "object"}, "strict": True}


@pytest.mark.parametrize(
    ("fields", "effort"),
    [
        ({}, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, None),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, None),
        ({"thinking": {"type": "disabled"}}, "none"),
        ({"output_config": {"effort": "medium"}}, "medium"),
        ({"output_config": {"effort": "high"}}, None),
        ({"output_config": {"effort": "max"}, "thinking": {"type": "adaptive"}}, "high"),
        ({"output_config": {"effort": "max"}, "thinking": {"type": "disabled"}}, "none"),
    ],
)
def test_reasoning(fields: dict[str, Any], effort: str | None) -> None:
    """Thinking that is allowed asks for nothing; an effort does, unless it is Anthropic's default."""
    assert read(body(**fields)).options.get("reasoning_effort") == effort


def test_blocks_of_text_become_one_text() -> None:
    cached = {"cache_control": {"type": "ephemeral"}}
    question = asked(user(text("a", **cached), text("b")), system=[text("one", **cached), text("two")])
    assert [message["content"] for message in question.messages] == ["one\ntwo", "a\nb"]


def test_the_block_for_accounting_is_no_prompt() -> None:
    """It differs from request to request, and would make every cache of the prompt useless."""
    question = read(body(system=[text("x-anthropic-billing-header: cc_version=2; cch=1;"), text("Be brief.")]))
    assert question.messages[0]["content"] == "Be brief."
    only = read(body(system=[text("x-anthropic-billing-header: cch=1;")]))
    assert [message["role"] for message in only.messages] == ["user"]


def test_images() -> None:
    link = {"type": "url", "url": "https://example.com/a.png"}
    question = asked(user({"type": "image", "source": PNG}, text("what?"), {"type": "image", "source": link}))
    assert question.messages[0]["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBOR"}},
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
    ]


def test_documents_of_plain_text_are_texts() -> None:
    plain = {"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "body"}}
    found = {"type": "search_result", "title": "S", "source": "here", "content": [text("found")]}
    nested = {"type": "document", "source": {"type": "content", "content": [text("x")]}}
    assert asked(user(plain, found, nested)).messages[0]["content"] == "T\nbody\nS\nhere\nfound\nx"


def test_a_turn_with_tools() -> None:
    """Thinking, calls and their results, of which one failed and one is a picture."""
    question = asked(
        user(text("look")),
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "redacted_thinking", "data": "?"},
                text("I "),
                text("look."),
                {"type": "tool_use", "id": "a", "name": "look", "input": {"at": "é"}},
                {"type": "tool_use", "id": "b", "name": "look", "input": {}},
                {"type": "tool_use", "id": "c", "name": "look", "input": {}},
            ],
        },
        user(
            {"type": "tool_result", "tool_use_id": "a", "content": "no", "is_error": True},
            {"type": "tool_result", "tool_use_id": "b", "content": [text("see"), {"type": "image", "source": PNG}]},
            {"type": "tool_result", "tool_use_id": "c"},
            text("and now?"),
        ),
        tools=[TOOL],
    )
    _, assistant, *results, said = question.messages
    assert assistant["content"] == "I look."
    assert assistant["reasoning_content"] == "hm"
    calls: Any = assistant["tool_calls"]
    assert [call["id"] for call in calls] == ["a", "b", "c"]
    assert json.loads(calls[0]["function"]["arguments"]) == {"at": "é"}
    assert [(result["role"], result["tool_call_id"], result["content"]) for result in results] == [
        ("tool", "a", "Error: no"),
        ("tool", "b", "see"),
        ("tool", "c", ""),
    ]
    parts: Any = said["content"]
    assert [part["type"] for part in parts] == ["image_url", "text"]


def test_turns_that_follow_each_other_become_one() -> None:
    """Many templates refuse two turns of the user in a row, and a turn of the system after the first."""
    question = asked(
        user(text("a")),
        {"role": "system", "content": "note"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"},
        user({"type": "tool_result", "tool_use_id": "x", "content": "r"}),
        {"role": "system", "content": "late"},
    )
    assert [message["role"] for message in question.messages] == ["user", "assistant", "tool", "user"]
    assert question.messages[0]["content"] == "a\n<system-reminder>\nnote\n</system-reminder>\nb"
    assert question.messages[-1]["content"] == "<system-reminder>\nlate\n</system-reminder>"


def test_a_begun_answer_is_continued() -> None:
    begun = {"role": "assistant", "content": [text("The answer is (")]}
    question = asked(user(text("a or b?")), begun)
    assert question.options.get("continue_final") is True
    assert question.messages[-1] == {"role": "assistant", "content": "The answer is ("}


@pytest.mark.parametrize(
    ("choice", "options"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any", "disable_parallel_tool_use": True}, {"tool_choice": "required", "parallel_tool_calls": False}),
        ({"type": "none"}, {"tool_choice": "none"}),
        (
            {"type": "tool", "name": "look", "disable_parallel_tool_use": False},
            {"tool_choice": {"type": "function", "function": {"name": "look"}}},
        ),
    ],
)
def test_tools(choice: dict[str, Any], options: dict[str, Any]) -> None:
    tools = [TOOL, {"type": "custom", "cache_control": {"type": "ephemeral"}, "strict": True, **TOOL, "name": "see"}]
    question = read(body(tools=tools, tool_choice=choice))
    given: Any = question.options.get("tools")
    assert [tool["function"]["name"] for tool in given] == ["look", "see"]
    assert given[1]["function"] == {
        "name": "see",
        "description": "looks",
        "strict": True,
        "parameters": TOOL["input_schema"],
    }
    assert {name: question.options.get(name) for name in options} == options
    assert ("parallel_tool_calls" in question.options) == ("parallel_tool_calls" in options)


def test_a_choice_without_tools() -> None:
    """It means nothing, unless it wants a call."""
    assert "tool_choice" not in read(body(tool_choice={"type": "auto"})).options
    assert "tool_choice" not in read(body(tools=[], tool_choice={"type": "none"})).options


def test_hints_are_accepted() -> None:
    question = read(
        body(
            cache_control={"type": "ephemeral"},
            context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
            speed="fast",
            mcp_servers=[],
            container=None,
        )
    )
    assert question.options == {"max_tokens": 5}


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"max_tokens": 0}, "max_tokens", "bad_request"),
        ({"max_tokens": "5"}, "max_tokens", "bad_request"),
        ({"model": None}, "model", "bad_request"),
        ({"messages": []}, "messages", "bad_request"),
        ({"messages": ["hi"]}, "messages.0", "bad_request"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0", "bad_request"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content", "bad_request"),
        ({"messages": [user({"text": "x"})]}, "messages.0.content.0", "bad_request"),
        ({"messages": [user({"type": "text"})]}, "messages.0.content.0.text", "bad_request"),
        ({"messages": [user({"type": "container_upload"})]}, "messages.0.content.0", "unsupported_block"),
        ({"messages": [user({"type": "image", "source": {}})]}, "messages.0.content.0.source", "bad_request"),
        (
            {"messages": [user({"type": "image", "source": {"type": "file", "file_id": "f"}})]},
            "messages.0.content.0.source",
            "unsupported_block",
        ),
        (
            {"messages": [user({"type": "image", "source": PNG | {"media_type": "text/html"}})]},
            "messages.0.content.0.source",
            "bad_request",
        ),
        (
            {"messages": [user({"type": "document", "source": {"type": "base64", "data": "JVBE"}})]},
            "messages.0.content.0.source",
            "unsupported_block",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "server_tool_use"}]}]},
            "messages.0.content.0",
            "unsupported_block",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "b"}]}]},
            "messages.0.content.0.input",
            "bad_request",
        ),
        (
            {"messages": [user({"type": "tool_result", "content": [{"type": "tool_reference"}], "tool_use_id": "a"})]},
            "messages.0.content.0.content.0",
            "unsupported_block",
        ),
        ({"system": [{"type": "image", "source": PNG}]}, "system.0", "unsupported_block"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0", "unsupported_tool"),
        ({"tools": [TOOL | {"defer_loading": True}]}, "tools.0.defer_loading", "unsupported_tool"),
        ({"tools": [{"name": "look"}]}, "tools.0", "bad_request"),
        ({"tool_choice": {"type": "any"}}, "tool_choice", "bad_request"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice", "bad_request"),
        ({"tools": [TOOL], "tool_choice": "auto"}, "tool_choice", "bad_request"),
        ({"thinking": {"type": "deep"}}, "thinking.type", "bad_request"),
        ({"container": "c"}, "container", "unsupported_parameter"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers", "unsupported_parameter"),
        ({"n": 2}, "n", "unknown_parameter"),
    ],
)
def test_refusals(fields: dict[str, Any], param: str, code: str) -> None:
    """What is wrong is named by its place."""
    with pytest.raises(Refused) as refused:
        read(body(**fields))
    failure = refused.value.failure
    assert (failure.status, failure.param, failure.code) == (400, param, code)


def test_a_refusal_quotes_no_prompt() -> None:
    with pytest.raises(Refused) as refused:
        read(body(temperature="a secret"))
    assert "secret" not in refused.value.failure.message

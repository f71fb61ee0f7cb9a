"""The body of a Chat Completions request: what the pool is asked, what is left out, and what is refused by name."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import CompletionCreateParamsBase, CompletionCreateParamsStreaming
from tests.documents import table_on
from tests.repository import ROOT

from tokenlane.producer.gateway.chat_completions import fields
from tokenlane.producer.gateway.chat_completions.request import ChatQuestion, _Body, read
from tokenlane.producer.gateway.failures import Refused
from tokenlane.producer.gateway.openai_errors import error_body
from tokenlane.routing.contract.requests import ChatOptions, ChatRequest

USER: dict[str, Any] = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
OTHER = {"type": "function", "function": {"name": "write", "parameters": {"type": "object"}}}


def asked(**more: Any) -> ChatQuestion:
    return read({"model": "m", "messages": [USER], **more})


def refused(**more: Any) -> tuple[str, str | None]:
    """The code and the field with which a body is refused."""
    with pytest.raises(Refused) as caught:
        asked(**more)
    assert caught.value.failure.status == 400
    return caught.value.failure.code, caught.value.failure.param


def request_of(question: ChatQuestion) -> ChatRequest:
    """The request that the pool gets: every option is one that it has."""
    return ChatRequest.model_validate(
        {"role": "r", "messages": question.messages, **question.options, "response_format": question.response_format}
    )


def test_every_parameter_of_the_sdk_is_decided() -> None:
    """A parameter is translated, taken as a hint, or refused by name, as the page says; a new one fails here."""
    decided = {*_Body.model_fields, *fields._HINTS, *fields._CANNOT}
    given = {*CompletionCreateParamsBase.__annotations__, *CompletionCreateParamsStreaming.__annotations__}
    assert given - decided == set()
    rows = table_on(ROOT / "docs" / "openai-chat.md", "parameters")
    assert {name for field, _ in rows for name in re.findall(r"`(\w+)`", field)} == given


def test_options_keep_their_names_and_values() -> None:
    options: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "frequency_penalty": 0.2,
        "presence_penalty": -0.2,
        "repetition_penalty": 1.1,
        "stop": ["END"],
        "seed": 7,
        "logit_bias": {"50256": -100.0},
        "logprobs": True,
        "top_logprobs": 2,
        "tools": [TOOL],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "metadata": {"step": "3"},
    }
    question = asked(**options)
    assert question.options == options
    assert request_of(question).top_k == 40


@pytest.mark.parametrize(
    ("body", "options"),
    [
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_completion_tokens": 6, "max_tokens": 5}, {"max_tokens": 6}),
        ({"service_tier": "flex"}, {"priority": "low"}),
        ({"service_tier": "priority"}, {"priority": "high"}),
        ({"service_tier": "fast"}, {"priority": "high"}),
        ({"service_tier": "auto"}, {"priority": "normal"}),
        ({"prompt_cache_key": "run-7"}, {"conversation": "run-7"}),
        ({"reasoning": {"effort": "high"}}, {"reasoning_effort": "high"}),
        (
            {"chat_template_kwargs": {"enable_thinking": False}},
            {"extra": {"chat_template_kwargs": {"enable_thinking": False}}},
        ),
        ({"prediction": {"type": "content", "content": "x"}, "store": False, "n": 1, "modalities": ["text"]}, {}),
        (
            {"verbosity": "medium", "prompt_cache_retention": "24h", "unheard_of": None, "tools": [], "functions": []},
            {},
        ),
    ],
)
def test_fields_become_options(body: dict[str, Any], options: dict[str, Any]) -> None:
    question = asked(**body)
    assert question.options == options
    request_of(question)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 2}, "n"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "ash", "format": "wav"}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"functions": [{"name": "look"}]}, "functions"),
        ({"function_call": {"name": "look"}}, "function_call"),
        ({"moderation": {"model": "omni-moderation-latest"}}, "moderation"),
        ({"verbosity": "low"}, "verbosity"),
        ({"store": True}, "store"),
        ({"tools": [{"type": "custom", "custom": {"name": "c"}}]}, "tools.0.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "custom", "custom": {"name": "c"}}}, "tool_choice"),
        (
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]},
            "messages.0.content.0",
        ),
    ],
)
def test_what_a_pool_cannot_do_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    assert refused(**body) == ("unsupported_parameter", param)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"tempo": 1}, "unknown_parameter", "tempo"),
        ({"temperature": "hot"}, "bad_request", "temperature"),
        ({"messages": "hi"}, "bad_request", "messages"),
        ({"max_tokens": True}, "bad_request", "max_tokens"),
        ({"service_tier": "gold"}, "bad_request", "service_tier"),
        ({"continue_final_message": True}, "bad_request", "continue_final_message"),
        (
            {
                "tools": [TOOL],
                "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [OTHER]}},
            },
            "bad_request",
            "tool_choice",
        ),
    ],
)
def test_what_is_wrong_is_refused_by_name(body: dict[str, Any], code: str, param: str) -> None:
    assert refused(**body) == (code, param)


def test_a_refusal_quotes_no_value() -> None:
    for body in ({"temperature": "secret"}, {"messages": ["secret"]}, {"n": "secret"}, {"a secret": 1}):
        with pytest.raises(Refused) as caught:
            asked(**body)
        assert "secret" not in str(caught.value.failure)


def test_allowed_tools_are_the_only_ones() -> None:
    """The choice of `allowed_tools` leaves the tools that it names, and its mode."""
    allowed = {"type": "function", "function": {"name": "write"}}
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [allowed]}}
    options = asked(tools=[TOOL, OTHER], tool_choice=choice).options
    assert (options["tools"], options["tool_choice"]) == ([OTHER], "required")


def test_a_last_message_of_the_assistant_is_continued() -> None:
    question = read({"messages": [USER, {"role": "assistant", "content": "Once", "prefix": True}]})
    assert question.options == {"continue_final": True}
    assert question.messages[-1] == {"role": "assistant", "content": "Once"}


def test_hints_in_messages_are_left_out() -> None:
    """What an SDK sends back of an earlier answer, and where a cache should begin, are no part of a conversation."""
    earlier: dict[str, Any] = {
        "role": "assistant", "content": "yes", "refusal": None, "annotations": [], "audio": None,
        "function_call": None, "tool_calls": None, "reasoning_content": "because", "parsed": {"a": 1},
    }  # fmt: skip
    text: dict[str, Any] = {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}
    image: dict[str, Any] = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    question = read({"messages": [USER, earlier, {"role": "user", "content": [text, image]}]})
    request = request_of(question)
    assert request.messages[1].thought == "because"
    assert request.messages[2].content == [{"type": "text", "text": "hi"}, image]


def test_whom_it_is_for_and_how_it_comes() -> None:
    question = asked(
        stream=True,
        user="u",
        safety_identifier="s",
        stream_options={"include_usage": True, "include_obfuscation": False},
    )
    assert (question.is_streamed, question.user, question.wants_usage) == (True, "s", True)
    assert asked(response_format={"type": "text"}).response_format is None
    assert asked(prompt_cache_key="two words").options["conversation"] != "two words"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(), max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "function", "name", "tools", "mode", "content", "role"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)
FIELDS = st.sampled_from(sorted({*_Body.model_fields, *fields._HINTS, *fields._CANNOT, *fields._MODEL_SERVERS}))


@given(st.dictionaries(FIELDS | st.text(max_size=4), JSON, max_size=4), st.booleans())
def test_any_body_is_read_or_refused(body: dict[str, Any], has_messages: bool) -> None:
    """Whatever stands in it; and a refusal can be sent as JSON."""
    try:
        question = read({**body, "messages": [USER]} if has_messages else body)
    except Refused as refused:
        json.dumps(error_body(refused.failure), ensure_ascii=False).encode()
    else:
        assert set(question.options) <= set(ChatOptions.__annotations__)

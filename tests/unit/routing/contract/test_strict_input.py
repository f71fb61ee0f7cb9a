"""What an agent writes is passed on or refused; what a newer peer sends, and we do not know, is ignored."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tokenlane.producer import Answer, BadRequest, Message, ToolCall
from tokenlane.producer.compose import Messages, compose, compose_command, compose_embed
from tokenlane.routing.contract.requests import ChatOptions, ChatRequest, EmbedRequest, ModelCommand
from tokenlane.routing.contract.wire import new_id

NOT_FINITE = [float("nan"), float("inf"), float("-inf")]
QUESTION: list[object] = [{"role": "user", "content": "q"}]


def chat(messages: object = None, **options: object) -> ChatRequest:
    """The request as the worker opens it."""
    told, asked = cast("Messages", messages or QUESTION), cast("ChatOptions", options)
    _, payload = compose(new_id(), told, "planner", asked, agent="agent1", client="client1")
    return ChatRequest.model_validate_json(payload)


def embed(**asked: object) -> None:
    compose_embed({"role": "indexer", "inputs": ["a"], **asked}, agent="agent1", client="client1")


@pytest.mark.parametrize(
    ("write", "wrong", "meant"),
    [
        (lambda: chat([{"role": "user", "contents": "q"}]), "contents", "content"),
        (lambda: chat([{"roel": "user", "content": "q"}]), "roel", "role"),
        (lambda: chat([{"role": "assistant", "content": "", "reasonings": "hm"}]), "reasonings", "reasoning"),
        (lambda: chat([{"role": "tool", "content": "2", "tool_callid": "c"}]), "tool_callid", "tool_call_id"),
        (lambda: chat(tool_chioce="auto"), "tool_chioce", "tool_choice"),
        (lambda: embed(dimension=3), "dimension", "dimensions"),
        (
            lambda: compose_command({"action": "list", "lanes": "gpu0"}, agent="agent1", client="client1"),
            "lanes",
            "lane",
        ),
    ],
)
def test_a_mistyped_field_is_named_with_the_nearest(write: Callable[[], object], wrong: str, meant: str) -> None:
    """Wherever an agent writes a field that does not exist, it is told which, and which one there is."""
    with pytest.raises(BadRequest) as refused:
        write()
    assert repr(wrong) in refused.value.message
    assert repr(meant) in refused.value.message


def test_so_it_is_where_an_agent_makes_the_object_itself() -> None:
    """A `Message` or a request made by hand is no exception."""
    for form, fields in (
        (Message, {"role": "user", "contents": "q"}),
        (ChatRequest, {"role": "r", "messages": QUESTION, "n": 2}),
        (EmbedRequest, {"role": "r", "inputs": ["a"], "input": "b"}),
        (ModelCommand, {"action": "list", "lanes": "a"}),
    ):
        with pytest.raises(ValidationError) as refused:
            cast("type[Message]", form)(**cast("dict[str, Any]", fields))
        assert [one["type"] for one in refused.value.errors()] == ["unknown_field"]


@given(st.text(st.characters(codec="utf-8")))
def test_what_may_be_content_is_not_repeated(name: str) -> None:
    """A key that is no name is the agent's text."""
    secret = f"{name} secret"
    with pytest.raises(BadRequest) as refused:
        chat([{"role": "user", "content": "q", secret: 1}])
    assert secret not in str(refused.value)


def test_what_says_nothing_may_stand_there() -> None:
    """The message of an OpenAI answer, as its own library dumps it, may be appended as it is."""
    dumped: dict[str, object] = {
        "role": "assistant",
        "content": "hi",
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": None,
    }
    assert chat([*QUESTION, dumped, *QUESTION]).messages[1].content == "hi"


def test_a_newer_peer_may_say_more() -> None:
    """Unknown fields of what comes over the wire are ignored, at every depth, and so is what is gone."""
    message = {"role": "user", "content": "q", "of_tomorrow": 1}
    wire = {"id": new_id(), "role": "r", "messages": [message], "of_tomorrow": [1], "conversation_id": "c"}
    assert ChatRequest.model_validate_json(json.dumps(wire)).messages == [Message(role="user", content="q")]


@pytest.mark.parametrize("number", NOT_FINITE)
@pytest.mark.parametrize(
    "options",
    [
        lambda number: {"extra": {"a": number}},
        lambda number: {"extra": {"a": [{"b": [number]}]}},
        lambda number: {"metadata": {"a": number}},
        lambda number: {"tools": [{"function": {"parameters": {"maximum": number}}}]},
        lambda number: {"tool_choice": {"a": number}},
        lambda number: {"response_format": {"json_schema": {"schema": {"maximum": number}}}},
        lambda number: {"logit_bias": {"1": number}},
        lambda number: {"temperature": number},
        lambda number: {"top_p": number},
        lambda number: {"min_p": number},
        lambda number: {"frequency_penalty": number},
        lambda number: {"presence_penalty": number},
        lambda number: {"repetition_penalty": number},
        lambda number: {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "weight": number}]}]},
        lambda number: {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": number}}]}]},
    ],
)
def test_numbers_that_json_cannot_carry_are_refused(options: Callable[[float], dict[str, Any]], number: float) -> None:
    """Wherever an agent may write a number, NaN and infinity are errors; pydantic would write null."""
    with pytest.raises(BadRequest):
        chat(**options(number))
    with pytest.raises(BadRequest):
        embed(metadata={"a": number})


@pytest.mark.parametrize("messages", [{"role": "user", "content": "q"}, Message(role="user", content="q")])
def test_a_single_message_is_told_to_be_one(messages: object) -> None:
    """It is no conversation, and not taken for one."""
    with pytest.raises(BadRequest, match="list"):
        chat(messages)


BEGUN = {"role": "assistant", "content": "The capital of"}
TOOL = {"type": "function", "function": {"name": "f"}}
CALLING = {"role": "assistant", "content": "so", "tool_calls": [{"function": {"name": "f"}}]}


@pytest.mark.parametrize(
    ("messages", "options"),
    [
        ([*QUESTION, BEGUN], {}),
        ([*QUESTION, BEGUN], {"continue_final": False}),
        ([*QUESTION], {"continue_final": True}),
        ([BEGUN], {"continue_final": True}),
        ([*QUESTION, {**BEGUN, "content": " "}], {"continue_final": True}),
        ([*QUESTION, {**BEGUN, "content": [{"type": "text", "text": "a"}]}], {"continue_final": True}),
        ([*QUESTION, CALLING], {"continue_final": True}),
        (QUESTION, {"tool_choice": "required"}),
        (QUESTION, {"tool_choice": "required", "tools": []}),
        (QUESTION, {"tool_choice": {"type": "function", "function": {"name": "g"}}, "tools": [TOOL]}),
    ],
)
def test_what_servers_would_understand_in_several_ways(messages: list[object], options: dict[str, object]) -> None:
    """A last message of the assistant's that is not said to be continued, nor can be, and a call of a tool that is not
    there, are refused before they are sent."""
    with pytest.raises(BadRequest):
        chat(messages, **options)


def test_what_can_only_be_understood_in_one_way() -> None:
    """A request to continue an answer is accepted, and so is a `tool_choice` that names one of the tools."""
    assert chat([*QUESTION, BEGUN], continue_final=True).continue_final
    assert chat([*QUESTION, BEGUN], extra={"continue_final_message": True, "add_generation_prompt": False}).extra
    asked: ChatOptions = {"continue_final": True}
    envelope, _ = compose(new_id(), cast("Messages", [*QUESTION, BEGUN]), "r", asked, agent="a", client="c")
    assert envelope.needs.can == ("prefill",)
    assert chat(tools=[TOOL], tool_choice=TOOL).required_tool == "f"


ANSWER: Answer = Answer(
    request_id=new_id(),
    text="I look.",
    reasoning="Weather is asked for.",
    tool_calls=(ToolCall(id="c1", name="weather", arguments='{"city":"Paris"}'), ToolCall(id="c2", name="now")),
    finish_reason="tool_calls",
)


def test_an_answer_is_a_turn_of_the_conversation() -> None:
    """What it said, thought and called stands in its message, which may be sent; and so may the answer itself."""
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Paris"}'}},
        {"id": "c2", "type": "function", "function": {"name": "now", "arguments": "{}"}},
    ]
    assert ANSWER.message == Message.model_validate(
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "Weather is asked for.",
            "tool_calls": calls,
        }
    )
    result = {"role": "tool", "tool_call_id": "c1", "content": "rain"}
    assert chat([*QUESTION, ANSWER, result]) != chat([*QUESTION, result])
    assert chat([*QUESTION, ANSWER, result]).messages == chat([*QUESTION, ANSWER.message, result]).messages


def test_an_answer_that_only_says_something() -> None:
    """Its message has its text and nothing else; one that only calls has no content, which is null."""
    assert Answer(request_id="1", text="hi").message.model_dump(exclude_unset=True) == {
        "role": "assistant",
        "content": "hi",
    }
    assert ANSWER.model_copy(update={"text": ""}).message.content is None


def test_the_mapping_of_an_answer_is_told_what_to_do() -> None:
    """`model_dump` of an answer is no message; the error names what is."""
    with pytest.raises(BadRequest, match="message"):
        chat([*QUESTION, ANSWER.model_dump()])


def test_an_image_may_be_its_url_alone() -> None:
    """Some libraries leave out the object around it; it means the same."""
    url = "data:image/png;base64,QUJD"
    for image in (url, {"url": url}):
        (message,) = chat([{"role": "user", "content": [{"type": "image_url", "image_url": image}]}]).messages
        assert message.content == [{"type": "image_url", "image_url": {"url": url}}]

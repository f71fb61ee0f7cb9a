"""Ollama's dialect: what is asked in it, and what an answer in it means."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from tokenlane.routing.contract.answers import TokenDelta, ToolCallDelta
from tokenlane.routing.contract.errors import (
    BadRequest,
    ContextTooLong,
    Interrupted,
    LlmError,
    ModelNotFound,
    ProviderDown,
    UnreadableAnswer,
)
from tokenlane.routing.contract.requests import ChatRequest, Message
from tokenlane.worker.providers.ollama.answer import OllamaAnswerReader
from tokenlane.worker.providers.ollama.body import ollama_body
from tokenlane.worker.providers.ollama.names import full_name
from tokenlane.worker.providers.parsing.sse import MESSAGE

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"x": 1}'}}
TOOL: dict[str, JsonValue] = {"type": "function", "function": {"name": "add", "parameters": {}}}
SCHEMA: dict[str, JsonValue] = {"type": "object", "properties": {"x": {"type": "integer"}}}


def asked(messages: list[Message] | None = None, /, **options: object) -> dict[str, JsonValue]:
    """The body of a request, read again."""
    told = messages or [Message(role="user", content="q")]
    request = ChatRequest.model_validate({"role": "r", "messages": told, **options})
    body: dict[str, JsonValue] = json.loads(ollama_body(request, "phi3"))
    return body


def line(message: object = None, done: bool = False, **more: object) -> bytes:
    spoken = {"role": "assistant", "content": ""} if message is None else message
    return json.dumps({"model": "phi3", "message": spoken, "done": done, **more}).encode()


def read(*lines: bytes, model: str = "phi3") -> list[TokenDelta]:
    answer = OllamaAnswerReader(model)
    return [*(delta for each in lines if (delta := answer.take((each, MESSAGE))) is not None), answer.last()]


def test_a_plain_request_says_no_more_than_the_agent_did() -> None:
    """Model, messages and streaming; and that a prompt that is too long is to be refused, not cut."""
    assert asked() == {
        "model": "phi3",
        "messages": [{"role": "user", "content": "q"}],
        "stream": True,
        "truncate": False,
        "shift": False,
    }


def test_options_have_ollamas_names() -> None:
    """Sampling options stand in `options`; what `extra` adds there stands beside them."""
    body = asked(
        max_tokens=7,
        temperature=0,
        repetition_penalty=1.1,
        stop="end",
        seed=1,
        extra={"options": {"num_ctx": 4096}, "keep_alive": "10m"},
    )
    assert body["options"] == {
        "num_predict": 7,
        "temperature": 0,
        "repeat_penalty": 1.1,
        "stop": ["end"],
        "seed": 1,
        "num_ctx": 4096,
    }
    assert (body["keep_alive"], body["model"]) == ("10m", "phi3")


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        ({"response_format": {"type": "json_object"}}, "format", "json"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}}, "format", SCHEMA),
        ({"response_format": {"type": "text"}}, "format", None),
        ({"reasoning_effort": "none"}, "think", False),
        ({"reasoning_effort": "minimal"}, "think", "low"),
        ({"reasoning_effort": "high"}, "think", "high"),
        ({"tools": [TOOL]}, "tools", [TOOL]),
        ({"tools": [TOOL], "tool_choice": "none"}, "tools", None),
        ({"logprobs": True}, "logprobs", True),
    ],
)
def test_what_has_a_place_of_its_own(options: dict[str, object], field: str, value: object) -> None:
    """Formats, thinking and tools go where Ollama wants them."""
    assert asked(**options).get(field) == value


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"extra": {"options": 1}}, "options"),
    ],
)
def test_what_ollama_cannot_do_is_refused(options: dict[str, object], words: str) -> None:
    """An option that would be ignored is an error that names it."""
    with pytest.raises(BadRequest, match=words):
        asked(**options)


def test_a_conversation_with_tools_and_images() -> None:
    """Arguments go as objects, results with their tool's name, images as bare base64, developers as system."""
    body = asked(
        [
            Message(role="developer", content="s"),
            Message(
                role="user",
                content=[
                    {"type": "text", "text": "a"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
                    {"type": "text", "text": "b"},
                ],
            ),
            Message.model_validate({"role": "assistant", "tool_calls": [CALL]}),
            Message(role="tool", content="2", tool_call_id="c1"),
        ]
    )
    assert body["messages"] == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a\nb", "images": ["QUJD"]},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c1", "function": {"name": "add", "arguments": {"x": 1}}}],
        },
        {"role": "tool", "content": "2", "tool_name": "add", "tool_call_id": "c1"},
    ]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://h/secret.png"}}]},
        {"role": "user", "content": [{"type": "audio", "secret": 1}]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{secret"}}]},
        {"role": "assistant", "tool_calls": [{"secret": 1}]},
    ],
)
def test_messages_that_cannot_be_put_are_refused(message: dict[str, object]) -> None:
    """They are errors that do not quote them."""
    with pytest.raises(BadRequest) as refused:
        asked([Message.model_validate(message)])
    assert "secret" not in f"{refused.value!r}{refused.value}"


@given(st.text(max_size=100))
def test_what_an_agent_wrote_is_one_value(text: str) -> None:
    """Whatever a message holds, the body holds it as one JSON string."""
    assert asked([Message(role="user", content=text)])["messages"] == [{"role": "user", "content": text}]


def test_text_thinking_calls_and_usage() -> None:
    """Each kind of output has its field; calls come whole and numbered; the last line's own text is not lost."""
    call = {"function": {"index": 0, "name": "f", "arguments": {"a": 1}}}
    deltas = read(
        line({"content": "", "thinking": "hm"}),
        line({"content": "a"}),
        line({"content": "", "tool_calls": [call]}),
        line({"content": "b", "tool_calls": [{**call, "id": "mine"}]}, done=True, done_reason="stop", eval_count=3),
    )
    assert [(delta.text, delta.reasoning) for delta in deltas] == [("", "hm"), ("a", ""), ("", ""), ("b", ""), ("", "")]
    assert deltas[2].tool_calls == (ToolCallDelta(index=0, id="call_0", name="f", arguments='{"a":1}'),)
    assert deltas[3].tool_calls == (ToolCallDelta(index=1, id="mine", name="f", arguments='{"a":1}'),)
    assert deltas[-1].finish_reason == "tool_calls"
    assert deltas[-1].usage is not None
    assert (deltas[-1].usage.prompt_tokens, deltas[-1].usage.completion_tokens) == (0, 3)


@pytest.mark.parametrize(("reason", "finish"), [("stop", "stop"), ("length", "length"), (None, "stop")])
def test_finish_reasons(reason: str | None, finish: str) -> None:
    """A line with `done` ends the answer; without a reason it just stopped."""
    assert read(line(done=True, done_reason=reason))[-1].finish_reason == finish


@pytest.mark.parametrize(
    ("lines", "error", "retryable"),
    [
        ([line({"content": "a"})], Interrupted, True),
        ([line()], Interrupted, True),
        ([line(done=True, done_reason="load")], UnreadableAnswer, False),
        ([b'{"error": "runner died"}'], ProviderDown, True),
        ([b'{"error": "the prompt is longer than the context length currently available"}'], ContextTooLong, False),
        ([line({"content": "a"}, model="llama3")], ModelNotFound, False),
        ([b"7"], UnreadableAnswer, False),
        ([b"{}"], UnreadableAnswer, False),
        ([b'{"message": {"content": 1}}'], UnreadableAnswer, False),
    ],
)
def test_what_is_no_whole_answer(lines: list[bytes], error: type[LlmError], retryable: bool) -> None:
    """Success is a line with `done` alone; everything else is its error."""
    with pytest.raises(LlmError) as raised:
        read(*lines)
    assert type(raised.value) is error
    assert raised.value.retryable is retryable
    assert "runner" not in str(raised.value)


@pytest.mark.parametrize("said", ["phi3", "phi3:latest", "PHI3:latest"])
def test_the_same_model_by_another_spelling(said: str) -> None:
    """A name without a tag means `latest`, and case does not count."""
    assert read(line({"content": "a"}, done=True, model=said))[0].text == "a"


def test_full_names() -> None:
    """A port in a registry's address is no tag."""
    assert full_name("host:5000/me/Phi3") == "host:5000/me/phi3:latest"
    assert full_name("phi3:4b-instruct") == "phi3:4b-instruct"

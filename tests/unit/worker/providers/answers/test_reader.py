"""An answer is read from chunks, and is whole only if the model server says so."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlane.routing.contract.answers import ToolCallDelta
from tokenlane.routing.contract.errors import BadRequest, Interrupted, LlmError, ModelNotFound, UnreadableAnswer
from tokenlane.routing.contract.requests import ChatRequest, Message
from tokenlane.worker.providers.ollama.body import ollama_body
from tokenlane.worker.providers.openai.answer import OpenAiAnswerReader
from tokenlane.worker.providers.openai.body import chat_body
from tokenlane.worker.providers.parsing.sse import MESSAGE, Event


def chunk(delta: object, finish: str | None = None, **more: object) -> Event:
    return (json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}).encode(), MESSAGE)


def test_text_reasoning_and_tool_calls() -> None:
    """Each kind of output has its field; the usage after the finish mark comes with the last delta."""
    answer = OpenAiAnswerReader("m")
    assert answer.take(chunk({"role": "assistant", "content": None})) is None
    text = answer.take(chunk({"content": "a"}))
    assert text is not None
    assert (text.text, text.model) == ("a", "m")
    for name in ("reasoning", "reasoning_content"):
        thought = answer.take(chunk({name: "b"}))
        assert thought is not None
        assert (thought.text, thought.reasoning) == ("", "b")
    calls = [
        {"index": 1, "id": "c", "function": {"name": "f", "arguments": '{"x"'}},
        {"function": {"arguments": ": 1}"}},
    ]
    called = answer.take(chunk({"tool_calls": calls}))
    assert called is not None
    assert called.tool_calls == (
        ToolCallDelta(index=0, id="c", name="f", arguments='{"x"'),
        ToolCallDelta(index=0, arguments=": 1}"),
    )
    assert answer.take(chunk({}, finish="tool_calls")) is None
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}
    assert answer.take((json.dumps({"choices": [], "usage": usage}).encode(), MESSAGE)) is None
    assert answer.take((b"[DONE]", MESSAGE)) is None
    last = answer.last()
    assert last.finish_reason == "tool_calls"
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens, last.usage.cached_tokens) == (3, 2, 1)


def test_text_in_the_finish_chunk_is_not_lost() -> None:
    """A finish chunk may carry content."""
    answer = OpenAiAnswerReader("m")
    piece = answer.take(chunk({"content": "end"}, finish="stop"))
    assert piece is not None
    assert piece.text == "end"
    assert answer.last().finish_reason == "stop"


def test_a_refusal_is_text() -> None:
    """What a model says instead of an answer is what it says, whichever field it comes in."""
    answer = OpenAiAnswerReader("m")
    first = answer.take(chunk({"role": "assistant", "content": None, "refusal": "I'm sorry, "}))
    rest = answer.take(chunk({"refusal": "no."}, finish="stop"))
    assert first is not None
    assert rest is not None
    assert first.text + rest.text == "I'm sorry, no."
    assert answer.delivered
    both = OpenAiAnswerReader("m").take(chunk({"content": "Well, ", "refusal": "no."}))
    assert both is not None
    assert both.text == "Well, no."


@pytest.mark.parametrize("finish", ["abort", "error", "cancelled"])
def test_a_finish_that_is_none(finish: str) -> None:
    """A model server that dropped the request has not answered it."""
    with pytest.raises(Interrupted):
        OpenAiAnswerReader("m").take(chunk({}, finish=finish))


def test_done_alone_is_no_success() -> None:
    """`[DONE]` also follows errors, so it proves nothing; with nothing delivered another try is safe."""
    answer = OpenAiAnswerReader("m")
    answer.take((b"[DONE]", MESSAGE))
    with pytest.raises(Interrupted) as unfinished:
        answer.last()
    assert unfinished.value.retryable
    answer.take(chunk({"content": "a"}))
    with pytest.raises(Interrupted) as broken:
        answer.last()
    assert not broken.value.retryable


def test_another_model_speaks_no_word() -> None:
    """Nothing of another model's is delivered; a dated snapshot of the model is no other."""
    with pytest.raises(ModelNotFound):
        OpenAiAnswerReader("m").take(chunk({"content": "a"}, model="n"))
    with pytest.raises(ModelNotFound):
        OpenAiAnswerReader("m").take(chunk({"content": "a"}, model="mm"))
    dated = OpenAiAnswerReader("m").take(chunk({"content": "a"}, model="m-2026-01-01"))
    assert dated is not None
    assert dated.model == "m-2026-01-01"


@pytest.mark.parametrize(
    "data", [b"{", b"[]", b'"a"', b"null", b'{"choices": 3}', b'{"choices": [null]}', b"\xff", b"[" * 9999]
)
def test_what_is_no_chunk_is_refused(data: bytes) -> None:
    """Anything that is no chat chunk is not worth another try, and the error does not quote it."""
    with pytest.raises(UnreadableAnswer) as refused:
        OpenAiAnswerReader("m").take((data, MESSAGE))
    assert refused.value.__cause__ is None
    assert not refused.value.retryable


@pytest.mark.parametrize(
    "delta", [{"content": 3}, {"content": ["secret"]}, {"tool_calls": 7}, {"tool_calls": ["secret"]}]
)
def test_a_piece_of_the_wrong_shape_is_refused(delta: object) -> None:
    """A field of the wrong type is refused without being quoted."""
    with pytest.raises(UnreadableAnswer) as refused:
        OpenAiAnswerReader("m").take(chunk(delta))
    assert "secret" not in f"{refused.value!r}{refused.value}"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "choices",
                        "delta",
                        "content",
                        "error",
                        "usage",
                        "model",
                        "tool_calls",
                        "function",
                        "finish_reason",
                    ]
                ),
                x,
            )
        ),
    )
)
def test_any_json_is_a_delta_or_an_llm_error(value: object) -> None:
    """Whatever a model server sends, no other error comes out."""
    try:
        OpenAiAnswerReader("m").take((json.dumps(value).encode(), MESSAGE))
    except LlmError:
        pass


@pytest.mark.parametrize("name", ["model", "messages", "stream", "stream_options", "n"])
def test_what_extra_may_not_say(name: str) -> None:
    """What would be dropped, or is not offered, is refused by its name."""
    request = ChatRequest(role="r", messages=[Message(role="user", content="q")], extra={name: 2})
    with pytest.raises(BadRequest, match=f"`{name}`"):
        chat_body(request, "m", {})
    with pytest.raises(BadRequest, match=f"`{name}`"):
        ollama_body(request, "m")


def test_only_what_was_set_is_sent() -> None:
    """The body holds the options the agent set, under the model server's names, and `extra` as it is."""
    request = ChatRequest(
        role="r",
        messages=[Message(role="user", content="q")],
        temperature=0,
        repetition_penalty=1.5,
        extra={"cache_prompt": False},
    )
    assert json.loads(chat_body(request, "m", {"repetition_penalty": "repeat_penalty"})) == {
        "temperature": 0,
        "repeat_penalty": 1.5,
        "cache_prompt": False,
        "model": "m",
        "messages": [{"role": "user", "content": "q"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }

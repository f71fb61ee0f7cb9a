"""Answers in Chat Completions: OpenAI's SDK puts a stream together to what it would have been given as a whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from tests.gateways import events_of

from tokenlane.producer.gateway.chat_completions.dialect import ChatCompletions
from tokenlane.producer.gateway.chat_completions.request import ChatQuestion, read
from tokenlane.producer.gateway.failures import Failure
from tokenlane.producer.gateway.question import Begun
from tokenlane.routing.contract.answers import (
    Answer,
    TokenDelta,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    TopLogprob,
    Usage,
)

BEGUN = Begun("0" * 32, "role:planner", 1_700_000_000, "low")
TEXTS = st.text(st.characters(codec="utf-8"), max_size=6)
USAGE = Usage(prompt_tokens=3, completion_tokens=4, cached_tokens=1)


def logprob(token: str) -> TokenLogprob:
    top = TopLogprob(token=token, logprob=-0.5, bytes=tuple(token.encode()))
    return TokenLogprob(**top.model_dump(), top_logprobs=(top,))


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[TokenDelta], Answer]:
    """The deltas of an answer, and the answer: reasoning, text, and calls whose arguments come in pieces."""
    deltas = [TokenDelta(reasoning=draw(TEXTS)) for _ in range(draw(st.integers(0, 2)))]
    for text in draw(st.lists(TEXTS, max_size=4)):
        deltas.append(TokenDelta(text=text, logprobs=draw(st.sampled_from([(), (logprob(text or "x"),)]))))
    calls: list[ToolCall] = []
    for index in range(draw(st.integers(0, 2))):
        pieces = draw(st.lists(TEXTS, max_size=3))
        calls.append(ToolCall(id=f"call_{index}", name="look", arguments="".join(pieces)))
        deltas.append(TokenDelta(tool_calls=(ToolCallDelta(index=index, id=f"call_{index}", name="look"),)))
        deltas += [TokenDelta(tool_calls=(ToolCallDelta(index=index, arguments=piece),)) for piece in pieces]
    answer = Answer(
        request_id=BEGUN.request_id,
        text="".join(delta.text for delta in deltas),
        reasoning="".join(delta.reasoning for delta in deltas),
        tool_calls=tuple(calls),
        finish_reason=draw(st.sampled_from(["stop", "length", "tool_calls"])),
        usage=USAGE,
        model="m",
        logprobs=tuple(token for delta in deltas for token in delta.logprobs),
    )
    return deltas, answer


def streamed(question: ChatQuestion, deltas: Sequence[TokenDelta], answer: Answer) -> bytes:
    writer = ChatCompletions().writer(question, BEGUN)
    return writer.begin() + writer.ping("in a queue") + writer.deltas(deltas) + writer.end(answer)


def assembled(stream: bytes) -> Any:
    """What OpenAI's SDK makes of a stream."""
    state: Any = ChatCompletionStreamState()
    for event in events_of(stream):
        state.handle_chunk(ChatCompletionChunk.model_validate(event))
    return state.current_completion_snapshot


QUESTION = read({"messages": [], "stream": True, "stream_options": {"include_usage": True}, "service_tier": "priority"})


@given(answers())
def test_a_stream_is_the_whole_answer(drawn: tuple[list[TokenDelta], Answer]) -> None:
    deltas, answer = drawn
    got = assembled(streamed(QUESTION, deltas, answer))
    whole = ChatCompletion.model_validate(json.loads(json.dumps(ChatCompletions().whole(QUESTION, BEGUN, answer))))
    (choice,), (expected,) = got.choices, whole.choices
    assert (choice.message.content or "") == answer.text == (expected.message.content or "")
    assert getattr(choice.message, "reasoning_content", "") == answer.reasoning
    assert [(call.id, call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()] == [
        (call.id, call.name, call.arguments) for call in answer.tool_calls
    ]
    assert choice.finish_reason == expected.finish_reason == answer.finish_reason
    assert (choice.logprobs and choice.logprobs.content) == (expected.logprobs and expected.logprobs.content)
    assert (got.id, got.model, got.created, got.service_tier) == (
        whole.id,
        whole.model,
        whole.created,
        whole.service_tier,
    )
    assert got.usage == whole.usage


def test_the_usage_comes_only_if_asked_for() -> None:
    answer = Answer(request_id=BEGUN.request_id, text="a", finish_reason="stop", usage=USAGE)
    plain = events_of(streamed(read({"messages": [], "stream": True}), [TokenDelta(text="a")], answer))
    assert all(event["choices"] and "usage" not in event for event in plain)
    *_, last = events_of(streamed(QUESTION, [TokenDelta(text="a")], answer))
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 7


def test_the_tier_is_the_one_that_the_request_had() -> None:
    """A caller that may not have the priority it asks for is told so."""
    answer = Answer(request_id=BEGUN.request_id, text="a")
    whole: Any = ChatCompletions().whole(QUESTION, BEGUN, answer)
    assert whole["service_tier"] == "flex"
    plain: Any = ChatCompletions().whole(read({"messages": []}), BEGUN, answer)
    assert "service_tier" not in plain


def test_a_failure_is_an_event_of_its_own() -> None:
    writer = ChatCompletions().writer(QUESTION, BEGUN)
    (event,) = events_of(writer.fail(Failure(503, "provider_down", "away", request_id="1" * 32)))
    assert event["error"]["code"] == "provider_down"
    assert event["error"]["request_id"] == "1" * 32

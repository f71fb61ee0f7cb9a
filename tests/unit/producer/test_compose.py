"""What is submitted for what an agent asks, and what is refused."""

from __future__ import annotations

import json
import re
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlane.producer.compose import (
    PAYLOAD_LIMIT_BYTES,
    Messages,
    compose,
    compose_command,
    compose_embed,
    refuse_unknown,
)
from tokenlane.producer.testing import MockPool
from tokenlane.routing.contract.envelope import Envelope, Needs
from tokenlane.routing.contract.errors import BadRequest
from tokenlane.routing.contract.prompt_size import estimated_tokens
from tokenlane.routing.contract.requests import ChatOptions, ChatRequest, Message
from tokenlane.routing.contract.wire import new_id


def composed(messages: object, role: str = "planner", **options: object) -> tuple[Envelope, ChatRequest]:
    """The envelope, and the request as the worker opens it."""
    request_id = new_id()
    envelope, payload = compose(
        request_id, cast("Messages", messages), role, cast("ChatOptions", options), agent="agent1", client="client1"
    )
    assert envelope.id == request_id
    return envelope, ChatRequest.model_validate_json(payload)


@pytest.mark.parametrize(
    ("field", "value", "facts"),
    [
        ("tools", {}, ("tools ", "a list", "dict")),
        ("tools", {"type": "function"}, ("tools ", "a list", "dict")),
        ("tools", ["SECRET"], ("tools.0 ", "a dict", "str")),
        ("stop", {"SECRET": 1}, ("stop ", "a string", "a list", "dict")),
        ("stop", [5], ("stop.0 ", "a string", "int")),
        ("max_tokens", "SECRET", ("max_tokens ", "a whole number", "str")),
        ("max_tokens", 1.5, ("max_tokens ", "a whole number", "float")),
        ("max_tokens", 0, ("max_tokens ", "at least 1")),
        ("temperature", "SECRET", ("temperature ", "a number", "str")),
        ("continue_final", "SECRET", ("continue_final ", "True or False", "str")),
        ("priority", "SECRET", ("priority ", "'high'", "'low'")),
        ("extra", ["SECRET"], ("extra ", "a dict", "list")),
        ("model", "", ("model ", "empty")),
        ("messages", [], ("messages ", "empty")),
        ("messages", ["SECRET"], ("messages.0 ", "a dict or a Message", "str")),
        ("messages", [{"role": "user", "content": 5}], ("messages.0.content ", "a string", "a list", "int")),
        ("messages", [{"content": "SECRET"}], ("messages.0.role ", "required")),
    ],
)
def test_a_value_of_the_wrong_shape(field: str, value: object, facts: tuple[str, ...]) -> None:
    """The error names the field once, what the field takes and the type that was given. It quotes no value."""
    with pytest.raises(BadRequest) as refused:
        composed(**cast("Any", {"messages": "hello", field: value}))
    said = str(refused.value)
    assert [fact for fact in facts if fact not in said] == []
    assert said.count(facts[0]) == 1
    assert "SECRET" not in said
    assert "Input should" not in said


def test_a_question_is_a_user_message() -> None:
    """Text alone is one message of the user."""
    envelope, request = composed("Name three primes.", model="m1", priority="high", time_to_live_ms=5)
    assert request.messages == [Message(role="user", content="Name three primes.")]
    assert request.id == envelope.id
    assert (envelope.client, envelope.agent, envelope.role) == ("client1", "agent1", "planner")
    assert (envelope.priority, envelope.time_to_live_ms, envelope.needs.model) == ("high", 5, "m1")


def test_messages_may_be_mappings() -> None:
    """Messages and mappings of their shape are the same."""
    messages = [{"role": "system", "content": "short"}, Message(role="user", content="hello")]
    _, request = composed(messages)
    assert [message.role for message in request.messages] == ["system", "user"]


@given(st.text(), st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.integers() | st.none(), max_size=3))
def test_text_arrives_byte_for_byte(text: str, extra: dict[str, object]) -> None:
    """Any text the wire can carry is the same in the worker."""
    _, request = composed(text, extra=extra)
    assert request.messages[0].content == text
    assert request.extra == extra


@given(st.integers(0, 3000), st.integers(1, 5000))
def test_size_class(length: int, max_tokens: int) -> None:
    """The size class is the next power of two of the estimate."""
    envelope, request = composed("x" * length, max_tokens=max_tokens)
    tokens = estimated_tokens(request) + max_tokens
    assert tokens > length // 4
    assert envelope.needs.size // 2 < tokens <= envelope.needs.size
    assert envelope.needs == Needs(size=envelope.needs.size)


def test_what_was_not_asked_is_not_sent() -> None:
    """The payload holds what the agent set, no defaults: those are the model server's."""
    _, payload = compose(new_id(), "hi", "planner", {"max_tokens": 3}, agent="a", client="c")
    assert json.loads(payload).keys() == {"id", "role", "messages", "max_tokens"}


@pytest.mark.parametrize(
    ("messages", "role", "options"),
    [
        ([], "planner", {}),
        ("hello", "no role!", {}),
        ("hello", "", {}),
        ([{"role": "secret", "content": "secret"}], "planner", {}),
        ([{"role": "user", "content": {"secret": 1}}], "planner", {}),
        ([{"role": "user", "content": [{"secret": object()}]}], "planner", {}),
        (["secret"], "planner", {}),
        ("\ud800secret", "planner", {}),
        ([{"role": "user", "content": "secret\udfff"}], "planner", {}),
        ([{"role": "user", "content": [{"type": "text", "text": "secret\udfff"}]}], "planner", {}),
        ([{"role": "user", "content": [{"secret\udfff": "text"}]}], "planner", {}),
        ("hello", "planner", {"temperature": "secret"}),
        ("hello", "planner", {"temperature": float("nan")}),
        ("hello", "planner", {"max_tokens": 0}),
        ("hello", "planner", {"time_to_live_ms": 0}),
        ("hello", "planner", {"logit_bias": {"secret": "secret"}}),
        ("hello", "planner", {"metadata": {"secret": "\udfff"}}),
        ("hello", "planner", {"model": ""}),
        ("hello", "planner", {"stop": ["secret\udfff"]}),
    ],
)
def test_what_is_wrong_is_refused_without_a_quote(messages: object, role: str, options: dict[str, object]) -> None:
    """A wrong request is a BadRequest that says where, and quotes nothing, nor does its chain of causes."""
    with pytest.raises(BadRequest) as refused:
        composed(messages, role, **options)
    assert refused.value.message
    chain: BaseException | None = refused.value
    while chain is not None:
        assert "secret" not in f"{chain!s}{chain!r}"
        chain = None if chain.__suppress_context__ else chain.__cause__ or chain.__context__


@pytest.mark.parametrize("model", ["", "secret\udfff", "secret" * 400, None, 7])
def test_a_model_that_cannot_be_one_is_refused(model: object) -> None:
    """A model's name that is empty, too long or no text is a BadRequest, before anything is sent."""
    with pytest.raises(BadRequest) as refused:
        compose_command({"action": "pull", "model": model}, agent="agent1", client="client1")
    assert "model" in refused.value.message
    assert "secret" not in str(refused.value)


def test_the_conversation_is_named_to_routers() -> None:
    """The envelope and the payload have its id; those of other requests have no field for it."""
    envelope, request = composed("hi", conversation="c-7")
    assert envelope.conversation == request.conversation == "c-7"
    envelope, request = composed("hi")
    assert b"conversation" not in envelope.to_wire() + request.to_wire()
    with pytest.raises(BadRequest):
        composed("hi", conversation="two words")


def test_the_size_limit_names_both_sizes() -> None:
    """A request over the limit is refused, and says how large it is and may be."""
    composed("x" * (PAYLOAD_LIMIT_BYTES - 200))
    with pytest.raises(BadRequest) as refused:
        composed("x" * PAYLOAD_LIMIT_BYTES)
    size, most = (int(number) for number in re.findall(r"\d+", refused.value.message))
    assert size > most == PAYLOAD_LIMIT_BYTES


def test_unknown_options_are_refused() -> None:
    """An option that does not exist is a TypeError that names those that do."""
    refuse_unknown({"max_tokens": 1}, ChatOptions)
    with pytest.raises(TypeError, match=r"'n'.*max_tokens"):
        refuse_unknown({"n": 2}, ChatOptions)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("respone_format", "response_format"),
        ("agnt", "agent"),
        ("tmperature", "temperature"),
        ("timeout", "time_to_live_ms"),
        ("stream", "client.chat"),
    ],
)
async def test_a_misspelt_option_of_a_chat(wrong: str, meant: str) -> None:
    """The error names the argument that the agent meant, whether it is one of the options or not."""
    async with MockPool() as pool, pool.client() as client:
        for call in (client.chat, client.complete):
            with pytest.raises(TypeError) as refused:
                await cast("Any", call)("hi", role="planner", **{wrong: 1})
            hint = str(refused.value).partition(" The options are: ")[0]
            assert f"'{wrong}'" in hint
            assert meant in hint


async def test_a_misspelt_option_of_an_embed_request() -> None:
    """The error offers only what embed requests have."""
    async with MockPool() as pool, pool.client() as client:
        for wrong, meant in (("timeout", "time_to_live_ms"), ("agnt", "agent"), ("stream", "'stream'")):
            with pytest.raises(TypeError, match=meant) as refused:
                await cast("Any", client.embed)("hi", role="indexer", **{wrong: 1})
            assert "client.chat" not in str(refused.value)
            assert "response_format" not in str(refused.value)


@pytest.mark.parametrize(
    ("tool", "field"),
    [
        ({"name": "secret"}, "tools.1.type"),
        ({"type": "secret", "function": {"name": "secret"}}, "tools.1.type"),
        ({"type": "function", "name": "secret"}, "tools.1.function"),
        ({"type": "function", "function": "secret"}, "tools.1.function"),
        ({"type": "function", "function": {"nme": "secret"}}, "tools.1.function.name"),
        ({"type": "function", "function": {"name": ["secret"]}}, "tools.1.function.name"),
        ({"type": "function", "function": {"name": ""}}, "tools.1.function.name"),
    ],
)
def test_a_tool_in_another_format_is_refused(tool: dict[str, object], field: str) -> None:
    """The error names the wrong field of the wrong tool, and quotes nothing."""
    right = {"type": "function", "function": {"name": "f", "strict": True, "x": 1}, "cache_control": {"type": "x"}}
    composed("hi", tools=[right, right])
    with pytest.raises(BadRequest) as refused:
        composed("hi", tools=[right, tool])
    assert field in re.findall(r"[\w.]+", refused.value.message)
    assert "secret" not in str(refused.value)


def test_what_a_request_shows_that_it_needs() -> None:
    """Tools, a schema and images are wishes of the envelope; an image's bytes are no tokens of text."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 400_000}}
    envelope, _ = composed(
        [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]}],
        tools=[{"type": "function", "function": {"name": "f"}}],
    )
    assert envelope.needs.can == ("tools", "vision")
    assert envelope.needs.size == 2048


@given(st.integers(0, 200_000))
def test_the_length_of_a_prompt_is_told_roughly(length: int) -> None:
    """A prompt's estimate is rounded up by a quarter at most; of a short one nothing is said."""
    envelope, request = composed("x" * length, max_tokens=1)
    tokens, told = estimated_tokens(request), envelope.needs.input
    assert told == 0 if tokens <= 1024 else tokens <= told <= 1.25 * tokens


def test_of_texts_to_embed_the_longest_must_fit() -> None:
    """An embed request is as long as its longest text, since each is embedded for itself."""
    asked = {"role": "indexer", "inputs": ["x" * 8000, *(["y"] * 1000)]}
    envelope, _ = compose_embed(asked, agent="a", client="c")
    assert (envelope.kind, envelope.needs.input) == ("embed", 2048)

"""What a plugin reads of a request, and what its output changes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tokenlane.routing.contract.requests import ChatRequest, Message
from tokenlane.worker.hooks.plugin_broken import PluginBroken
from tokenlane.worker.hooks.prompt_template import apply_output, prompt_input

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
ASKED = [
    {"role": "user", "content": "first"},
    {"role": "assistant", "content": "answer"},
    {"role": "user", "content": "second"},
    {"role": "assistant", "content": "beg"},
]


def request(*messages: dict[str, Any], **options: Any) -> ChatRequest:
    return ChatRequest(role="planner", messages=[Message.model_validate(message) for message in messages], **options)


def rendered(output: object, *messages: dict[str, Any]) -> list[tuple[str, object]]:
    changed = apply_output(json.dumps(output), request(*messages))
    return [(message.role, message.content) for message in changed.messages]


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


def test_a_plugin_reads_the_texts_and_the_metadata() -> None:
    """The system message, the last of the user's, and the metadata with any JSON in it. The agent's request stays."""
    asked = request(
        {"role": "system", "content": "Be kind."}, *ASKED, metadata={"day": "Monday", "n": {"a": [1, None]}}
    )
    before = asked.model_copy(deep=True)
    assert json.loads(prompt_input(asked, "m1")) == {
        "role": "planner",
        "model": "m1",
        "system": "Be kind.",
        "user": "second",
        "variables": {"day": "Monday", "n": {"a": [1, None]}},
    }
    apply_output('{"system": "x", "suffix": "y"}', asked)
    assert asked == before


@pytest.mark.parametrize(
    ("messages", "system", "user"),
    [
        ([{"role": "assistant", "content": "a"}], None, None),
        ([{"role": "developer", "content": "d"}], "d", None),
        ([{"role": "user", "content": "u"}, {"role": "system", "content": "later"}], None, "u"),
        ([{"role": "user", "content": [text("one"), IMAGE, text("two")]}], None, "one\ntwo"),
        ([{"role": "user", "content": [IMAGE]}], None, ""),
    ],
)
def test_which_texts_a_plugin_reads(messages: list[dict[str, Any]], system: str | None, user: str | None) -> None:
    read = json.loads(prompt_input(request(*messages), "m1"))
    assert (read["system"], read["user"], read["variables"]) == (system, user, {})


def test_nothing_changes_without_texts() -> None:
    for output in ({}, {"system": None, "suffix": None}, {"suffix": ""}):
        asked = request({"role": "system", "content": "s"}, *ASKED)
        assert apply_output(json.dumps(output), asked) == asked


@pytest.mark.parametrize("role", ["system", "developer"])
def test_the_system_message_is_replaced(role: str) -> None:
    messages: tuple[dict[str, Any], ...] = ({"role": role, "content": [text("old")]}, *ASKED)
    assert rendered({"system": "new"}, *messages)[:2] == [(role, "new"), ("user", "first")]
    assert rendered({"system": ""}, *messages)[0] == ("user", "first")


def test_a_system_message_is_added_where_there_is_none() -> None:
    assert rendered({"system": "new"}, *ASKED)[:2] == [("system", "new"), ("user", "first")]
    assert rendered({"system": ""}, *ASKED)[0] == ("user", "first")


def test_the_suffix_is_appended_to_the_users_last_message() -> None:
    """Wherever it stands: after it there may be the beginning of the answer, or results of tools."""
    assert rendered({"suffix": "!"}, *ASKED)[2:] == [("user", "second!"), ("assistant", "beg")]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([text("a"), text("b"), IMAGE], [text("a"), text("b!"), IMAGE]),
        ([IMAGE], [IMAGE, text("!")]),
        (None, "!"),
    ],
)
def test_the_suffix_of_a_message_with_parts(content: object, expected: object) -> None:
    assert rendered({"suffix": "!"}, {"role": "user", "content": content}) == [("user", expected)]


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("", "object"),
        ("secret", "object"),
        ("[]", "object"),
        ('{"suffixes": "secret"}', "object"),
        ('{"system": 3, "suffix": ["secret"]}', "a wrong suffix and system"),
        (json.dumps({"suffix": "x" * (1024 * 1024 + 1)}), "a wrong suffix"),
    ],
)
def test_nonsense_is_an_error_that_quotes_nothing(output: str, why: str) -> None:
    with pytest.raises(PluginBroken, match=why) as raised:
        apply_output(output, request(*ASKED))
    assert "secret" not in str(raised.value)


def test_what_does_not_fit_the_request_is_an_error() -> None:
    with pytest.raises(PluginBroken, match="user"):
        rendered({"suffix": "!"}, {"role": "system", "content": "s"})
    with pytest.raises(PluginBroken, match="only message"):
        rendered({"system": ""}, {"role": "system", "content": "s"})

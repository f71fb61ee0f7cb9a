"""docs/plugins.md shows the interface, the hash of the example, and what it reads and returns."""

from __future__ import annotations

import json
import tomllib
from importlib.resources import files

from tests.documents import GeneratedPart, fenced
from tests.repository import ROOT
from tests.unit.worker.hooks.plugins import BRIEF

from tokenlane.routing.contract.requests import ChatRequest, Message
from tokenlane.worker.hooks.prompt_plugins import digest_of
from tokenlane.worker.hooks.prompt_template import apply_output, prompt_input
from tokenlane.worker.hooks.sandbox import INTERFACE

PAGE = ROOT / "docs" / "plugins.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_page_has_the_interface() -> None:
    wit = files("tokenlane.worker.hooks").joinpath("prompt.wit").read_text(encoding="utf-8")
    assert GeneratedPart(PAGE, "wit").is_up_to_date(f"```wit\n{wit}```\n")
    package, name = INTERFACE.split("/")
    interface, version = name.split("@")
    assert f"package {package}@{version};" in wit
    assert f"interface {interface} {{" in wit
    assert INTERFACE in TEXT


def test_the_policy_on_the_page_names_the_example() -> None:
    _, policy = map(tomllib.loads, fenced("toml", TEXT))
    assert policy["roles"]["planner"]["prompt"]["plugin"] == digest_of(BRIEF)


def test_the_texts_on_the_page_are_right() -> None:
    """What a plugin reads is shown as a worker sends it, and what it returns can be applied."""
    read, returned = fenced("json", TEXT)
    messages = [Message(role="system", content="Today is $day."), Message(role="user", content="What is next?")]
    asked = ChatRequest(role="planner", messages=messages, metadata={"day": "Monday"})
    assert json.loads(prompt_input(asked, "phi3")) == json.loads(read)
    system, user = apply_output(returned, asked).messages
    assert (system.content, user.content) == ("Today is Monday.", "What is next?\n\nAnswer in one sentence.")

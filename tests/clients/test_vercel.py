"""Vercel's AI SDK, from npm."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from shutil import copy, which

import pytest
from tests.clients.behind import NPM, Door

PROGRAM = Path(__file__).with_name("vercel.mjs")
ANSWER = {"text": "w0 w1 w2", "tokens": 3, "finish": "stop"}


@pytest.mark.skipif(
    which("node") is None or not NPM.exists(), reason="needs node and what `make test-clients` installs"
)
@pytest.mark.parametrize("api", ["compatible", "chat", "responses", "messages"])
def test_vercel(api: str, door: Door) -> None:
    """Through each of its providers it streams, calls a tool, gets an object, and is told of a missing model."""
    program = copy(PROGRAM, NPM)  # beside the packages, where node looks for them
    ended = subprocess.run(["node", program, api, door.url, door.key], capture_output=True, text=True, timeout=150)
    assert ended.returncode == 0, ended.stderr
    came = dict(map(json.loads, ended.stdout.splitlines()))
    assert came == {
        "whole": ANSWER,
        "stream": ANSWER,
        "tools": {"text": "w0 w1 w2", "calls": [{"a": 1}]},
        "object": {"a": 1},
        "reasoning": {"text": "w0 w1 w2", "reasoned": api != "chat"},  # OpenAI's chats show none
        "missing": {"status": 404},
        "abort": {"left": True},
    }

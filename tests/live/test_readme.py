"""Runs the commands and code of the README and the pages as they are written; only the places they name differ."""

from __future__ import annotations

import asyncio
import html
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.documents import PAGES_WITH_COMMANDS, SKIPPED, commands_of, fenced
from tests.repository import ROOT

from tokenlane.benches.simulator import Simulator
from tokenlane.worker.builtin import MODEL_NAME
from tokenlane.worker.builtin.server import builtin_server

from .commands import Command, running, surroundings

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]

README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent
PLACES = {"http://localhost:8000": "ENDPOINT", "11434": "PORT"}
OLLAMA = "tokenlane worker --lane ollama0 --provider ollama --endpoint"
"""The lane on which the pages pull models."""
STAYING = {
    "tokenlane up": "Stop:  Ctrl-C",
    "tokenlane worker --lane": "lane      gpu0",
    "tokenlane simulate": '{"url"',
    "tokenlane router": "until Ctrl-C",
    "tokenlane dashboard": "page ",
    "tokenlane serve": "gateway ",
    "arq ": "Starting worker for",
}


def page(name: str) -> str:
    """A page of the documentation, or the README."""
    return README if name == "README.md" else (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """All commands of the README's console blocks, then of the pages', in order, each once."""
    commands = [command for name in PAGES_WITH_COMMANDS for command in commands_of(page(name))]
    return [command for command in dict.fromkeys(commands) if not command.startswith(SKIPPED)]


@pytest_asyncio.fixture
async def endpoint(model_file: Path) -> AsyncIterator[str]:
    """A model server like the one of a GPU host."""
    async with builtin_server(model_file, 2) as endpoint:
        yield endpoint


@pytest.fixture
def up(home: Path) -> Iterator[Command]:
    """`tokenlane up`, running."""
    with running("up", home=home) as up:
        up.says("Stop:  Ctrl-C")
        yield up


def run(command: str, home: Path, endpoint: str) -> Command:
    """Start one of the README's commands."""
    redis = f"unix://{home}/redis/redis.sock?db=0"
    ours = {"ENDPOINT": endpoint, "PORT": "0"}
    for theirs, place in PLACES.items():
        command = command.replace(theirs, shlex.quote(ours[place]))
    settings = {"PATH": f"{BIN}:/usr/bin:/bin"}
    if not command.startswith("tokenlane up"):
        settings["TOKENLANE_REDIS_URL"] = redis
    if command.startswith("arq "):
        settings |= {"TOKENLANE_LANE": "arq0", "TOKENLANE_PROVIDER": "llamacpp", "TOKENLANE_ENDPOINT": endpoint}
    # The shell becomes the command, so that a signal reaches it.
    shell = command if "|" in command else f"exec {command}"
    return Command(["sh", "-c", shell], surroundings(home, **settings), folder=home)


async def test_every_command_works(home: Path, endpoint: str) -> None:
    """All commands of the documentation succeed, in their order; those that stay end with 0 when interrupted."""
    (home / "ops.toml").write_text(fenced("toml", page("policy"))[0], encoding="utf-8")
    (home / "faults.toml").write_text(fenced("toml", page("simulator"))[0], encoding="utf-8")
    (home / "lines.txt").write_text("a kitten\na young cat\n", encoding="utf-8")
    staying: list[Command] = []
    async with Simulator(api="ollama", pullable=["qwen3:8b"]) as ollama:
        try:
            for line in commands():
                if line == "tokenlane models ls":
                    staying.append(run(f"{OLLAMA} {ollama.url}", home, endpoint))
                    await asyncio.to_thread(staying[-1].says, "lane      ollama0")
                command = run(line, home, endpoint)
                awaited = next((text for start, text in STAYING.items() if line.startswith(start)), None)
                if awaited is not None:
                    staying.append(command)
                    await asyncio.to_thread(command.says, awaited)
                    continue
                try:
                    assert await asyncio.to_thread(command.ends) == 0, f"{line}\n{command.output}"
                finally:
                    command.kill()
                assert command.output.strip()
            assert len(staying) == len(STAYING) + 1
            for command in reversed(staying):
                command.process.send_signal(signal.SIGINT)
                assert await asyncio.to_thread(command.ends) == 0, command.output
        finally:
            for command in staying:
                command.kill()


def test_the_python_example_works(home: Path, up: Command) -> None:
    """The README's Python streams an answer and prints another."""
    (example,) = fenced("python", README)
    redis = f"unix://{home}/redis/redis.sock?db=0"
    script = example.replace('"redis://:PASSWORD@gpu-hub:6379", key="tlk1-…"', repr(redis))
    command = Command([sys.executable, "-c", script], surroundings(home))
    try:
        assert command.ends() == 0, command.output
    finally:
        command.kill()
    assert "completion_tokens" in command.output


def test_the_recording_shows_what_up_prints(up: Command) -> None:
    """The lines of the README's terminal session that are the same on every host, and with `--provider builtin`."""
    picture = (ROOT / "docs" / "pictures" / "session.svg").read_text(encoding="utf-8")
    recorded = [html.unescape(re.sub(r"<.*?>", "", line)) for line in re.findall(r"<text.*?</text>", picture)]
    same = [line for line in recorded if line.startswith(("model ", "Ask:", "Stop:"))]
    assert len(same) == 3
    assert MODEL_NAME in same[0]
    assert [line for line in same if line not in up.output] == []


def test_the_readme_is_short() -> None:
    """It has at most 900 words, code and the borders of tables aside."""
    text = re.sub(r"^    .*$|^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    assert len([word for word in text.split() if word.strip("|-:")]) <= 900


def test_the_two_first_commands_are_those_of_the_makefile() -> None:
    """`make run` and `make test` are what the README begins with, and the Makefile has them."""
    makefile = (ROOT / "Makefile").read_text()
    for verb in ("run", "test"):
        assert f"$ make {verb} " in README
        assert re.search(rf"^{verb}:", makefile, re.MULTILINE)

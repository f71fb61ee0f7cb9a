"""`tokenlane launch` as people run it, with a program that stands for the coding agent."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from tests.integration.producer.commands.test_chat import chat, ended
from tests.integration.stand_in import StandIn

from tokenlane.config import exit_codes as exits

AIDER = f"""#!{sys.executable}
import json, os, sys, urllib.request
body = json.dumps({{"model": sys.argv[2].removeprefix("openai/"), "messages": [{{"role": "user", "content": "hi"}}]}})
url = os.environ["OPENAI_API_BASE"] + "/chat/completions"
key = {{"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}}
with urllib.request.urlopen(urllib.request.Request(url, body.encode(), key)) as answer:
    print(json.load(answer)["choices"][0]["message"]["content"], sys.argv[-1])
sys.exit(7)
"""


def installed(directory: Path, content: str) -> str:
    """Install a program `aider`. Returns a PATH in which it is found."""
    program = directory / "aider"
    program.write_text(content)
    program.chmod(0o755)
    return f"{directory}{os.pathsep}{os.environ['PATH']}"


async def test_a_coding_agent_asks_the_pool(redis_url: str, worker: StandIn, tmp_path: Path) -> None:
    """It gets a gateway of its own, the user's arguments, and its exit code is the command's."""
    path = installed(tmp_path, AIDER)
    arguments = ("aider", "--role", "planner", "--redis", redis_url, "--", "--yes")
    async with chat(*arguments, verb="launch", PATH=path) as process:
        run = await worker.next_run()
        assert run.envelope.role == "planner"
        await run.say("42")
        await run.complete()
        code, output, _ = await ended(process)
    assert (code, output) == (7, "42 --yes\n")


async def test_a_stopped_command_stops_the_coding_agent(redis_url: str, tmp_path: Path) -> None:
    path = installed(tmp_path, f"#!{sys.executable}\nimport time\nprint('up', flush=True)\ntime.sleep(600)\n")
    async with chat("aider", "--redis", redis_url, verb="launch", PATH=path) as process:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            assert await process.stdout.readline() == b"up\n"
        process.terminate()
        code, _, _ = await ended(process)
    assert code == 128 + 15


async def test_a_program_that_is_not_installed_is_named(redis_url: str) -> None:
    async with chat("opencode", "--redis", redis_url, verb="launch", PATH="/usr/bin:/bin") as process:
        code, _, error = await ended(process)
    assert code == exits.USAGE
    assert "opencode" in error

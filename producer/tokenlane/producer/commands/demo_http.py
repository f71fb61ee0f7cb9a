"""The demo over HTTP: curl and OpenAI's own client ask the pool through a gateway, as far as they are installed."""

from __future__ import annotations

import asyncio
import json
import shlex
import shutil
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec

from tokenlane.config.cli.output import note
from tokenlane.config.cli.plain_text import one_line
from tokenlane.config.extras import install_advice
from tokenlane.config.host.child_processes import start_or_kill, wait_or_kill

_QUESTION = "Say hello."
_TOKENS = 16
_WITHIN_S = 60.0
_STOP_S = 10.0
_OPENAI = """\
from openai import OpenAI
client = OpenAI(base_url={url!r}, api_key="none")
messages = [{{"role": "user", "content": {question!r}}}]
answer = client.chat.completions.create(model="role:planner", messages=messages, max_tokens={tokens})
print(answer.choices[0].message.content)
"""


async def demo_http(redis: str, pool: str) -> bool:
    """Serve a pool over HTTP, and have two clients ask. Returns whether all answered."""
    if find_spec("uvicorn") is None or find_spec("starlette") is None:
        note(f"Over HTTP: {install_advice('gateway')}, and `tokenlane serve` serves the APIs of OpenAI and Anthropic.")
        return True
    async with _gateway("--port", "0", "--redis", redis, "--pool", pool) as url:
        if url is None:
            return False
        note("Over HTTP, as `tokenlane serve` does:\n")
        body = {"model": "role:planner", "messages": [{"role": "user", "content": _QUESTION}], "max_tokens": _TOKENS}
        curl = ("curl", "--silent", "--fail-with-body", f"{url}/chat/completions", "--data", json.dumps(body))
        results = [await _run("curl", shlex.join(curl), *curl)] if shutil.which("curl") else []
        if find_spec("openai") is not None:
            code = _OPENAI.format(url=url, question=_QUESTION, tokens=_TOKENS)
            results.append(await _run("OpenAI's client", code, sys.executable, "-c", code))
    return all(results)


@asynccontextmanager
async def _gateway(*options: str) -> AsyncIterator[str | None]:
    """Run `tokenlane serve`. Yields its base URL, or None if it exits."""
    process = await start_or_kill(
        asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tokenlane.config", "serve", *options), stdout=PIPE, start_new_session=True
        )
    )
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        yield line.split()[-1] if line.split() else None
    finally:
        if process.returncode is None:
            process.terminate()
        await wait_or_kill(process, _STOP_S)


async def _run(name: str, shown: str, *command: str) -> bool:
    """Show a command, run it, and show what it printed. Returns whether it succeeded."""
    for line in shown.rstrip().split("\n"):
        note(f"  {line}")
    process = await start_or_kill(asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE))
    try:
        async with asyncio.timeout(_WITHIN_S):
            output, errors = await process.communicate()
    finally:
        await wait_or_kill(process, 1)
    text = output.decode(errors="replace") + (errors.decode(errors="replace") if process.returncode else "")
    note(f"    {one_line(text.strip())[:500]}\n")
    if process.returncode:
        note(f"tokenlane: {name} failed", err=True)
    return process.returncode == 0

"""The simulated model server as a process of its own, steered over HTTP."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.errors import RateLimited
from tokenlane.routing.contract.requests import ChatRequest, Message
from tokenlane.worker.providers import LlmProvider, default_registry

COMMAND = (sys.executable, "-c", "from tokenlane.config.cli.root import main; main()", "simulate")
HOLD: dict[str, object] = {"simulate": {"hold_after": 2}}


@pytest.mark.parametrize(
    "wrong",
    [("--port", "99999"), ("--port", "{taken}"), ("--tokens", "-1"), ("--capacity", "0"), ("--models", " ")],
)
async def test_what_it_cannot_imitate(wrong: tuple[str, str]) -> None:
    """Numbers out of range, a taken port and no model are refused with code 2, by the option's name."""
    option, value = wrong
    with socket.create_server(("127.0.0.1", 0)) as taken:
        value = value.format(taken=taken.getsockname()[1])
        process = await asyncio.create_subprocess_exec(*COMMAND, option, value, stderr=asyncio.subprocess.PIPE)
        async with asyncio.timeout(20):
            _, said = await process.communicate()
    assert process.returncode == 2, said.decode()
    assert option in said.decode()
    assert b"Traceback" not in said


@asynccontextmanager
async def simulating(*arguments: str) -> AsyncIterator[str]:
    """The URL of `tokenlane simulate` with these arguments."""
    process = await asyncio.create_subprocess_exec(*COMMAND, *arguments, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            url: str = json.loads(await process.stdout.readline())["url"]
        yield url
        process.terminate()
        async with asyncio.timeout(20):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def answer(provider: LlmProvider, extra: dict[str, object]) -> list[TokenDelta]:
    chat = ChatRequest.model_validate({"role": "r", "messages": [Message(role="user", content="q")], "extra": extra})
    return [delta async for delta in provider.chat(chat, "sim")]


async def test_faults_holding_and_the_log(tmp_path: Path) -> None:
    """Scripted faults come in order; a held answer is released, or found disconnected in the log."""
    faults = tmp_path / "faults.toml"
    faults.write_text('[[fault]]\nstatus = 429\nretry_after = "1"\n')
    async with (
        simulating("--api", "llamacpp", "--tokens", "3", "--capacity", "1", "--faults", str(faults)) as url,
        default_registry().create(LaneSettings("gpu0", "openai", url)) as provider,
        httpx.AsyncClient(base_url=url, timeout=30) as control,
        asyncio.TaskGroup() as group,
    ):
        with pytest.raises(RateLimited):
            await answer(provider, {})
        released = group.create_task(answer(provider, HOLD))
        await control.get("/simulator/wait", params={"held": 1})
        slots = (await control.get("/slots")).json()
        assert [(slot["is_processing"], slot["request"]) for slot in slots] == [(True, 1)]
        assert (await control.post("/simulator/release")).status_code == 204
        assert len(await released) == 4
        dropped = group.create_task(answer(provider, HOLD))
        await control.get("/simulator/wait", params={"held": 1})
        dropped.cancel()
        log = (await control.get("/simulator/wait", params={"ended": 3})).json()
        assert [(entry["ended"], entry["sent"]) for entry in log] == [
            ("refused", 0),
            ("completed", 3),
            ("disconnected", 2),
        ]
        assert json.loads(log[1]["body"])["messages"] == [{"role": "user", "content": "q"}]
        assert not (await control.get("/slots")).json()[0]["is_processing"]


async def test_requests_over_capacity_wait() -> None:
    """With one slot the second answer begins when the first has ended."""
    async with (
        simulating("--api", "llamacpp", "--capacity", "1", "--tokens", "1") as url,
        default_registry().create(LaneSettings("gpu0", "llamacpp", url)) as provider,
        httpx.AsyncClient(base_url=url, timeout=30) as control,
    ):
        assert await provider.capacity() == 1
        first = asyncio.create_task(answer(provider, {"simulate": {"hold_after": 0}}))
        await control.get("/simulator/wait", params={"held": 1})
        second = asyncio.create_task(answer(provider, {}))
        await control.get("/simulator/wait", params={"received": 2})
        assert [entry["sent"] for entry in (await control.get("/simulator/log")).json()] == [0, 0]
        await control.post("/simulator/release", params={"index": 0})
        assert len(await first) == len(await second) == 2


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "f.toml",
            "[[fault]]\nstatus = 200\n\n[[fault]]\ncut_aftr = 1\n",
            "line 5: unknown key 'cut_aftr'.",
        ),
        ("f.json", '[{\n "nosuch": 1}]', "line 2: unknown key 'nosuch'. Allowed: answers_as, "),
        ("none.toml", None, "cannot be read"),
    ],
)
async def test_wrong_faults_are_refused(tmp_path: Path, name: str, text: str | None, said: str) -> None:
    """A file that holds no faults ends the command with a usage error that says where and what is allowed."""
    file = tmp_path / name
    if text is not None:
        file.write_text(text)
    process = await asyncio.create_subprocess_exec(*COMMAND, "--faults", str(file), stderr=asyncio.subprocess.PIPE)
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert f"{file}" in errors.decode()
    assert said in errors.decode()
    assert b"Traceback" not in errors

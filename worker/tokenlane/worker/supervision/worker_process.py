"""Runs a worker process of `tokenlane up`: starts it, restarts it if it dies, and drains it at the end."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from tokenlane.config.cli.output import note
from tokenlane.config.cli.plain_text import json_text, one_line
from tokenlane.config.cli.sentences import joined, sentence
from tokenlane.config.exit_codes import FAILED, OK
from tokenlane.config.host.child_processes import start_or_kill, wait_or_kill
from tokenlane.config.settings.values import LaneSettings, RedisSettings
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.store.pool import connect
from tokenlane.worker.run_and_drain import DRAIN_S

_RESTART_AFTER_S = 1.0
_KILL_AFTER_S = 15.0
_REQUEUE_S = 2.0


Report = Callable[..., None]
"""The function `report` with `as_json` already set."""


def report(event: str, text: str, *, as_json: bool, **facts: object) -> None:
    """Print a step of `tokenlane up`: the text, or the facts as a JSON line."""
    if as_json:
        note(json_text({"event": event, **facts}))
    elif text:
        note(text)


class WorkerProcess:
    """A worker process of one lane. It lives as long as `run` runs.

    Args:
        unready: the names of the lanes that are not ready yet. The workers of all lanes share this set.
        report: prints a step of `tokenlane up`.
        llm: the value of the environment variable TOKENLANE_LLM.
    """

    def __init__(
        self, settings: LaneSettings, redis: RedisSettings, pool: str, report: Report, unready: set[str], llm: str
    ) -> None:
        self._settings = settings
        self._report = report
        self._unready = unready
        self._was_ready = False
        self._redis, self._pool = redis, pool
        self._name: str | None = None  # of the running process, in the pool
        command = [sys.executable, "-m", "tokenlane.config", "worker", "--json", "--supervised", "--pool", pool]
        command += ["--lane", settings.name, "--provider", settings.provider]
        command += ["--capacity", str(settings.capacity)] if settings.capacity else []
        command += [part for model in settings.models for part in ("--model", model)]
        self._command = command
        # URLs may hold passwords, so they are not arguments, which process lists show. The worker gets the path of a
        # key file, not the keys, so that it can read the file again when it changes.
        self._environment = {
            **os.environ,  # noqa: TID251 - passed on, not read
            "TOKENLANE_REDIS__URL": redis.url,
        }
        for variable in ("TOKENLANE_POOL_KEY", "TOKENLANE_REDIS__KEY_FILE"):
            self._environment.pop(variable, None)
        if redis.keys.file:
            self._environment["TOKENLANE_REDIS__KEY_FILE"] = str(redis.keys.file)
        elif redis.keys.keys:
            self._environment["TOKENLANE_POOL_KEY"] = redis.keys.reveal()
        if settings.endpoint:  # this variable overrides all others, and its last value overrides the values before it
            endpoint = shlex.quote(f"endpoint={settings.endpoint}")
            self._environment["TOKENLANE_LLM"] = f"{llm} {endpoint}"

    async def run(self) -> int:
        """Keep the process running until cancelled, then drain it. Returns its exit code if it was never ready."""
        while True:
            code = await self._run_once()
            if not self._was_ready:
                return code or FAILED
            note(f"tokenlane: the worker exited with code {code}; restarting it", err=True)
            await asyncio.sleep(_RESTART_AFTER_S)

    async def _run_once(self) -> int:
        process = await start_or_kill(
            asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=self._environment,
                start_new_session=True,  # so that the terminal's Ctrl-C reaches only this process, which drains it
            )
        )
        try:
            await self._read(process)
            return await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()
            await wait_or_kill(process, DRAIN_S + _KILL_AFTER_S)
            if process.returncode != OK:
                await self._requeue_its_work()

    async def _requeue_its_work(self) -> None:
        """Requeue the dead worker's requests at once. If that fails, they are requeued when their leases lapse."""
        name, self._name = self._name, None
        if name is None:
            return
        with suppress(LlmError, TimeoutError):
            async with asyncio.timeout(_REQUEUE_S), connect(self._redis.url, self._pool) as pool:
                await pool.beats.bury(name)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in _lines(process.stdout):
            try:
                facts = json.loads(line)
            except ValueError:  # a line that a library printed
                continue
            if isinstance(facts, dict) and facts.get("event") in ("ready", "waiting"):
                self._ready(facts)

    def _ready(self, facts: dict[str, Any]) -> None:
        was_ready_before, self._was_ready = self._was_ready, True
        self._name = facts["worker"]
        event = facts.pop("event")
        text = f"lane    {facts['lane']}, "
        text += f"{facts['capacity']} at once" if event == "ready" else "waiting for its model server"
        facts["problems"] = self._problems(facts, waits=event == "waiting")
        text += "".join(f"\nproblem {problem}" for problem in facts["problems"])
        self._unready.discard(self._settings.name)
        if not was_ready_before and not self._unready:
            text += '\n\nAsk:   tokenlane chat "Name three primes." --role planner\nStop:  Ctrl-C\n'
        self._report(event, text, **facts)

    def _problems(self, facts: dict[str, Any], *, waits: bool) -> list[str]:
        """The lane's problems. Each is one line that names the model server and the next step."""
        models = f", for {', '.join(self._settings.models)}" if self._settings.models else ""
        server = f"{facts['provider']} at {facts['endpoint']}{models}"
        effect = "Requests wait until it works" if waits else "The lane accepts requests all the same"
        next_step = f"{effect}; `tokenlane probe` shows which model servers answer."
        remarks = [_text(remark) for remark in facts["remarks"]]
        return [
            one_line(" ".join([*map(sentence, [f"{server}: {_text(problem)}", *remarks]), next_step]))
            for problem in facts["problems"]
        ]


def _text(finding: dict[str, str]) -> str:
    return joined(finding["found"], finding["advice"])


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The stream's lines. A line that is longer than the stream's buffer is skipped."""
    while True:
        try:
            line = await stream.readline()
        except ValueError:
            continue
        if not line:
            return
        yield line

"""Pulls and verifies model files on the worker's host, in a child process that can be killed at any moment."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, ClassVar, Literal

from pydantic_core import from_json

from tokenlane.config.host.child_processes import Child, spawn
from tokenlane.config.host.up_registry import data_dir
from tokenlane.routing.contract.errors import ErrorReport, LlmError, ProviderDown
from tokenlane.routing.contract.results import Progress
from tokenlane.worker.providers.http.provider import HttpProvider

_END_S = 2.0


class HubModels(HttpProvider):
    """Pulls repositories of the Hugging Face hub (or of HF_ENDPOINT) into this host's hub cache, and verifies them.

    A model is named `OWNER/NAME` or `OWNER/NAME@REVISION`. Its digest covers all its files: see `Manifest.digest`.
    """

    kind: ClassVar[Literal["hub", "gguf"]] = "hub"
    """`hub`: a model is a repository. `gguf`: a model is one GGUF file in a repository, at a URL or in a package."""

    async def pull(self, model: str) -> AsyncGenerator[Progress, None]:
        """Download the model; see `Pulls.pull`. The last step names the path of its files."""
        last = Progress(step="asking the hub")
        yield last
        async with aclosing(self._files("pull", model)) as lines:
            async for line in lines:
                if "done" in line:
                    yield last.model_copy(update={"step": f"stored in {line['path']}"})
                else:
                    last = Progress.model_validate(line)
                    yield last

    async def verify(self, model: str) -> str:
        """The digest of the model's files, computed by reading all of them; see `Verifies.verify`."""
        async with aclosing(self._files("verify", model)) as lines:
            async for line in lines:
                if "done" in line:
                    return str(line["done"])
        raise AssertionError("the process always reports how it ended")

    async def _files(self, action: Literal["pull", "verify"], model: str) -> AsyncGenerator[dict[str, Any], None]:
        """Run the child process, and yield the lines that it prints.

        Raises:
            LlmError: the child process reported this error, or was killed.
        """
        command = (
            sys.executable,
            "-m",
            "tokenlane.worker.model_management.files",
            action,
            self.kind,
            data_dir(),
            model,
        )
        child = await spawn(*command, output=asyncio.subprocess.PIPE, errors=asyncio.subprocess.DEVNULL)
        ending = asyncio.create_task(_end_with(child), name="tokenlane files")
        assert child.process.stdout is not None
        try:
            with self._naming_lane(model):
                async for text in child.process.stdout:
                    line = from_json(text)
                    if "error" in line:
                        raise LlmError.from_report(ErrorReport.model_validate(line["error"]))
                    yield line
                    if "done" in line:
                        return
                raise ProviderDown("The process that downloads the files was killed: pull again to resume.")
        finally:
            ending.cancel()
            await asyncio.wait({ending})
            await child.end(_END_S)
            # To its end, which closes the pipe: an event loop of uvloop cannot be closed while a pipe is open.
            await child.process.stdout.read()


async def _end_with(child: Child) -> None:
    """End the child's guard process when the child has ended, since under uvloop the guard keeps the output pipe
    open."""
    await child.process.wait()
    await child.end(0)

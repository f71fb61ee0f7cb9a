"""What LM Studio is told to do with models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any, ClassVar

from pydantic_core import from_json

from tokenlane.routing.contract.errors import LlmError, ModelNotFound, ProviderDown, Timeout
from tokenlane.routing.contract.results import Progress

from .provider import OpenAiProvider

POLL_S = 0.5
STALL_S = 900.0
"""Without a byte more. It checks a large model in silence, and has been seen to hang at that."""
LOAD_S = 900.0
MAX_BODY_BYTES = 1024 * 1024
_DOWNLOAD = "/api/v1/models/download"
_OVER = ("completed", "already_downloaded")


class LmStudioModels(OpenAiProvider):
    """Pulls, loads and unloads. It checks what it downloads, and tells nobody what a model's hash is.

    A download is a job of its own that cannot be cancelled: pulling again joins it.
    """

    instead: ClassVar[Mapping[str, str]] = {
        "verify": "it tells no digest; compare the files under ~/.lmstudio/models with their publisher's hashes",
    }

    async def pull(self, model: str) -> AsyncGenerator[Progress, None]:
        """Fetch the model, named as in its catalogue or by its URL at Hugging Face; see `Pulls.pull`."""
        clock = asyncio.get_running_loop().time
        job = await self._do(_DOWNLOAD, {"model": model}, model)
        moved, moved_at = -1, clock()
        while True:
            state, done = str(job.get("status", "")), int(job.get("downloaded_bytes") or 0)
            if state in _OVER:
                yield Progress(step="success", done_bytes=_total(job) or done, total_bytes=_total(job))
                return
            if state not in ("downloading", "paused") or "job_id" not in job:
                raise self._told(
                    ProviderDown(
                        f"LM Studio's download ended as {state[:32]!r}: see its own window for why.", retryable=False
                    ),
                    model,
                )
            if done != moved:
                moved, moved_at = done, clock()
            elif clock() - moved_at > STALL_S:
                raise self._told(
                    Timeout(
                        f"LM Studio's download did not move for {STALL_S:g} s: restart LM Studio, and pull again.",
                        retryable=False,
                    ),
                    model,
                )
            yield Progress(step=state, done_bytes=done, total_bytes=_total(job))
            await asyncio.sleep(POLL_S)
            job = {**job, **await self._do(f"{_DOWNLOAD}/status/{job['job_id']}", None, model)}

    async def load(self, model: str) -> None:
        """Load the model unless it is; see `Loads.load`. Loading it twice would make a second instance."""
        if not await self._instances(model):
            await self._do("/api/v1/models/load", {"model": model}, model, within_s=LOAD_S)

    async def unload(self, model: str) -> None:
        """Unload all instances of the model; see `Loads.unload`."""
        for instance in await self._instances(model):
            await self._do("/api/v1/models/unload", {"instance_id": instance}, model)

    async def _instances(self, model: str) -> list[str]:
        """The ids under which the model is loaded."""
        page = await self._page("/api/v1/models")
        try:
            for entry in page["models"]:
                if entry["key"] == model:
                    return [str(instance["id"]) for instance in entry.get("loaded_instances") or ()]
        except (KeyError, TypeError, AttributeError):
            raise self._no_page("/api/v1/models") from None
        raise self._told(ModelNotFound("LM Studio does not have this model: pull it first."), model)

    async def _do(self, path: str, question: object, model: str, *, within_s: float = 30.0) -> dict[str, Any]:
        """Ask for something to be done; what it says. It answers 200 to any path, so the page must say something."""
        try:
            response, body = await self._exchange(path, question, within_s, MAX_BODY_BYTES)
            if response.status_code != 200:
                raise self._refused(response, body)
            page = self._object(path, body)
            error = page.get("error")
            if isinstance(error, dict) and error.get("type") == "model_not_found":
                raise ModelNotFound(
                    "LM Studio knows no such model: name it as its catalogue does, or by its URL.",
                    detail=str(error.get("message", ""))[:2048],
                )
            if error is not None:
                raise ProviderDown(
                    "LM Studio could not do it: see the detail for what it says.",
                    retryable=False,
                    detail=str(error)[:2048],
                )
            return page
        except LlmError as error:
            raise self._told(error, model) from None

    def _object(self, path: str, body: bytes) -> dict[str, Any]:
        try:
            page = from_json(body)
        except ValueError:
            page = None
        if not isinstance(page, dict):
            raise self._no_page(path)
        return page

    def _told(self, error: LlmError, model: str) -> LlmError:
        return error.at(provider=self._lane.provider, lane=self._lane.name, model=model)


def _total(job: Mapping[str, Any]) -> int | None:
    total = job.get("total_size_bytes")
    return int(total) if isinstance(total, int) else None

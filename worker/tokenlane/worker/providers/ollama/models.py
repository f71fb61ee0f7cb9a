"""Pulls, verifies, loads and unloads models on Ollama."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from tokenlane.routing.contract.errors import DigestMismatch, Interrupted, LlmError, ModelNotFound, ProviderDown
from tokenlane.routing.contract.results import Progress
from tokenlane.worker.providers.http.provider import HttpProvider

from .names import full_name

STALL_S = 900.0
"""The longest wait for progress of a pull. Ollama reports none while it verifies a large model."""
LOAD_S = 900.0
KEEP_LOADED = -1
"""Ollama's value for "for ever": the model stays loaded until it is unloaded or Ollama needs its memory."""
MAX_STATUS = 64


class OllamaModels(HttpProvider):
    """Pulls, verifies, loads and unloads models. Ollama checks its downloads, and resumes interrupted ones."""

    async def pull(self, model: str) -> AsyncGenerator[Progress, None]:
        """Download the model; see `Pulls.pull`."""
        layers: dict[str, tuple[int, int]] = {}
        done = False
        with self._naming_lane(model):
            async with aclosing(self._lines("/api/pull", {"model": model}, STALL_S)) as lines:
                async for line in lines:
                    if "error" in line:
                        raise _not_pulled(str(line["error"]))
                    status = str(line.get("status", ""))[:MAX_STATUS]
                    done = done or status == "success"
                    if "digest" in line and "total" in line:
                        layers[line["digest"]] = (int(line.get("completed") or 0), int(line["total"]))
                    yield _progress(status, layers)
            if not done:
                raise Interrupted("Ollama interrupted the pull: pull again to resume it.", retryable=True)

    async def verify(self, model: str) -> str:
        """The digest of the model's manifest, which lists the digests of the model's layers. Ollama checked the layers
        when it downloaded them."""
        document = await self._request_json("/api/tags")
        with self._expecting("/api/tags"):
            digests = {full_name(entry["name"]): str(entry["digest"]) for entry in document["models"] or ()}
        digest = digests.get(full_name(model))
        if digest is None:
            with self._naming_lane(model):
                raise ModelNotFound("Ollama does not have this model: pull it first.")
        return f"sha256:{digest.removeprefix('sha256:')}"

    async def load(self, model: str) -> None:
        """Load the model and keep it; see `Loads.load`."""
        await self._keep(model, KEEP_LOADED)

    async def unload(self, model: str) -> None:
        """Free the model's memory; see `Loads.unload`."""
        await self._keep(model, 0)

    async def _keep(self, model: str, keep_alive: int) -> None:
        # Without a prompt, Ollama only loads or unloads the model. This works for embedding models too.
        # `shift` must have the same value as in chats: a chat with another value would reload the model.
        question = {"model": model, "keep_alive": keep_alive, "stream": False, "shift": False}
        await self._request_json("/api/generate", question, model=model, timeout_s=LOAD_S)


def _not_pulled(words: str) -> LlmError:
    if "file does not exist" in words or "not found" in words:
        return ModelNotFound("Ollama cannot find this model in its registry: check the name and tag.", detail=words)
    if "digest mismatch" in words:
        return DigestMismatch("Ollama's download does not match the registry's digest: pull again.", detail=words)
    return ProviderDown(
        "Ollama could not pull the model: see the detail for the reason. Pulling again resumes the download.",
        retryable=False,
        detail=words,
    )


def _progress(status: str, layers: dict[str, tuple[int, int]]) -> Progress:
    if not layers:
        return Progress(step=status)
    done, total = (sum(part) for part in zip(*layers.values(), strict=True))
    step = "pulling" if status.startswith("pulling ") and status != "pulling manifest" else status
    return Progress(step=step, done_bytes=done, total_bytes=total)

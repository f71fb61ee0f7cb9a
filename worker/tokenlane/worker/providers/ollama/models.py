"""Pulls, verifies, loads and unloads models on Ollama."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from tokenlane.routing.contract.errors import DigestMismatch, Interrupted, LlmError, ModelNotFound, ProviderDown
from tokenlane.routing.contract.results import Progress
from tokenlane.worker.providers.http.provider import HttpProvider

from .names import full_name

STALL_S = 900.0
"""Without a word. A large model is verified in silence."""
LOAD_S = 900.0
KEEP_LOADED = -1
"""For ever: what was loaded by a command stays until it is unloaded, or Ollama needs its room."""
MAX_STATUS = 64


class OllamaModels(HttpProvider):
    """Pulls, verifies, loads and unloads. Ollama checks what it downloads, and resumes what was broken off."""

    async def pull(self, model: str) -> AsyncGenerator[Progress, None]:
        """Fetch the model; see `Pulls.pull`."""
        layers: dict[str, tuple[int, int]] = {}
        done = False
        with self._placed(model):
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
                raise Interrupted("Ollama broke the pull off: pull again, it goes on where it was.", retryable=True)

    async def verify(self, model: str) -> str:
        """The digest of the model's manifest, which holds those of its layers; Ollama checked them when they came."""
        page = await self._page("/api/tags")
        with self._expecting("/api/tags"):
            digests = {full_name(entry["name"]): str(entry["digest"]) for entry in page["models"] or ()}
        digest = digests.get(full_name(model))
        if digest is None:
            with self._placed(model):
                raise ModelNotFound("Ollama does not have this model: pull it first.")
        return f"sha256:{digest.removeprefix('sha256:')}"

    async def load(self, model: str) -> None:
        """Load the model and keep it; see `Loads.load`."""
        await self._keep(model, KEEP_LOADED)

    async def unload(self, model: str) -> None:
        """Free the model's memory; see `Loads.unload`."""
        await self._keep(model, 0)

    async def _keep(self, model: str, keep_alive: int) -> None:
        # Without a prompt it only loads, or unloads. A model that embeds is no different.
        # `shift` as chats have it: with another one they would load it anew.
        question = {"model": model, "keep_alive": keep_alive, "stream": False, "shift": False}
        await self._page("/api/generate", question, model=model, timeout_s=LOAD_S)


def _not_pulled(words: str) -> LlmError:
    if "file does not exist" in words or "not found" in words:
        return ModelNotFound("No registry that Ollama knows has this model: check its name and tag.", detail=words)
    if "digest mismatch" in words:
        return DigestMismatch("What Ollama downloaded is not what was announced: pull again.", detail=words)
    return ProviderDown(
        "Ollama could not pull the model: see the detail for what it says. Pulling again goes on where it was.",
        retryable=False,
        detail=words,
    )


def _progress(status: str, layers: dict[str, tuple[int, int]]) -> Progress:
    if not layers:
        return Progress(step=status)
    done, total = (sum(part) for part in zip(*layers.values(), strict=True))
    step = "pulling" if status.startswith("pulling ") and status != "pulling manifest" else status
    return Progress(step=step, done_bytes=done, total_bytes=total)

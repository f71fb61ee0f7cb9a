"""llama.cpp's server in router mode, which loads and unloads models in processes of their own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal
from urllib.parse import quote

from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.errors import LlmError, ModelNotFound, ProviderDown, Timeout
from tokenlane.worker.providers.residency import Residency

from .slot_files import KeptKv, SlotFiles

logger = logging.getLogger(__name__)

LOAD_S = 900.0
_POLL_S = 0.1
_SAVE_S = 60.0
_MODELS = "/v1/models"
_MOST_DIGITS = 4
"""Of a number of slots: no server has more."""


def is_router(document: object) -> bool:
    """Whether a list of models comes from a server in router mode, which lists each model's status."""
    data = document.get("data") if isinstance(document, dict) else None
    return isinstance(data, list) and bool(data) and all(isinstance(_status(entry), dict) for entry in data)


class LlamaCppRouter:
    """The models of a server in router mode.

    Args:
        ask: gets a JSON document, or posts a question to get one, within a number of seconds.
    """

    def __init__(self, lane: LaneSettings, ask: Callable[[str, object, float], Awaitable[Any]]) -> None:
        self._lane, self._ask = lane, ask
        self._files = SlotFiles(lane.name, lane.endpoint or "", self._act_on_slot)
        self.residency = Residency(self)
        self.kept: dict[str, KeptKv] = {}
        """What became of the KV cache of each model that was loaded again."""
        self.slots = 0
        """The number of slots of each model, if the server's options say it, else 0."""

    async def note(self, entries: Sequence[Mapping[str, Any]], listing: int) -> None:
        """Take over the server's list of models. An empty list says nothing of the server's options.

        Args:
            listing: its number, from `Residency.begin_listing`.
        """
        self.residency.note((entry["id"] for entry in entries if is_loaded(entry)), listing)
        if not entries:
            return
        arguments = [argument for entry in entries for argument in arguments_of(entry)]
        await self._files.use(_option(arguments, "--slot-save-path"))
        slots = _option(arguments, "--parallel") or ""
        self.slots = int(slots) if slots.isdecimal() and len(slots) <= _MOST_DIGITS else 0

    async def close(self) -> None:
        """Delete the files with KV caches."""
        await self._files.clear()

    async def in_memory(self) -> tuple[Iterable[str], int | None]:
        """See `HoldsModels`."""
        props = await self._ask("/props", None, 10.0)
        most = props.get("max_instances") if isinstance(props, dict) else None
        loaded = [entry["id"] for entry in await self._entries() if is_loaded(entry)]
        return loaded, most if isinstance(most, int) and most > 0 else None

    async def load_now(self, model: str) -> None:
        """See `HoldsModels`. The KV cache that was kept is restored."""
        await self._ask("/models/load", {"model": model}, LOAD_S)
        await self._wait_until(model, "loaded")
        if self._lane.keep_kv and (kept := await self._files.restore(model)) is not None:
            self.kept[model] = kept
            level = logging.WARNING if kept.lost_because else logging.INFO
            why = f"; the rest was lost: {kept.lost_because}" if kept.lost_because else ""
            logger.log(
                level, "lane %r kept %d tokens of model %r's KV cache%s", self._lane.name, kept.tokens, model, why
            )

    async def unload_now(self, model: str) -> None:
        """See `HoldsModels`. If the lane keeps KV caches, the model's is saved first."""
        self.kept.pop(model, None)
        if self._lane.keep_kv:
            await self._files.save(model, await self._slots_of(model))
        await self._ask("/models/unload", {"model": model}, LOAD_S)
        await self._wait_until(model, "unloaded")

    async def _slots_of(self, model: str) -> list[int]:
        try:
            listed = await self._ask(f"/slots?model={quote(model, safe='')}&autoload=false", None, 10.0)
        except LlmError:  # the server was started with --no-slots
            listed = []
        return [slot["id"] for slot in listed if isinstance(slot, dict) and isinstance(slot.get("id"), int)]

    async def _act_on_slot(
        self, action: Literal["save", "restore"], model: str, slot: int, name: str
    ) -> dict[str, Any]:
        answer = await self._ask(f"/slots/{slot}?action={action}", {"model": model, "filename": name}, _SAVE_S)
        return answer if isinstance(answer, dict) else {}

    async def _wait_until(self, model: str, state: str) -> None:
        try:
            async with asyncio.timeout(LOAD_S):
                while True:
                    entry = next((entry for entry in await self._entries() if entry["id"] == model), None)
                    if entry is None:
                        raise ModelNotFound("llama.cpp's server does not have this model: see its --models-dir.")
                    status = _status(entry)
                    if status.get("value") == state and not (state == "loaded" and status.get("failed")):
                        return
                    if status.get("failed"):
                        raise ProviderDown(
                            "llama.cpp's server could not load the model: its log says why.", retryable=False
                        )
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise Timeout(f"llama.cpp's server has not {state} the model within {LOAD_S:g} s.") from None

    async def _entries(self) -> list[dict[str, Any]]:
        document = await self._ask(_MODELS, None, 10.0)
        data = document.get("data") if isinstance(document, dict) else None
        return [entry for entry in data or () if isinstance(entry, dict) and isinstance(entry.get("id"), str)]


def is_loaded(entry: Mapping[str, Any]) -> bool:
    """Whether the list of models shows this model as loaded."""
    return bool(_status(entry).get("value") == "loaded")


def _status(entry: Any) -> Any:
    return entry.get("status") if isinstance(entry, Mapping) else None


def arguments_of(entry: Mapping[str, Any]) -> list[str]:
    """The command line of the server's process for a model, with `--name=value` in two; empty if it is unusable."""
    given = _status(entry).get("args")
    words = [word for word in given if isinstance(word, str)] if isinstance(given, list) else []
    return [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]


def _option(arguments: Sequence[str], name: str) -> str | None:
    """The value of a command line option of the server."""
    return next((value for option, value in pairwise(arguments) if option == name), None)

"""LM Studio's server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tokenlane.routing.messages import ModelInfo

from .openai import OpenAiProvider

__all__ = ["LmStudioProvider"]


class LmStudioProvider(OpenAiProvider):
    """An LM Studio server, 0.4 or newer. It answers 200 to any path, so only a page's content says anything."""

    default_endpoint: ClassVar[str | None] = "http://127.0.0.1:1234"
    option_names: ClassVar[Mapping[str, str]] = {"repetition_penalty": "repeat_penalty"}

    async def models(self) -> list[ModelInfo]:
        """The models that have been downloaded, by its own list: only that tells what each can do."""
        page = await self._page("/api/v1/models")
        try:
            return [self._listed(entry) for entry in page["models"]]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self._no_page("/api/v1/models") from None

    async def capacity(self) -> int:
        """1: it queues what is more, and runs on the machine of the one who sits at it."""
        return 1

    def _listed(self, entry: dict[str, Any]) -> ModelInfo:
        instances = entry.get("loaded_instances") or []
        can = entry.get("capabilities") or {}
        more = (("vision", "vision"), ("trained_for_tool_use", "tools"))
        chat = ("chat", "schema", *(ours for theirs, ours in more if can.get(theirs)))
        context = instances[0]["config"].get("context_length") if instances else None
        return ModelInfo(
            name=entry["key"],
            provider=self._lane.provider,
            lane=self._lane.name,
            size_bytes=entry.get("size_bytes"),
            quantisation=(entry.get("quantization") or {}).get("name"),
            context_length=context or entry.get("max_context_length"),
            loaded=bool(instances),
            capabilities=chat if entry["type"] == "llm" else ("embed",),
        )

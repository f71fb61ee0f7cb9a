"""llama.cpp's own server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tokenlane.routing.errors import LlmError, Timeout
from tokenlane.routing.messages import ModelInfo

from .openai import OpenAiProvider

__all__ = ["BuiltinProvider", "LlamaCppProvider"]


class LlamaCppProvider(OpenAiProvider):
    """llama.cpp's server, `llama-server` or the built-in one."""

    default_endpoint: ClassVar[str | None] = "http://127.0.0.1:8080"
    option_names: ClassVar[Mapping[str, str]] = {"repetition_penalty": "repeat_penalty"}
    keeps_alive: ClassVar[bool] = False  # it closes after a stream without saying so, which a next request may race

    async def models(self) -> list[ModelInfo]:
        """The one model. What it was started for is told by its pages, and of embeddings by asking for one."""
        models = await super().models()
        props = await self._page("/props")
        try:
            more = (*self._capabilities(props), *(("embed",) if await self._embeds() else ()))
        except (TypeError, AttributeError):
            raise self._no_page("/props") from None
        return [model.model_copy(update={"capabilities": model.capabilities + more}) for model in models]

    async def capacity(self) -> int:
        """The server's slots, from `/props`."""
        page = await self._page("/props")
        slots = page.get("total_slots") if isinstance(page, dict) else None
        if not isinstance(slots, int) or slots < 1:
            raise self._no_page("/props")
        return slots

    async def version(self) -> str | None:
        """The server's build, from `/props`."""
        page = await self._page("/props")
        build = page.get("build_info") if isinstance(page, dict) else None
        return build[:64] if isinstance(build, str) else None

    def _capabilities(self, props: dict[str, Any]) -> list[str]:
        told = {
            "tools": (props.get("chat_template_caps") or {}).get("supports_tool_calls"),
            "vision": (props.get("modalities") or {}).get("vision"),
        }
        return [name for name, can in told.items() if can]

    async def _embeds(self) -> bool:
        try:
            await self._page("/v1/embeddings", {"input": "a", "encoding_format": "float"})
        except Timeout:
            return True  # one that cannot refuses at once; this one is busy
        except LlmError:
            return False
        return True

    def _model_info(self, entry: dict[str, Any]) -> ModelInfo:
        # The server names the context of one slot n_ctx, and answers only once the model is loaded.
        meta = entry.get("meta") or {}
        return ModelInfo(
            name=entry["id"],
            provider=self._lane.provider,
            lane=self._lane.name,
            size_bytes=meta.get("size"),
            quantisation=meta.get("ftype"),
            context_length=meta.get("n_ctx") or meta.get("n_ctx_train"),
            loaded=True,
            capabilities=("chat", "schema"),
        )


class BuiltinProvider(LlamaCppProvider):
    """The built-in server, whose endpoint is known to who started it alone."""

    default_endpoint: ClassVar[str | None] = None

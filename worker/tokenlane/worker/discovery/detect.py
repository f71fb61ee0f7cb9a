"""Detects the kind of a model server by pages that only that kind serves.

Status codes and ports are no evidence: LM Studio answers any path with 200, and many servers speak OpenAI's dialect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PAGES = (
    "/lmstudio-greeting",
    "/api/v1/models",
    "/api/version",
    "/api/tags",
    "/info",
    "/version",
    "/v1/models",
    "/props",
    "/openapi.json",
)
"""The pages to request. A refusal helps too, since each kind of server words its demand for a key differently."""

_CHAT = "/v1/chat/completions"


def recognise(pages: Mapping[str, Any]) -> str | None:
    """The provider for the server with these JSON pages. `openai` stands for any other server with OpenAI's dialect;
    None means that the server is no known model server."""
    for kind, fits in _KINDS.items():
        try:
            if fits(pages):
                return kind
        except (AttributeError, TypeError, KeyError, IndexError):
            continue
    return None


def _lm_studio(pages: Mapping[str, Any]) -> bool:
    if pages.get("/lmstudio-greeting") == {"lmstudio": True}:
        return True
    listed = pages["/api/v1/models"]
    if "error" in listed:
        return "LM Studio" in listed["error"]["message"]
    return all(model["type"] in ("llm", "embedding") and model["key"] for model in listed["models"])


def _ollama(pages: Mapping[str, Any]) -> bool:
    models = pages["/api/tags"]["models"]  # null if it has none
    return isinstance(pages["/api/version"]["version"], str) and isinstance(models, list | type(None))


def _tgi(pages: Mapping[str, Any]) -> bool:
    return bool(pages["/info"]["model_id"]) and "max_total_tokens" in pages["/info"]


def _vllm(pages: Mapping[str, Any]) -> bool:
    if pages["/v1/models"] == {"error": "Unauthorized"}:
        return list(pages["/version"]) == ["version"]
    return _first_owner(pages) == "vllm"


def _llama_cpp(pages: Mapping[str, Any]) -> bool:
    return "total_slots" in (pages.get("/props") or {}) or _first_owner(pages) == "llamacpp"


def _openai(pages: Mapping[str, Any]) -> bool:
    """Whether the server has OpenAI's chat route, list of models, or format of errors. Not every server has a list."""
    if _CHAT in ((pages.get("/openapi.json") or {}).get("paths") or ()):
        return True
    listed = pages["/v1/models"]
    if "error" in listed:
        return isinstance(listed["error"]["message"], str) and isinstance(listed["error"]["type"], str)
    return all(isinstance(model["id"], str) for model in listed["data"])


def _first_owner(pages: Mapping[str, Any]) -> object:
    return pages["/v1/models"]["data"][0]["owned_by"]


_KINDS = {
    "lmstudio": _lm_studio,
    "ollama": _ollama,
    "tgi": _tgi,
    "vllm": _vllm,
    "llamacpp": _llama_cpp,
    "openai": _openai,
}
"""The tests, in the order in which they run. A later test may also accept an earlier kind."""

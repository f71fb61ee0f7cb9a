"""Detects the kind of a model server by paths that only that kind serves.

Status codes and ports are no evidence: LM Studio answers any path with 200, and many servers speak OpenAI's dialect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PATHS = (
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
"""The paths to request. A refusal helps too, since each kind of server words its demand for a key differently."""

_CHAT = "/v1/chat/completions"


def recognise(documents: Mapping[str, Any]) -> str | None:
    """The provider for the server with these JSON answers. `openai` stands for any other server with OpenAI's dialect;
    None means that the server is no known model server."""
    for kind, fits in _KINDS.items():
        try:
            if fits(documents):
                return kind
        except (AttributeError, TypeError, KeyError, IndexError):
            continue
    return None


def _lm_studio(documents: Mapping[str, Any]) -> bool:
    if documents.get("/lmstudio-greeting") == {"lmstudio": True}:
        return True
    listed = documents["/api/v1/models"]
    if "error" in listed:
        return "LM Studio" in listed["error"]["message"]
    return all(model["type"] in ("llm", "embedding") and model["key"] for model in listed["models"])


def _ollama(documents: Mapping[str, Any]) -> bool:
    models = documents["/api/tags"]["models"]  # null if it has none
    return isinstance(documents["/api/version"]["version"], str) and isinstance(models, list | type(None))


def _tgi(documents: Mapping[str, Any]) -> bool:
    return bool(documents["/info"]["model_id"]) and "max_total_tokens" in documents["/info"]


def _vllm(documents: Mapping[str, Any]) -> bool:
    if documents["/v1/models"] == {"error": "Unauthorized"}:
        return list(documents["/version"]) == ["version"]
    return _first_owner(documents) == "vllm"


def _llama_cpp(documents: Mapping[str, Any]) -> bool:
    return "total_slots" in (documents.get("/props") or {}) or _first_owner(documents) == "llamacpp"


def _openai(documents: Mapping[str, Any]) -> bool:
    """Whether the server has OpenAI's chat route, list of models, or format of errors. Not every server has a list."""
    if _CHAT in ((documents.get("/openapi.json") or {}).get("paths") or ()):
        return True
    listed = documents["/v1/models"]
    if "error" in listed:
        return isinstance(listed["error"]["message"], str) and isinstance(listed["error"]["type"], str)
    return all(isinstance(model["id"], str) for model in listed["data"])


def _first_owner(documents: Mapping[str, Any]) -> object:
    return documents["/v1/models"]["data"][0]["owned_by"]


_KINDS = {
    "lmstudio": _lm_studio,
    "ollama": _ollama,
    "tgi": _tgi,
    "vllm": _vllm,
    "llamacpp": _llama_cpp,
    "openai": _openai,
}
"""The tests, in the order in which they run. A later test may also accept an earlier kind."""

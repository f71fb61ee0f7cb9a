"""What each kind of model server answers to a GET, as the references have it; and a server that answers with that."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from tests.loopback import served

Pages = Mapping[str, Any]

UNEXPECTED = {"error": "Unexpected endpoint or method. (GET /x). Returning 200 anyway"}

OLLAMA: Pages = {
    "/api/version": {"version": "0.9.3"},
    "/api/tags": {"models": [{"name": "phi3:latest", "capabilities": ["completion"]}]},
    "/api/ps": {"models": []},
    "/v1/models": {"object": "list", "data": [{"id": "phi3:latest", "object": "model", "owned_by": "library"}]},
}
VLLM: Pages = {
    "/version": {"version": "0.33.0"},
    "/v1/models": {
        "object": "list",
        "data": [
            {"id": "qwen", "object": "model", "owned_by": "vllm", "root": "org/qwen", "max_model_len": 4096},
            {"id": "adapter", "object": "model", "owned_by": "vllm", "parent": "qwen"},
        ],
    },
    "/openapi.json": {"paths": {"/v1/models": {}, "/v1/chat/completions": {}}},
}
VLLM_EMBEDDING: Pages = {**VLLM, "/openapi.json": {"paths": {"/v1/models": {}, "/v1/embeddings": {}}}}
VLLM_WITH_A_KEY: Pages = {"/version": {"version": "0.33.0"}, "/v1/models": {"error": "Unauthorized"}}
LM_STUDIO: Pages = {
    "*": UNEXPECTED,
    "/lmstudio-greeting": {"lmstudio": True},
    "/api/v1/models": {
        "models": [
            {
                "type": "embedding",
                "key": "text-embedding-nomic",
                "loaded_instances": [],
                "max_context_length": 2048,
            },
            {
                "type": "llm",
                "key": "openai/gpt-oss-20b",
                "quantization": {"name": "MXFP4", "bits_per_weight": 4},
                "size_bytes": 12_000_000_000,
                "loaded_instances": [{"id": "openai/gpt-oss-20b", "config": {"context_length": 8192}}],
                "max_context_length": 131_072,
                "capabilities": {"vision": False, "trained_for_tool_use": True},
            },
        ]
    },
    "/v1/models": {"object": "list", "data": [{"id": "openai/gpt-oss-20b", "owned_by": "organization_owner"}]},
}
LM_STUDIO_WITH_A_KEY: Pages = {
    "*": {
        "error": {
            "type": "invalid_request",
            "code": "invalid_api_key",
            "message": "An LM Studio API token is required to make requests to this server.",
        }
    }
}
TGI: Pages = {
    "/info": {
        "model_id": "org/zephyr",
        "model_sha": "abc",
        "model_pipeline_tag": "text-generation",
        "max_input_tokens": 4095,
        "max_total_tokens": 4096,
        "router": "text-generation-router",
        "version": "3.3.7",
    },
    "/v1/models": {"object": "list", "data": [{"id": "org/zephyr", "created": 0, "owned_by": "org/zephyr"}]},
}
LLAMA_CPP: Pages = {
    "/v1/models": {
        "models": [{"name": "smol", "capabilities": ["completion"]}],
        "object": "list",
        "data": [{"id": "smol", "object": "model", "owned_by": "llamacpp", "meta": {"n_ctx": 2048}}],
    },
    "/props": {"default_generation_settings": {}, "total_slots": 4, "build_info": "b1"},
}
OTHER_OPENAI: Pages = {"/v1/models": {"object": "list", "data": [{"id": "m", "owned_by": "sglang"}]}}
EMBEDDINGS_ONLY_TEI: Pages = {"/info": {"model_id": "org/bge", "max_input_length": 512, "model_type": {}}}
WEB_INTERFACE: Pages = {"/api/version": {"version": "0.6"}, "*": "<html>"}
UNRELATED: Pages = {"*": {"hello": ["world"]}}


@asynccontextmanager
async def serving(pages: Pages, status: int = 200) -> AsyncIterator[str]:
    """A server of these pages; its URL. `*` is every other path, which else is a 404 without JSON."""

    async def answer(request: web.Request) -> web.Response:
        page = pages.get(request.path, pages.get("*"))
        if page is None:
            return web.Response(status=404, text="404 page not found")
        if isinstance(page, str):
            return web.Response(text=page, content_type="text/html")
        return web.json_response(page, status=status)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with served(app) as url:
        yield url

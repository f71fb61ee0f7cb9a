"""Model servers that only keep models: Ollama's and LM Studio's ways to pull, load and unload, and nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

from aiohttp import web

__all__ = ["LmStudioShelf", "OllamaShelf", "digest_of"]


def digest_of(content: str) -> str:
    """The digest of a model with that content, as Ollama has it."""
    return hashlib.sha256(content.encode()).hexdigest()


class OllamaShelf:
    """An Ollama: `registry` is what can be pulled, `models` what is there, by name; a content stands for a model.

    A pull waits for `go` between its layers, and ends with `last_lines`; `pulls` counts those begun. A load waits for
    `may_load`, a list of what is there for `may_list`.
    """

    def __init__(self, **models: str) -> None:
        self.models = dict(models)
        self.registry: dict[str, str] = {}
        self.loaded: set[str] = set()
        self.loading: list[str] = []
        self.may_load = asyncio.Event()
        self.may_load.set()
        self.may_list = asyncio.Event()
        self.may_list.set()
        self.go = asyncio.Event()
        self.go.set()
        self.last_lines: list[dict[str, Any]] = [{"status": "success"}]
        self.pulls = 0
        self.pulling = 0
        self.served: list[tuple[str, str]] = []
        self.app = web.Application()
        self.app.add_routes(
            [
                web.get("/api/tags", self._tags),
                web.get("/api/ps", self._ps),
                web.get("/api/version", self._version),
                web.post("/api/show", self._show),
                web.post("/api/pull", self._pull),
                web.post("/api/generate", self._generate),
                web.post("/api/chat", self._chat),
                web.post("/api/embed", self._embed),
            ]
        )

    async def _tags(self, _: web.Request) -> web.Response:
        await self.may_list.wait()
        models = [
            {"name": name, "digest": digest_of(content), "size": 12, "details": {}, "capabilities": _can(name)}
            for name, content in self.models.items()
        ]
        return web.json_response({"models": models or None})

    async def _ps(self, _: web.Request) -> web.Response:
        return web.json_response({"models": [{"name": name} for name in self.loaded]})

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "0.33.0"})

    async def _show(self, _: web.Request) -> web.Response:
        return web.json_response({"capabilities": ["completion"]})

    async def _pull(self, request: web.Request) -> web.StreamResponse:
        name = _tagged((await request.json())["model"])
        self.pulls += 1
        self.pulling += 1
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)

        async def say(**line: object) -> None:
            await response.write(json.dumps(line).encode() + b"\n")

        try:
            await say(status="pulling manifest")
            if name not in self.registry:
                await say(error="pull model manifest: file does not exist")
                return response
            for layer, done in (("a", 10), ("b", 5), ("a", 40), ("b", 60)):
                total = 40 if layer == "a" else 60
                await say(status=f"pulling {layer * 12}", digest=f"sha256:{layer}", total=total, completed=done)
                await self.go.wait()
            await say(status="verifying sha256 digest")
            if self.last_lines == [{"status": "success"}]:
                self.models[name] = self.registry[name]
                self.loaded.discard(name)
            for line in self.last_lines:
                await say(**line)
            return response
        finally:
            self.pulling -= 1

    async def _generate(self, request: web.Request) -> web.Response:
        asked = await request.json()
        name = _tagged(asked["model"])
        if name not in self.models:
            return web.json_response({"error": f"model '{name}' not found"}, status=404)
        if asked["keep_alive"] == 0:
            self.loaded.discard(name)
            return web.json_response({"done": True, "done_reason": "unload"})
        self.loading.append(name)
        try:
            await self.may_load.wait()
        finally:
            self.loading.remove(name)
        self.loaded.add(name)
        return web.json_response({"done": True, "done_reason": "load"})

    async def _chat(self, request: web.Request) -> web.Response:
        name = _tagged((await request.json())["model"])
        if name not in self.models:
            return web.json_response({"error": f"model '{name}' not found"}, status=404)
        self.served.append((name, self.models[name]))
        lines = [
            {"model": name, "message": {"role": "assistant", "content": self.models[name]}, "done": False},
            {"model": name, "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"},
        ]
        body = "".join(json.dumps(line) + "\n" for line in lines)
        return web.Response(body=body.encode(), content_type="application/x-ndjson")

    async def _embed(self, request: web.Request) -> web.Response:
        asked = await request.json()
        name = _tagged(asked["model"])
        if name not in self.models:
            return web.json_response({"error": f"model '{name}' not found"}, status=404)
        self.served.append((name, self.models[name]))
        return web.json_response({"model": name, "embeddings": [[1.0, 0.0] for _ in asked["input"]]})


def _tagged(name: str) -> str:
    return name if ":" in name else f"{name}:latest"


def _can(name: str) -> list[str]:
    return ["embedding"] if "embed" in name else ["completion"]


class LmStudioShelf:
    """An LM Studio: `catalogue` can be downloaded, `models` are there; `instances` are loaded, by key."""

    def __init__(self, *models: str) -> None:
        self.models = list(models)
        self.catalogue: set[str] = set()
        self.instances: dict[str, list[str]] = {}
        self.statuses: list[dict[str, Any]] = []
        self.jobs = 0
        self.app = web.Application()
        self.app.add_routes(
            [
                web.get("/api/v1/models", self._list),
                web.post("/api/v1/models/download", self._download),
                web.get("/api/v1/models/download/status/{job}", self._status),
                web.post("/api/v1/models/load", self._load),
                web.post("/api/v1/models/unload", self._unload),
            ]
        )

    async def _list(self, _: web.Request) -> web.Response:
        models = [
            {
                "type": "llm",
                "key": key,
                "loaded_instances": [{"id": one, "config": {}} for one in self.instances.get(key, ())],
            }
            for key in self.models
        ]
        return web.json_response({"models": models})

    async def _download(self, request: web.Request) -> web.Response:
        model = (await request.json())["model"]
        if model in self.models:
            return web.json_response({"status": "already_downloaded", "total_size_bytes": 100})
        if model not in self.catalogue:
            return web.json_response({"error": {"type": "model_not_found", "message": "no such model"}}, status=404)
        self.jobs += 1
        return web.json_response({"job_id": f"job-{model}", "status": "downloading", "total_size_bytes": 100})

    async def _status(self, request: web.Request) -> web.Response:
        status = self.statuses.pop(0)
        if status["status"] == "completed":
            self.models.append(request.match_info["job"].removeprefix("job-"))
        return web.json_response({"job_id": request.match_info["job"], "total_size_bytes": 100, **status})

    async def _load(self, request: web.Request) -> web.Response:
        model = (await request.json())["model"]
        here = self.instances.setdefault(model, [])
        here.append(model if not here else f"{model}:{len(here) + 1}")
        return web.json_response({"instance_id": here[-1], "status": "loaded"})

    async def _unload(self, request: web.Request) -> web.Response:
        instance = (await request.json())["instance_id"]
        for here in self.instances.values():
            if instance in here:
                here.remove(instance)
                return web.json_response({"instance_id": instance})
        return web.json_response({"error": {"type": "invalid_request", "message": "no such instance"}}, status=400)

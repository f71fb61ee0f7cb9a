"""A stand-in for `llama-server` in router mode: a front of its own, with real llama.cpp servers behind it.

No package has a llama-server whose code runs on every CPU, and the server of xllamacpp has no router mode. The front's
documents are like those of llama-server b10434.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web

_SERVER = """
import os, sys, xllamacpp
os.umask(0o022)  # a server that does not protect its files
params = xllamacpp.CommonParams()
params.model.path, alias, params.slot_save_path = sys.argv[1:]
params.model_alias = {alias}
params.hostnames = ["127.0.0.1"]
params.port = 0
params.n_ctx, params.n_parallel, params.n_predict = 4096, 2, 32
params.cache_ram_mib = 0
params.endpoint_slots = True
params.ui = False
params.verbosity = -1
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
os._exit(0)
"""


class Router:
    """Holds one model at a time, in a process of its own.

    Args:
        files: the file of each model.
        slots: the directory for the states of slots.
    """

    def __init__(self, files: dict[str, Path], slots: Path) -> None:
        self._files, self._slots = files, slots
        self._process: asyncio.subprocess.Process | None = None
        self.loaded, self._url = "", ""

    async def load(self, model: str) -> None:
        """Load the model in place of the loaded one."""
        await self.unload()
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _SERVER, self._files[model], model, f"{self._slots}/"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        while not self._url.startswith("http"):
            self._url = (await self._process.stdout.readline()).decode().strip()
        self.loaded = model

    async def unload(self) -> None:
        """Unload the loaded model, even if requests use it."""
        if self._process is not None:
            self._process.kill()
            await self._process.communicate()
            self._process, self.loaded, self._url = None, "", ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request to the front, or pass it on to the server of its model."""
        body = await request.read()
        named = json.loads(body).get("model", "") if body else request.query.get("model", "")
        match request.path:
            case "/v1/models":
                return web.json_response({"data": [self._entry(name) for name in self._files], "object": "list"})
            case "/health":
                return web.json_response({"status": "ok"})
            case "/props" if not named:
                return web.json_response({"role": "router", "max_instances": 1, "build_info": "b1-7e4c0a9"})
            case "/models/load":
                await self.load(named)
                return web.json_response({"success": True})
            case "/models/unload":
                await self.unload()
                return web.json_response({"success": True})
        if named != self.loaded:
            await self.load(named)
        url = f"{self._url}{request.path_qs}"
        async with (
            aiohttp.ClientSession() as session,
            session.request(request.method, url, data=body or None) as theirs,
        ):
            response = web.StreamResponse(status=theirs.status, headers={"Content-Type": theirs.content_type})
            await response.prepare(request)
            async for chunk in theirs.content.iter_any():
                await response.write(chunk)
            return response

    def _entry(self, name: str) -> dict[str, object]:
        value = "loaded" if name == self.loaded else "unloaded"
        options = ["llama-server", "--alias", name, "--slot-save-path", f"{self._slots}/", "--parallel", "2"]
        return {"id": name, "object": "model", "status": {"value": value, "args": options}}


@asynccontextmanager
async def llamacpp_router(files: dict[str, Path], slots: Path) -> AsyncIterator[str]:
    """Serve these models, and keep slots in this directory. Yields the endpoint."""
    router = Router(files, slots)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", router.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()
        await router.unload()

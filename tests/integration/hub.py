"""A Hugging Face hub on loopback, as far as fetching needs one: a repository's list of files, and the files."""

from __future__ import annotations

import asyncio
import hashlib

from aiohttp import web

__all__ = ["COMMIT", "Hub"]

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """`repositories`: their files, by path; what is larger than 100 bytes is an LFS file. `wrong`: files whose content
    is not what is announced. A download stops after `stop_after` bytes for as long as that is set. `ranges`: the Range
    of each download, with its path."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.wrong: set[str] = set()
        self.stop_after: int | None = None
        self.stopped = 0
        self.ranges: list[tuple[str, str | None]] = []
        self.app = web.Application()
        self.app.add_routes(
            [
                web.get("/api/models/{owner}/{name}", self._info),
                web.get("/api/models/{owner}/{name}/revision/{revision}", self._info),
                web.get("/api/models/{owner}/{name}/tree/{revision}", self._tree),
                web.get("/{owner}/{name}/resolve/{revision}/{path:.+}", self._resolve),
                web.get("/files/{path:.+}", self._plain),
            ]
        )

    def _files(self, request: web.Request) -> dict[str, bytes]:
        name = f"{request.match_info['owner']}/{request.match_info['name']}"
        if name not in self.repositories:
            raise web.HTTPNotFound(headers={"X-Error-Code": "RepoNotFound"})
        return self.repositories[name]

    async def _info(self, request: web.Request) -> web.Response:
        files = self._files(request)
        name = f"{request.match_info['owner']}/{request.match_info['name']}"
        if request.match_info.get("revision", "main") not in ("main", COMMIT):
            raise web.HTTPNotFound(headers={"X-Error-Code": "RevisionNotFound"})
        siblings = [{"rfilename": path, "size": len(content), **_hashes(content)} for path, content in files.items()]
        return web.json_response({"id": name, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False})

    async def _tree(self, request: web.Request) -> web.Response:
        files = self._files(request)
        tree = [{"type": "file", "path": path, "size": len(it), "oid": _git_sha1(it)} for path, it in files.items()]
        return web.json_response(tree)

    async def _resolve(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        content = self._files(request)[path]
        large = len(content) > 100
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{_git_sha1(content)}"'}
        if large:
            headers |= {"X-Linked-Etag": f'"{_sha256(content)}"', "X-Linked-Size": str(len(content))}
        return await self._send(request, path, content, headers)

    async def _plain(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        content = self.repositories["files"].get(path)
        if content is None:
            raise web.HTTPNotFound
        return await self._send(request, path, content, {})

    async def _send(
        self, request: web.Request, path: str, content: bytes, headers: dict[str, str]
    ) -> web.StreamResponse:
        if request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": str(len(content))})
        self.ranges.append((path, request.headers.get("Range")))
        if path in self.wrong:
            content = bytes(len(content))
        start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        response.content_length = len(content) - start
        await response.prepare(request)
        if self.stop_after is None or len(content) <= self.stop_after:
            await response.write(content[start:])
            return response
        await response.write(content[start : self.stop_after])
        self.stopped += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.stopped -= 1
        return response


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _hashes(content: bytes) -> dict[str, object]:
    if len(content) <= 100:
        return {"blobId": _git_sha1(content)}
    lfs = {"sha256": _sha256(content), "size": len(content), "pointerSize": 130}
    return {"blobId": _git_sha1(b"pointer" + content[:20]), "lfs": lfs}

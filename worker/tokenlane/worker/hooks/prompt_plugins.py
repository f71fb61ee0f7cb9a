"""The prompt plugins of a worker: finds them by the hash of their files, and renders prompts with them.

Each plugin is compiled once and keeps no state between two calls, so that a request that is tried again has the same
prompt. A quick call runs on the event loop's thread, since a change of threads takes several times as long as the call.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import stat
import threading
import time
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tokenlane.config.extras import install_advice
from tokenlane.config.host.bounded_files import read_file
from tokenlane.config.settings.values import PluginSettings
from tokenlane.routing.contract.errors import PluginFailed
from tokenlane.routing.contract.requests import ChatRequest

from .plugin_broken import OutOfFuel, PluginBroken
from .prompt_template import apply_output, prompt_input

if TYPE_CHECKING:
    from .sandbox import CompiledPlugin, Sandbox

logger = logging.getLogger(__name__)

MOST_BYTES = 64 * 1024 * 1024
FUEL, _QUICK_FUEL = 100_000_000, 1_000_000
"""How much a call may compute, and how much of that on the event loop's thread: both end within milliseconds."""
_QUICK_S, _SLOW_CALLS = 0.001, 3
_ON_A_THREAD_S = 60.0
"""For how long a plugin is called on another thread after slow calls. The host may just have been busy."""
_CALL_S = 1.0
"""How long a call may take on a busy host. Its fuel ends most calls earlier."""
_WARNING_S = 60.0
_LOOK_EVERY_S = 30.0
"""How often the directory is read, for files that came later."""
_MOST_LISTED = 100


class PluginMissing(PluginFailed):
    """This worker does not have the plugin. Another lane may have it."""


def digest_of(code: bytes) -> str:
    """The name of a plugin in policies: the hash of its file."""
    return f"sha256:{hashlib.sha256(code).hexdigest()}"


def open_plugins(settings: PluginSettings | None) -> PromptPlugins:
    """The plugins that the settings name: for all lanes of a process, so that each plugin is compiled once."""
    return PromptPlugins() if settings is None else PromptPlugins(settings.directory, settings.cache)


class PromptPlugins:
    """The plugins in a directory of this host, whatever their files are called.

    Args:
        directory: None if the settings name none.
        cache: where machine code is kept, a directory that only this user may write; None to keep none.
    """

    def __init__(self, directory: Path | None = None, cache: Path | None = None) -> None:
        self._directory, self._cache = directory, cache
        self._sandbox: Sandbox | None = None
        self._plugins: dict[str, asyncio.Future[CompiledPlugin | PluginBroken | None]] = {}
        self._digests: dict[tuple[str, int, int], str] = {}
        self._warned_at: dict[str, float] = {}
        self._slow_calls: Counter[str] = Counter()
        self._on_a_thread_until: dict[str, float] = {}
        self._is_prepared = False
        self._compiling, self._calling = threading.Lock(), asyncio.Lock()

    @property
    def usable(self) -> tuple[str, ...] | None:
        """The plugins that are compiled; None if they are not yet known, or are too many to list."""
        usable = sorted(digest for digest, loading in self._plugins.items() if _is_usable(loading))
        return tuple(usable) if self._is_prepared and len(usable) <= _MOST_LISTED else None

    async def run(self) -> None:
        """Compile the plugins of the directory, and those that are put there later."""
        while True:
            await self.prepare()
            self._is_prepared = True
            await asyncio.sleep(_LOOK_EVERY_S)

    async def prepare(self) -> None:
        """Compile all plugins of the directory. A large one may take a minute, once for each host."""
        for digest, path in await asyncio.to_thread(lambda: list(self._files())):
            if digest in self._plugins:  # another lane of this process compiles it
                continue
            if isinstance(plugin := await self._load(digest), PluginBroken):
                logger.warning("prompt plugin %s (%s) cannot be used: it %s", digest, path.name, plugin)
            elif plugin is not None:
                logger.info("prompt plugin %s (%s) is ready", digest, path.name)

    async def render(self, digest: str, request: ChatRequest, model: str) -> ChatRequest:
        """Return the request with the texts of a plugin.

        Args:
            digest: the plugin, as `digest_of` its file.
            model: the model that gets the request.

        Raises:
            PluginMissing: this worker does not have the plugin.
            PluginFailed: the plugin cannot be used, broke off, took too long, or returned nonsense.
        """
        plugin = await self._load(digest)
        if plugin is None:
            raise PluginMissing(f"This lane does not have prompt plugin {digest}: {self._advice()}.")
        try:
            if isinstance(plugin, PluginBroken):
                raise plugin
            return apply_output(await self._call(digest, plugin, prompt_input(request, model)), request)
        except PluginBroken as error:
            raise PluginFailed(f"Prompt plugin {digest} {error}.", detail=error.detail) from None

    def warn(self, error: PluginFailed, role: str) -> None:
        """Log that requests of a role are sent without a plugin's texts, once a minute."""
        now = asyncio.get_running_loop().time()
        if now - self._warned_at.get(role, -math.inf) >= _WARNING_S:
            self._warned_at[role] = now
            logger.warning("requests of role %r are sent as they came, as the policy says: %s", role, error.message)

    def _advice(self) -> str:
        if find_spec("wasmtime") is None:
            return f"on its host, {install_advice('plugins')}"
        if self._directory is None:
            return "in the settings of its worker, name the directory of the file with `plugins` in [advanced]"
        return "put the file into the directory that `plugins` in [advanced] names on its host"

    async def _load(self, digest: str) -> CompiledPlugin | PluginBroken | None:
        """The compiled plugin, or why it cannot be used. None: it is not in the directory, or wasmtime is missing."""
        if digest not in self._plugins:
            loop = asyncio.get_running_loop()
            self._plugins[digest] = loop.run_in_executor(None, self._compile, digest)
        loading = self._plugins[digest]
        try:
            # Other requests may wait for the same plugin, so a cancelled one must not cancel the compiler.
            plugin = loading.result() if loading.done() else await asyncio.shield(loading)
        except Exception:
            if self._plugins.get(digest) is loading:
                del self._plugins[digest]  # it may work later
                logger.exception("prompt plugin %s could not be compiled", digest)
            return PluginBroken("could not be compiled, and the worker's log says why")
        if plugin is None and self._plugins.get(digest) is loading:
            del self._plugins[digest]  # the file may come later
        return plugin

    def _compile(self, digest: str) -> CompiledPlugin | PluginBroken | None:
        path = next((path for known, path in self._files() if known == digest), None)
        if path is None or find_spec("wasmtime") is None:
            return None
        from .sandbox import Sandbox  # which loads wasmtime

        with self._compiling:
            try:
                code = read_file(path, MOST_BYTES)
            except OSError:
                return None
            if digest_of(code) != digest:
                return None
            if self._sandbox is None:
                self._sandbox = Sandbox(self._cache)
            try:
                return self._sandbox.compile(code)
            except PluginBroken as error:
                return error

    async def _call(self, digest: str, plugin: CompiledPlugin, text: str) -> str:
        """Call the plugin on this thread, or on another one if its latest calls on this one were slow.

        A call that runs out of fuel on this thread is made again on the other: plugins have no effects.
        """
        assert self._sandbox is not None
        now = asyncio.get_running_loop().time()
        if now >= self._on_a_thread_until.get(digest, 0.0):
            began = time.thread_time()
            try:
                return self._sandbox.call(plugin, text, _QUICK_FUEL)
            except OutOfFuel:
                pass
            finally:
                is_slow = time.thread_time() - began > _QUICK_S
                self._slow_calls[digest] = self._slow_calls[digest] + 1 if is_slow else 0
                if self._slow_calls[digest] == _SLOW_CALLS:
                    self._slow_calls[digest], self._on_a_thread_until[digest] = 0, now + _ON_A_THREAD_S
        return await self._call_on_a_thread(self._sandbox, plugin, text)

    async def _call_on_a_thread(self, sandbox: Sandbox, plugin: CompiledPlugin, text: str) -> str:
        async with self._calling:
            limit = asyncio.get_running_loop().call_later(_CALL_S, sandbox.interrupt)
            try:
                return await asyncio.to_thread(sandbox.call, plugin, text, FUEL)
            finally:
                limit.cancel()
                sandbox.interrupt()  # the thread goes on if this call is cancelled

    def _files(self) -> Iterator[tuple[str, Path]]:
        """The files of the directory, each with its digest. One that cannot be read is logged once."""
        for path in () if self._directory is None else sorted(self._directory.glob("*")):
            try:
                status = path.stat()
            except OSError:  # a link to nothing, or a file that was deleted just now
                continue
            key = (path.name, status.st_size, status.st_mtime_ns)
            if key not in self._digests and stat.S_ISREG(status.st_mode):
                try:
                    self._digests[key] = digest_of(read_file(path, MOST_BYTES))
                except OSError as error:
                    self._digests[key] = ""
                    logger.warning("%s cannot be read as a prompt plugin: %s", path, error.strerror or error)
            if self._digests.get(key):
                yield self._digests[key], path


def _is_usable(loading: asyncio.Future[CompiledPlugin | PluginBroken | None]) -> bool:
    is_compiled = loading.done() and not loading.cancelled() and loading.exception() is None
    return is_compiled and not isinstance(loading.result(), PluginBroken | None)

"""A model server without a model: a real one's dialect, deterministic text, and faults on demand."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import JsonValue, ValidationError

from .control import control_pages
from .dialects import DIALECTS
from .dialects.base import Page, Work
from .dialects.encoder import Voice
from .engine import Engine, Pace
from .fault_script import Script
from .faults import Fault, Faults
from .http.encoded_chat import ChatSpeech
from .http.hostile import bomb, endless_headers
from .http.player import Broken, Cut, Silence
from .http.wire import Wire
from .log import Log, Received
from .model.answer import Ask
from .model.models import Model, Models
from .model.refusals import Refused
from .request_context import Visit

__all__ = ["Simulator"]

_BODY_BYTES = 64 * 1024 * 1024
_NO_FAULT = Script()
_VISIT = web.RequestKey("visit", Visit)


class Simulator:
    """The server, an async context manager.

    A request's fate is the `simulate` object in its body, else a fault that fits it, else, for a chat, the next of
    `faults`; else it is served. What was received, and how each request ended, is in `log` and under `/simulator/`.

    Args:
        api: whose dialect it speaks, one of `dialects.DIALECTS`.
        tokens: in an ordinary answer; `max_tokens` may lower it.
        capacity: requests answered at once; others wait.
        queue: how many may wait; None: as the server it imitates has it.
        models: what it has; names or `NAME=SIZE` will do.
        pullable: what it can pull besides.
        loaded: the models in memory at the start; None: as the server it imitates has it.
        memory_bytes: how much of models fits in memory; None: everything.
        load_ms: to load a model.
        pull_ms: to pull one.
        seed: of the text; None: words are counted, `w0 w1 w2 `.
        api_key: it must be sent where the server it imitates wants it.
        faults: what the first chats meet, in order, or faults from a file.
        tls: to be reached by https.
        socket: to listen there, and at no port.
    """

    def __init__(
        self,
        *,
        api: str = "llamacpp",
        host: str = "127.0.0.1",
        port: int = 0,
        ttft_ms: float = 0,
        itl_ms: float = 0,
        tokens: int = 16,
        capacity: int = 4,
        queue: int | None = None,
        models: Sequence[str | Model] = ("sim",),
        pullable: Sequence[str | Model] = (),
        loaded: Sequence[str] | None = None,
        memory_bytes: int | None = None,
        load_ms: float = 0,
        pull_ms: float = 0,
        seed: int | None = None,
        api_key: str | None = None,
        faults: Sequence[Script] = (),
        tls: ssl.SSLContext | None = None,
        socket: Path | None = None,
    ) -> None:
        self.log = Log()
        self.url = ""
        self.faults = deque(fault for fault in faults if not isinstance(fault, Fault))
        self._scripted = Faults(fault for fault in faults if isinstance(fault, Fault))
        self._host, self._port, self._tls, self._key = host, port, tls, api_key
        self._socket = socket
        kind = DIALECTS[api]
        self.models = Models(
            map(_model, models),
            map(_model, pullable),
            memory_bytes=memory_bytes,
            most=kind.most_loaded,
            load_s=load_ms / 1000,
            exact=kind.exact_names,
        )
        first = list(self.models.on_disk.values()) if kind.preloads else []
        for model in first if loaded is None else map(self._on_disk, loaded):
            self.models.put(model)
        self.engine = Engine(
            self.models,
            Pace(ttft_ms / 1000, itl_ms / 1000, pull_ms / 1000),
            capacity=capacity,
            queue=kind.queue if queue is None else queue,
            tokens=tokens,
            seed=seed,
        )
        self._dialect = kind(self.engine)
        self._voices = self._dialect.voices()
        self._works = self._dialect.works()
        self._count = 0
        self._runner: web.AppRunner | None = None

    def _on_disk(self, name: str) -> Model:
        model = self.models.find(name)
        if model is None:
            raise ValueError(f"{name!r} cannot be loaded: it is none of the models.")
        return model

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=_BODY_BYTES, middlewares=[self._meet])
        pages: dict[str, Page] = {
            **{f"POST {path}": partial(self._chat, voice) for path, voice in self._voices.items()},
            **{name: partial(self._work, work) for name, work in self._works.items()},
            **self._dialect.pages(),
            **control_pages(self.log, self.engine, self.release),
        }
        for name, page in pages.items():
            method, path = name.split(" ")
            app.router.add_route(method, path, page)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        if self._socket is not None:
            await web.UnixSite(self._runner, self._socket).start()
            self.url = f"unix://{quote(str(self._socket.absolute()))}"
        else:
            await web.TCPSite(self._runner, self._host, self._port, ssl_context=self._tls).start()
            host = f"[{self._host}]" if ":" in self._host else self._host
            self.url = f"{'https' if self._tls else 'http'}://{host}:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        self.release()
        await self.models.aclose()
        await self._runner.cleanup()
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)

    @property
    def running(self) -> int:
        """Slots in use."""
        return self.engine.running

    def release(self, index: int | None = None) -> None:
        """Let a held answer go on: that of request `index`, or all."""
        for received in self.log:
            if index is None or received.index == index:
                received.released.set()

    def cut(self) -> None:
        """Close the connections of all answers under way."""
        for received in self.log:
            if received.ended is None:
                received.cut()

    async def wait_for(self, condition: Callable[[], bool], timeout_s: float = 10) -> None:
        """Wait until `condition` holds; it is looked at whenever a request comes, moves on or ends.

        Raises:
            TimeoutError: it did not in time.
        """
        await self.log.wait_for(condition, timeout_s)

    async def held(self, count: int = 1) -> None:
        """Wait until `count` answers are held."""
        await self.wait_for(lambda: sum(received.held for received in self.log) >= count)

    async def ended(self, count: int = 1) -> None:
        """Wait until `count` requests have ended and every slot is free of them."""
        await self.wait_for(lambda: sum(received.ended is not None for received in self.log) >= count)

    # What comes before any page.

    @web.middleware
    async def _meet(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Find out a request's fate, and let it meet what does not depend on the page."""
        if request.path.startswith("/simulator/"):
            return await handler(request)
        body = await request.read()
        try:
            parsed = json.loads(body) if body else {}
        except ValueError:
            parsed = {}
        if not isinstance(parsed, dict):
            parsed = {}
        chats = request.method == "POST" and request.path in self._voices
        model = _model_in(parsed)
        try:
            script = self._fate(request.path, model, parsed, chats=chats)
        except ValidationError as error:
            return web.json_response(self._dialect.error(400, str(error)), status=400)
        if not chats and f"{request.method} {request.path}" not in self._works:
            return await self._told(request, handler, script)
        received = Received(self._count, body, dict(request.headers), model, _peer(request), request.path)
        received.cut = partial(_close, request)
        self._count += 1
        self.log.append(received)
        self.log.bell.ring()
        request[_VISIT] = Visit(request, received, script, self.engine, self.log, self._dialect.keeps_alive)
        try:
            return await self._answered(request, handler, received, script)
        except (asyncio.CancelledError, ConnectionError):
            if received.ended is None:
                received.end("disconnected")
            raise
        finally:
            if received.ended is None:
                received.end("failed")
            received.held = False
            received.cut = lambda: None  # a connection may serve others by now
            self.log.bell.ring()

    def _fate(self, path: str, model: str, parsed: dict[str, JsonValue], *, chats: bool) -> Script:
        if "simulate" in parsed:
            return Script.model_validate(parsed["simulate"])
        if (found := self._scripted.due(path, model, chats=chats)) is not None:
            return found
        return self.faults.popleft() if chats and self.faults else _NO_FAULT

    async def _told(self, request: web.Request, handler: Handler, script: Script) -> web.StreamResponse:
        """A page that only tells: it is not logged."""
        if self._locked(request):
            return self._dialect.refusal(Refused("unauthorized"))
        await asyncio.sleep((script.ttft_ms or 0) / 1000)
        if (early := await self._instead(request, script)) is not None:
            return early
        try:
            return await handler(request)
        except Refused as refused:
            return self._dialect.refusal(refused)
        except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
            return self._dialect.no_route(request)

    async def _answered(
        self, request: web.Request, handler: Handler, received: Received, script: Script
    ) -> web.StreamResponse:
        if (early := await self._instead(request, script)) is not None:
            received.end("refused")
            return early
        try:
            if self._locked(request):
                raise Refused("unauthorized")
            response = await handler(request)
        except Refused as refused:
            received.end("refused")
            return self._dialect.refusal(refused)
        except Broken as broken:
            received.end("failed")
            return web.json_response(self._dialect.error(broken.status, broken.error), status=broken.status)
        except Cut:
            received.end("failed")
            _close(request)
            return web.Response()
        except Silence:
            received.end("failed")
            self.log.bell.ring()
            await received.released.wait()
            _close(request)
            return web.Response()
        if received.ended is None:
            received.end("completed")
        return response

    def _locked(self, request: web.Request) -> bool:
        if self._key is None or not self._dialect.guards(request.path):
            return False
        return request.headers.get("Authorization", "").casefold() != f"Bearer {self._key}".casefold()

    async def _instead(self, request: web.Request, script: Script) -> web.StreamResponse | None:
        """What the script has in place of the page."""
        if script.drop:
            _close(request)
            return web.Response()
        if script.endless_headers:
            return await endless_headers(Wire(request))
        if script.gzip_bomb_bytes is not None:
            kind = script.content_type or next(iter(self._voices.values())).stream_type
            return await bomb(Wire(request), script.gzip_bomb_bytes, kind)
        status = script.status or (307 if script.location else None)
        if status is None:
            return None
        headers = {"Retry-After": script.retry_after, "Location": script.location}
        return web.json_response(
            self._dialect.error(status, script.error),
            status=status,
            headers={name: value for name, value in headers.items() if value is not None},
        )

    # What a back end serves.

    async def _work(self, work: Work, request: web.Request) -> web.StreamResponse:
        visit = request[_VISIT]
        if visit.script.ttft_ms:
            await asyncio.sleep(visit.script.ttft_ms / 1000)
        return await work(visit)

    async def _chat(self, voice: Voice, request: web.Request) -> web.StreamResponse:
        visit = request[_VISIT]
        if not request.body_exists:
            raise Refused("bad_request", "missing request body")
        ask = voice.read(self._dialect.parsed(await request.read()))
        try:
            return await self._speak(voice, visit, ask)
        except Refused as refused:
            events = voice.refused(refused) if ask.stream else None
            if events is None:
                raise
            visit.received.end("refused")
            return visit.say_all(voice.stream_type, events)

    async def _speak(self, voice: Voice, visit: Visit, ask: Ask) -> web.StreamResponse:
        dialect, engine, script, received = self._dialect, self.engine, visit.script, visit.received
        model = dialect.chosen(ask)
        ask = dialect.settled(ask, model)
        if (other := dialect.instead(voice, ask, model, script)) is not None:
            return await other
        loop = asyncio.get_running_loop()
        came = loop.time()
        instance = await dialect.ready(ask, model, script)
        loaded = loop.time()
        with self.models.using(instance):
            async with engine.slot(received):
                named = dialect.named(ask, instance.model)
                answer = engine.answer(received.index, ask, named, dialect.context(instance), script)
                answer.request_id = visit.request.headers.get("X-Request-Id", "")
                answer.load_s, answer.queued_s = loaded - came, loop.time() - loaded
                speech = ChatSpeech(voice, answer)
                received.said, received.prefill = (
                    answer.parts,
                    ask.prefill,
                )
                try:
                    response = await visit.perform(speech, engine.pace.first_s, engine.pace.next_s, stream=ask.stream)
                    if received.ended is None:  # before its slot is free
                        received.end("completed")
                finally:
                    engine.tell(answer, received.sent)
        dialect.done_with(ask, instance)
        return response


def _model(model: str | Model) -> Model:
    return Model.parse(model) if isinstance(model, str) else model


def _model_in(body: dict[str, JsonValue]) -> str:
    for name in ("model", "name", "instance_id"):
        if isinstance(found := body.get(name), str):
            return found
    return ""


def _peer(request: web.Request) -> str:
    return "" if request.transport is None else str(request.transport.get_extra_info("peername"))


def _close(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()

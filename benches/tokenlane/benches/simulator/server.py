"""The simulated model server: accepts requests, picks their faults, and answers them with an engine and a dialect."""

from __future__ import annotations

import asyncio
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

from .control import control_handlers
from .dialects import DIALECTS
from .dialects.base import InfoHandler, LoggedHandler
from .dialects.encoder import Encoder
from .dialects.request_fields import json_object, model_named
from .engine import Engine, Pace
from .exchange import Exchange
from .fault_script import FaultScript
from .faults import Fault, Faults
from .http.early_answer import close, early_answer
from .http.encoded_chat import EncodedChat
from .http.player import CloseConnection, SendError, StaySilent
from .model.answer import Ask
from .model.models import Model, SimulatedModels
from .model.refusals import Refused
from .request_log import Log, Received

_BODY_BYTES = 64 * 1024 * 1024
_NO_FAULT = FaultScript()
_EXCHANGE = web.RequestKey("exchange", Exchange)


class Simulator:
    """A simulated model server, as an async context manager.

    The faults of a request are those in the object `simulate` in its body, else those of the first matching `Fault`.
    A chat without either gets the next script in `faults`. `log` and the paths under `/simulator/` list the received
    requests and how they ended.

    Args:
        api: the server to imitate, a key of `dialects.DIALECTS`.
        ttft_ms: the time to the first token.
        itl_ms: the time between tokens.
        tokens: the number of tokens in an ordinary answer. The request may set a lower limit.
        capacity: how many requests the server answers at once; others wait.
        queue: how many requests may wait; None: as many as on the imitated server.
        models: the models on disk, each a `Model`, a name, or `NAME=SIZE`.
        pullable: more models that the server can pull.
        loaded: the models in memory at the start; None: as on the imitated server.
        memory_bytes: how many bytes of models fit in memory; None: no limit.
        load_ms: the time to load a model.
        pull_ms: the time to pull a model.
        seed: the seed of the text; None: the text is numbered words, `w0 w1 w2 `.
        api_key: the key that requests must send, on the paths where the imitated server requires a key.
        faults: scripts for the first chats, in order, and `Fault`s, which say which requests they apply to.
        tls: the TLS context, to serve https.
        socket: the path of a Unix socket to listen on, in place of a port.
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
        faults: Sequence[FaultScript] = (),
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
        self.models = SimulatedModels(
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
        self._encoders = self._dialect.encoders()
        self._logged_handlers = self._dialect.logged_handlers()
        self._count = 0
        self._runner: web.AppRunner | None = None

    def _on_disk(self, name: str) -> Model:
        model = self.models.find(name)
        if model is None:
            raise ValueError(f"{name!r} cannot be loaded: it is not in `models`.")
        return model

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=_BODY_BYTES, middlewares=[self._handle])
        handlers: dict[str, InfoHandler] = {
            **{f"POST {path}": partial(self._chat, encoder) for path, encoder in self._encoders.items()},
            **{name: partial(self._handle_after_delay, handler) for name, handler in self._logged_handlers.items()},
            **self._dialect.handlers(),
            **control_handlers(self.log, self.engine, self.release),
        }
        for name, handler in handlers.items():
            method, path = name.split(" ")
            app.router.add_route(method, path, handler)
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
        """The number of requests that are being answered."""
        return self.engine.running

    def release(self, index: int | None = None) -> None:
        """Let the held answer to request `index` continue; None: all held answers."""
        for received in self.log:
            if index is None or received.index == index:
                received.released.set()

    def cut(self) -> None:
        """Close the connections of all running answers."""
        for received in self.log:
            if received.ended is None:
                received.cut()

    async def wait_for(self, condition: Callable[[], bool], timeout_s: float = 10) -> None:
        """Wait until `condition` returns True. It is called again when a request arrives, is held, or ends.

        Raises:
            TimeoutError: `condition` was not true in time.
        """
        await self.log.wait_for(condition, timeout_s)

    async def held(self, count: int = 1) -> None:
        """Wait until `count` answers are held."""
        await self.wait_for(lambda: sum(received.held for received in self.log) >= count)

    async def ended(self, count: int = 1) -> None:
        """Wait until `count` requests have ended and their slots are free."""
        await self.wait_for(lambda: sum(received.ended is not None for received in self.log) >= count)

    # The steps before a handler answers.

    @web.middleware
    async def _handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Pick the faults of a request, log the request, and let its handler answer."""
        if request.path.startswith("/simulator/"):
            return await handler(request)
        body = await request.read()
        parsed = json_object(body)
        chats = request.method == "POST" and request.path in self._encoders
        model = model_named(parsed)
        try:
            script = self._pick_fault(request.path, model, parsed, chats=chats)
        except ValidationError as error:
            return web.json_response(self._dialect.scripted_error(400, str(error)), status=400)
        if not chats and f"{request.method} {request.path}" not in self._logged_handlers:
            return await self._answer_unlogged(request, handler, script)
        received = Received(self._count, body, dict(request.headers), model, _peer(request), request.path)
        received.cut = partial(close, request)
        self._count += 1
        self.log.append(received)
        self.log.changed.notify()
        request[_EXCHANGE] = Exchange(request, received, script, self.engine, self.log, self._dialect.keeps_alive)
        try:
            return await self._answer_logged(request, handler, received, script)
        except (asyncio.CancelledError, ConnectionError):
            if received.ended is None:
                received.end("disconnected")
            raise
        finally:
            if received.ended is None:
                received.end("failed")
            received.held = False
            received.cut = lambda: None  # the connection may serve another request by now
            self.log.changed.notify()

    def _pick_fault(self, path: str, model: str, parsed: dict[str, JsonValue], *, chats: bool) -> FaultScript:
        if "simulate" in parsed:
            return FaultScript.model_validate(parsed["simulate"])
        if (fault := self._scripted.next_fault(path, model, chats=chats)) is not None:
            return fault
        return self.faults.popleft() if chats and self.faults else _NO_FAULT

    async def _answer_unlogged(self, request: web.Request, handler: Handler, script: FaultScript) -> web.StreamResponse:
        """Answer a request that only shows information. The log omits such requests."""
        if self._lacks_key(request):
            return self._dialect.refusal(Refused("unauthorized"))
        await asyncio.sleep((script.ttft_ms or 0) / 1000)
        if (early := await early_answer(request, script, self._dialect)) is not None:
            return early
        try:
            return await handler(request)
        except Refused as refused:
            return self._dialect.refusal(refused)
        except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
            return self._dialect.unknown_path(request)

    async def _answer_logged(
        self, request: web.Request, handler: Handler, received: Received, script: FaultScript
    ) -> web.StreamResponse:
        if (early := await early_answer(request, script, self._dialect)) is not None:
            received.end("refused")
            return early
        try:
            if self._lacks_key(request):
                raise Refused("unauthorized")
            response = await handler(request)
        except Refused as refused:
            received.end("refused")
            return self._dialect.refusal(refused)
        except SendError as broken:
            received.end("failed")
            return web.json_response(self._dialect.scripted_error(broken.status, broken.error), status=broken.status)
        except CloseConnection:
            received.end("failed")
            close(request)
            return web.Response()
        except StaySilent:
            received.end("failed")
            self.log.changed.notify()
            await received.released.wait()
            close(request)
            return web.Response()
        if received.ended is None:
            received.end("completed")
        return response

    def _lacks_key(self, request: web.Request) -> bool:
        if self._key is None or not self._dialect.requires_key(request.path):
            return False
        return not self._dialect.sends_key(request, self._key)

    # The handlers of a model server.

    async def _handle_after_delay(self, handler: LoggedHandler, request: web.Request) -> web.StreamResponse:
        exchange = request[_EXCHANGE]
        if exchange.script.ttft_ms:
            await asyncio.sleep(exchange.script.ttft_ms / 1000)
        return await handler(exchange)

    async def _chat(self, encoder: Encoder, request: web.Request) -> web.StreamResponse:
        exchange = request[_EXCHANGE]
        if not request.body_exists:
            raise Refused("bad_request", "missing request body")
        ask = encoder.read(self._dialect.parse_body(await request.read()))
        try:
            return await self._answer_chat(encoder, exchange, ask)
        except Refused as refused:
            events = encoder.refusal_bytes(refused) if ask.stream else None
            if events is None:
                raise
            exchange.received.end("refused")
            return exchange.send_events(encoder.stream_type, events)

    async def _answer_chat(self, encoder: Encoder, exchange: Exchange, ask: Ask) -> web.StreamResponse:
        dialect, engine, script, received = self._dialect, self.engine, exchange.script, exchange.received
        model = dialect.model_for(ask)
        ask = dialect.adapt_to_model(ask, model)
        if (other := dialect.answer_without_generating(encoder, ask, model, script)) is not None:
            return await other
        loop = asyncio.get_running_loop()
        came = loop.time()
        instance = await dialect.load_model(ask, model, script)
        loaded = loop.time()
        with self.models.using(instance):
            async with engine.slot(received):
                named = dialect.name_in_answer(ask, instance.model)
                answer = engine.answer(received.index, ask, named, dialect.context_limit(instance), script)
                answer.request_id = exchange.request.headers.get("X-Request-Id", "")
                answer.load_s, answer.queued_s = loaded - came, loop.time() - loaded
                encoded = EncodedChat(encoder, answer)
                received.parts, received.prefill = answer.parts, ask.prefill
                pace = engine.pace
                try:
                    response = await exchange.perform(encoded, pace.first_s, pace.next_s, stream=ask.stream)
                    if received.ended is None:  # before the slot becomes free
                        received.end("completed")
                finally:
                    engine.count_answer(answer, received.sent)
        dialect.after_answer(ask, instance)
        return response


def _model(model: str | Model) -> Model:
    return Model.parse(model) if isinstance(model, str) else model


def _peer(request: web.Request) -> str:
    return "" if request.transport is None else str(request.transport.get_extra_info("peername"))

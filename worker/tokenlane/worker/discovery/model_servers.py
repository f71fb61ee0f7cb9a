"""Probes endpoints for model servers: finds the kind of server that answers, and its models that can chat."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
from pydantic_core import from_json

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.settings.values import LaneSettings, masked_url
from tokenlane.routing.contract.errors import BadRequest, LlmError, ProviderDown
from tokenlane.routing.contract.requests import ChatRequest, Message
from tokenlane.routing.decide.candidates import served_name
from tokenlane.routing.watch.finding import Code, Finding
from tokenlane.worker.providers import LlmProvider, default_registry
from tokenlane.worker.providers.errors.http_errors import refusal
from tokenlane.worker.providers.http.client import TRANSPORT_ERRORS, LaneClient, read_body, transport_error
from tokenlane.worker.providers.server_names import NAMES

from .detect import PAGES, recognise
from .targets import Target

CONNECT_TIMEOUT_S = 1.0
TIMEOUT_S = 4.0
MAX_PAGE_BYTES = 4 * 1024 * 1024
_BY_A_PROXY = 407
"""The status of a proxy that requires authentication."""
_ON_THE_WAY = (aiohttp.ClientSSLError, aiohttp.ClientProxyConnectionError)
"""Failures to connect whose cause is worth reporting."""
_NO_MODEL = {
    "ollama": "it has no model that can chat: run `ollama pull MODEL`",
    "lmstudio": "it has no model that can chat: download one in LM Studio",
}


@dataclass(frozen=True)
class ModelServer:
    """The result of looking at one target.

    Args:
        lane: the lane that would serve it, with the recognised provider.
        models: its models that can chat.
        problem: why it cannot be used; None if it can.
    """

    lane: LaneSettings
    provider: str | None
    models: tuple[str, ...] = ()
    problem: Finding | None = None

    @property
    def endpoint(self) -> str:
        """Its URL, without a password."""
        return masked_url(self.lane.endpoint or "")


async def look_at_all(targets: Iterable[Target]) -> list[ModelServer]:
    """Look at all targets at once, in a few seconds at most. The results are in the order of the targets."""
    return list(await asyncio.gather(*map(look, targets)))


async def look(place: Target) -> ModelServer:
    """Look at one target."""
    lane = replace(place.lane, connect_timeout_s=min(CONNECT_TIMEOUT_S, place.lane.connect_timeout_s))
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await _seen(place, lane)
    except (LlmError, ConfigError) as error:
        why = error.message if isinstance(error, LlmError) else str(error)
    except TimeoutError:
        why = f"it did not answer within {TIMEOUT_S:g} s"
    return ModelServer(place.lane, place.provider, problem=_problem(Code.MODEL_SERVER, why, place))


def _problem(code: Code, observed: str, place: Target) -> Finding:
    return Finding(code, "fail", observed, subject=masked_url(place.lane.endpoint or ""))


async def kind_at(lane: LaneSettings) -> str | None:
    """The provider for the server at the lane's endpoint; None if it is not recognised or does not answer in time."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return recognise(await _pages(lane))
    except (TimeoutError, LlmError):
        return None


async def first_token(lane: LaneSettings, model: str) -> None:
    """Generate one token: a server that lists its models may still refuse to chat.

    Raises:
        LlmError: it failed.
    """
    question = ChatRequest(role="probe", messages=[Message(role="user", content="Hello")], max_tokens=1)
    async with default_registry().create(lane) as backend:
        try:
            await _begin(backend, question, model)
        except BadRequest:  # some of OpenAI's models reject `max_tokens`
            await _begin(backend, question.model_copy(update={"max_tokens": None}), model)


async def _begin(backend: LlmProvider, question: ChatRequest, model: str) -> None:
    async with aclosing(backend.chat(question, model)) as deltas:
        async for _ in deltas:
            return


async def _seen(place: Target, lane: LaneSettings) -> ModelServer:
    pages = await _pages(lane)
    kind = recognise(pages)
    wrong = _not_expected(kind, place.provider)
    if wrong:
        return ModelServer(place.lane, kind, problem=_problem(Code.OTHER_SERVER, wrong, place))
    provider = place.provider or kind
    assert provider is not None
    seen = replace(place.lane, provider=provider)
    async with default_registry().create(replace(lane, provider=provider)) as backend:
        try:
            models = tuple(model.name for model in await backend.models() if model.chats)
        except LlmError as error:
            return ModelServer(seen, provider, problem=_problem(Code.MODEL_SERVER, error.message, place))
    missing = [name for name in lane.models if served_name(name, models) is None]
    problem = None
    if missing:
        problem = _problem(Code.MODEL_MISSING, f"it has no {missing[0]!r}, which is configured", place)
    elif not models:
        problem = _problem(Code.MODEL_MISSING, _NO_MODEL.get(provider, "it serves no model that can chat"), place)
    return ModelServer(seen, provider, models, problem)


def _not_expected(kind: str | None, expected: str | None) -> str:
    """Why a server of this kind is not the expected one; empty if it is."""
    if kind is None and expected == "openai":
        return ""  # listing its models tells what it wants, such as a key
    if kind is None and expected in (None, *NAMES):
        return f"the server that answers is not {', '.join(list(NAMES.values())[:-2])} or {list(NAMES.values())[-2]}"
    if expected is None and kind == "openai":
        return "it is an unknown OpenAI-compatible server: use --provider openai --endpoint URL"
    if expected in NAMES and expected not in (kind, "openai"):
        assert kind is not None
        return f"it is {NAMES[kind]}, not {NAMES[expected]}: set its provider to {kind!r}"
    return ""


async def _pages(lane: LaneSettings) -> dict[str, Any]:
    """The JSON that the server answers for each of `PAGES`; None for a page that is not JSON.

    Raises:
        LlmError: no page could be fetched.
    """
    assert lane.endpoint is not None
    async with aclosing(LaneClient(lane, lane.endpoint.rstrip("/").removesuffix("/v1"))) as client:
        answers = await asyncio.gather(*(_page(client, path) for path in PAGES))
    pages = {path: answer for path, answer in zip(PAGES, answers, strict=True) if not isinstance(answer, Exception)}
    if not pages:
        raise _silent(answers[0])
    if not any(pages.values()) and (turned_away := [each for each in answers if isinstance(each, LlmError)]):
        raise turned_away[0]
    return pages


def _silent(error: Exception) -> LlmError:
    """Why no page could be fetched: nothing listens, or the server or a proxy refuses."""
    nobody_listens = isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error.os_error, PermissionError)
    if nobody_listens and not isinstance(error, _ON_THE_WAY):
        return ProviderDown("nothing answers there")
    return error if isinstance(error, LlmError) else transport_error(error)


async def _page(client: LaneClient, path: str) -> Any:
    """The page; None if it is not JSON, the error if it cannot be fetched."""
    try:
        async with await client.send("GET", path, connects_again=False) as response:
            body, status = await read_body(response, MAX_PAGE_BYTES), response.status
            return refusal(status, body) if 300 <= status < 400 or status == _BY_A_PROXY else from_json(body)
    except (LlmError, *TRANSPORT_ERRORS) as error:
        return error
    except ValueError:
        return None

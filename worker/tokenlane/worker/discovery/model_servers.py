"""Probes endpoints: detects the kind of model server that answers, and lists its models that can chat."""

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

from .detect import PATHS, recognise
from .targets import Target

CONNECT_TIMEOUT_S = 1.0
TIMEOUT_S = 4.0
MAX_DOCUMENT_BYTES = 4 * 1024 * 1024
_BY_A_PROXY = 407
"""The status of a proxy that requires authentication."""
_FAILED_ON_THE_WAY = (aiohttp.ClientSSLError, aiohttp.ClientProxyConnectionError)
"""Failures between this host and the server. Their cause is reported."""
_NO_MODEL = {
    "ollama": "it has no model that can chat: run `ollama pull MODEL`",
    "lmstudio": "it has no model that can chat: download one in LM Studio",
}


@dataclass(frozen=True)
class ModelServer:
    """The result of probing one target.

    Args:
        lane: the settings with which a lane can serve it.
        provider: the provider that the probe detected, or else the configured one; None if there is neither.
        models: those of its models that can chat.
        problem: why it cannot be used; None if it can be used.
    """

    lane: LaneSettings
    provider: str | None
    models: tuple[str, ...] = ()
    problem: Finding | None = None

    @property
    def endpoint(self) -> str:
        """Its URL, without a password."""
        return masked_url(self.lane.endpoint or "")


async def probe_targets(targets: Iterable[Target]) -> list[ModelServer]:
    """Probe all targets at once, for at most `TIMEOUT_S`. The results are in the order of the targets."""
    return list(await asyncio.gather(*map(probe_target, targets)))


async def probe_target(target: Target) -> ModelServer:
    """Find out which model server answers at one target, and which of its models can chat. Raises no `LlmError`."""
    lane = replace(target.lane, connect_timeout_s=min(CONNECT_TIMEOUT_S, target.lane.connect_timeout_s))
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await _probe(target, lane)
    except (LlmError, ConfigError) as error:
        why = error.message if isinstance(error, LlmError) else str(error)
    except TimeoutError:
        why = f"it did not answer within {TIMEOUT_S:g} s"
    return ModelServer(target.lane, target.provider, problem=_problem(Code.MODEL_SERVER, why, target))


def _problem(code: Code, observed: str, target: Target) -> Finding:
    return Finding(code, "fail", observed, subject=masked_url(target.lane.endpoint or ""))


async def detect_kind(lane: LaneSettings) -> str | None:
    """The provider for the server at the lane's endpoint; None if it is not recognised or does not answer in time."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return recognise(await _documents(lane))
    except (TimeoutError, LlmError):
        return None


async def generate_token(lane: LaneSettings, model: str) -> None:
    """Have the model generate one token, since a server that lists a model may still refuse to run it.

    Raises:
        LlmError: the model server did not generate a token.
    """
    question = ChatRequest(role="probe", messages=[Message(role="user", content="Hello")], max_tokens=1)
    async with default_registry().create(lane) as provider:
        try:
            await _receive_delta(provider, question, model)
        except BadRequest:  # some of OpenAI's models reject `max_tokens`
            await _receive_delta(provider, question.model_copy(update={"max_tokens": None}), model)


async def _receive_delta(provider: LlmProvider, question: ChatRequest, model: str) -> None:
    async with aclosing(provider.chat(question, model)) as deltas:
        async for _ in deltas:
            return


async def _probe(target: Target, lane: LaneSettings) -> ModelServer:
    documents = await _documents(lane)
    kind = recognise(documents)
    expected = "openai" if target.accepts_unknown and kind == "openai" else target.provider
    wrong = _why_unexpected(kind, expected)
    if wrong:
        return ModelServer(target.lane, kind, problem=_problem(Code.OTHER_SERVER, wrong, target))
    provider = target.provider or kind
    assert provider is not None
    lane_served = replace(target.lane, provider=provider)
    async with default_registry().create(replace(lane, provider=provider)) as client:
        try:
            models = tuple(model.name for model in await client.models() if model.chats)
        except LlmError as error:
            return ModelServer(lane_served, provider, problem=_problem(Code.MODEL_SERVER, error.message, target))
    missing = [name for name in lane.models if served_name(name, models) is None]
    problem = None
    if missing:
        problem = _problem(Code.MODEL_MISSING, f"it does not have the configured model {missing[0]!r}", target)
    elif not models:
        problem = _problem(Code.MODEL_MISSING, _NO_MODEL.get(provider, "it serves no model that can chat"), target)
    return ModelServer(lane_served, provider, models, problem)


def _why_unexpected(kind: str | None, expected: str | None) -> str:
    """Why the detected kind of server cannot be used for the expected provider; empty if it can be used."""
    if kind is None and expected == "openai":
        return ""  # listing its models shows what is missing, such as a key
    if kind is None and expected in (None, *NAMES):
        return (
            f"the server at this endpoint is not {', '.join(list(NAMES.values())[:-2])} or {list(NAMES.values())[-2]}"
        )
    if expected is None and kind == "openai":
        return "it is an OpenAI-compatible server of an unknown kind: use it with --provider openai --endpoint URL"
    if expected in NAMES and expected not in (kind, "openai"):
        assert kind is not None
        return f"it is {NAMES[kind]}, not {NAMES[expected]}: set its provider to {kind!r}"
    return ""


async def _documents(lane: LaneSettings) -> dict[str, Any]:
    """The JSON that the server answers for each of `PATHS`; None for an answer that is not JSON.

    Raises:
        LlmError: the server answered none of the paths.
    """
    assert lane.endpoint is not None
    async with aclosing(LaneClient(lane, lane.endpoint.rstrip("/").removesuffix("/v1"))) as client:
        answers = await asyncio.gather(*(_request_json(client, path) for path in PATHS))
    documents = {path: answer for path, answer in zip(PATHS, answers, strict=True) if not isinstance(answer, Exception)}
    if not documents:
        raise _why_unreachable(answers[0])
    if not any(documents.values()) and (refusals := [each for each in answers if isinstance(each, LlmError)]):
        raise refusals[0]
    return documents


def _why_unreachable(error: Exception) -> LlmError:
    """The error for a server that answered none of the paths."""
    nobody_listens = isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error.os_error, PermissionError)
    if nobody_listens and not isinstance(error, _FAILED_ON_THE_WAY):
        return ProviderDown("Nothing listens at this address.")
    return error if isinstance(error, LlmError) else transport_error(error)


async def _request_json(client: LaneClient, path: str) -> Any:
    """The path's answer as JSON; None if it is not JSON. If there is no answer, the error is returned, not raised."""
    try:
        async with await client.send("GET", path, connects_again=False) as response:
            body, status = await read_body(response, MAX_DOCUMENT_BYTES), response.status
            return refusal(status, body) if 300 <= status < 400 or status == _BY_A_PROXY else from_json(body)
    except (LlmError, *TRANSPORT_ERRORS) as error:
        return error
    except ValueError:
        return None

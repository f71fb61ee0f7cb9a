"""The paths of OpenAI's Batches: create, list, look at and cancel batches."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from functools import partial

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tokenlane.producer.gateway.access.caller import Caller
from tokenlane.producer.gateway.failures import Refused
from tokenlane.producer.gateway.files.routes import CallerOf, found, handled, lifetime_s, list_body, page
from tokenlane.producer.gateway.files.shelf import KEPT_S, Shelf, new_id
from tokenlane.producer.gateway.http.json_body import read_json, validated

from .batch import Batch
from .keeper import Keeper

_WINDOW = re.compile(r"([1-9][0-9]{0,3})([hms])")
_UNITS_S = {"h": 3600, "m": 60, "s": 1}
_LONGEST_S = 24 * 3600


class _Create(BaseModel):
    """The body of a request for a batch."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = Field(default=None, max_length=16)
    output_expires_after: dict[str, JsonValue] | None = None


def batch_routes(keeper: Keeper | None, caller_of: CallerOf, endpoints: Sequence[str]) -> list[Route]:
    """The routes. Without a keeper they say how to enable them.

    Args:
        endpoints: the paths that lines may ask.
    """
    handle = partial(handled, keeper.store.shelf if keeper else None, caller_of)
    doors = _Batches(keeper, endpoints)
    return [
        Route("/v1/batches", handle(doors.create), methods=["POST"]),
        Route("/v1/batches", handle(doors.list), methods=["GET"]),
        Route("/v1/batches/{id}", handle(doors.get), methods=["GET"]),
        Route("/v1/batches/{id}/cancel", handle(doors.cancel), methods=["POST"]),
    ]


class _Batches:
    """The handlers, which `handled` calls only if there is a keeper."""

    def __init__(self, keeper: Keeper | None, endpoints: Sequence[str]) -> None:
        self._given, self._endpoints = keeper, endpoints

    @property
    def _keeper(self) -> Keeper:
        assert self._given is not None
        return self._given

    async def create(self, shelf: Shelf, caller: Caller, request: Request) -> Response:
        body = validated(_Create, await read_json(request))
        if body.endpoint not in self._endpoints:
            message = f"`endpoint` must be one of {', '.join(self._endpoints)}."
            raise Refused(400, "bad_request", message, param="endpoint")
        window_s, kept_s = _window_s(body.completion_window), KEPT_S
        if (after := body.output_expires_after) is not None:
            kept_s = lifetime_s(after.get("seconds"), after.get("anchor"), param="output_expires_after")
        about = await found(shelf, caller, body.input_file_id)
        if about.purpose != "batch":
            raise Refused(400, "bad_request", "The file's purpose is not `batch`.", param="input_file_id")
        now = int(time.time())
        batch = Batch(
            id=new_id("batch_"),
            agent=caller.agent,
            role=caller.role,
            quota=caller.quota,
            endpoint=body.endpoint,
            input_file_id=about.id,
            completion_window=body.completion_window,
            output_id=new_id("file-"),
            error_id=new_id("file-"),
            kept_s=kept_s,
            metadata=body.metadata,
            created_at=now,
            expires_at=min(now + window_s, about.expires_at),
        )
        await asyncio.to_thread(self._keeper.store.put, batch)
        self._keeper.wake()
        return await self._shown(batch)

    async def list(self, _: Shelf, caller: Caller, request: Request) -> Response:
        store = self._keeper.store
        batches = {batch.id: batch for batch in await asyncio.to_thread(store.all_of, caller.agent)}
        ids, has_more = page(request, tuple(batches), most=100, default=20)
        shown = [batches[each].as_openai(await asyncio.to_thread(store.cancelled_at, each)) for each in ids]
        return JSONResponse(list_body(shown, has_more=has_more))

    async def get(self, _: Shelf, caller: Caller, request: Request) -> Response:
        return await self._shown(await self._found(caller, request))

    async def cancel(self, _: Shelf, caller: Caller, request: Request) -> Response:
        batch = await self._found(caller, request)
        if batch.has_ended:
            message = f"The batch has ended: it is {batch.status}."
            raise Refused(409, "batch_has_ended", message, param="batch_id")
        await asyncio.to_thread(self._keeper.store.cancel, batch.id)
        self._keeper.wake()
        return await self._shown(batch)

    async def _found(self, caller: Caller, request: Request) -> Batch:
        batch_id: str = request.path_params["id"]
        batch = await asyncio.to_thread(self._keeper.store.get, batch_id, caller.agent)
        if batch is None:
            message = f"There is no batch {batch_id[:60]!r}: it ended long ago, or was never here."
            raise Refused(404, "batch_not_found", message, param="batch_id")
        return batch

    async def _shown(self, batch: Batch) -> Response:
        cancelling_at = await asyncio.to_thread(self._keeper.store.cancelled_at, batch.id)
        return JSONResponse(batch.as_openai(cancelling_at))


def _window_s(text: str) -> int:
    """The seconds of a completion window.

    Raises:
        Refused: it is not valid.
    """
    match = _WINDOW.fullmatch(text)
    seconds = int(match[1]) * _UNITS_S[match[2]] if match else 0
    if not 1 <= seconds <= _LONGEST_S:
        message = "`completion_window` must be a time of at most 24h, such as 24h, 90m or 30s."
        raise Refused(400, "bad_request", message, param="completion_window")
    return seconds

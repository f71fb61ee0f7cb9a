"""The paths of OpenAI's Files: upload, list, look at, read and delete files."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import get_args

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tokenlane.producer.gateway.access.caller import Caller
from tokenlane.producer.gateway.answering import refusal, unless_refused
from tokenlane.producer.gateway.failures import Failure, Refused
from tokenlane.producer.gateway.openai_errors import error_body

from .sealed_log import Unreadable
from .shelf import FILE_LIMIT_BYTES, SHELF_LIMIT_BYTES, UPLOADS_KEPT_S, About, Purpose, Shelf, new_id
from .upload import Form, read_upload

CallerOf = Callable[[Request], Awaitable[Caller]]
Handler = Callable[[Shelf, Caller, Request], Awaitable[Response]]

UPLOADED: tuple[Purpose, ...] = ("batch",)
"""The purposes of files that clients may upload."""
_SHORTEST_S, _LONGEST_S = 3600, 30 * 24 * 3600
_NOT_ENABLED = Failure(
    501,
    "files_not_enabled",
    "This gateway keeps no files: start it with `tokenlane serve --files DIR` in a pool with a key.",
)


def file_routes(shelf: Shelf | None, caller_of: CallerOf) -> list[Route]:
    """The routes. Without a shelf they say how to enable them."""
    handle = partial(handled, shelf, caller_of)
    return [
        Route("/v1/files", handle(_upload), methods=["POST"]),
        Route("/v1/files", handle(_list), methods=["GET"]),
        Route("/v1/files/{id}", handle(_get), methods=["GET"]),
        Route("/v1/files/{id}", handle(_delete), methods=["DELETE"]),
        Route("/v1/files/{id}/content", handle(_content), methods=["GET"]),
    ]


def handled(shelf: Shelf | None, caller_of: CallerOf, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """A route's handler, whose errors have OpenAI's shape."""

    async def handle(request: Request) -> Response:
        return await unless_refused(error_body, answer(request))

    async def answer(request: Request) -> Response:
        caller = await caller_of(request)
        if shelf is None:
            return refusal(error_body, _NOT_ENABLED)
        try:
            return await handler(shelf, caller, request)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            failure = Failure(507, "files_failed", f"The gateway's directory of files cannot be used: {reason}.")
            return refusal(error_body, failure)

    return handle


def page(request: Request, ids: Sequence[str], *, most: int, default: int) -> tuple[list[str], bool]:
    """The ids of one page of a list, after the one that `after` names, and whether more follow.

    Raises:
        Refused: `limit` or `after` is not valid.
    """
    given, after = request.query_params.get("limit", str(default)), request.query_params.get("after")
    if not re.fullmatch("[0-9]{1,6}", given) or not 1 <= int(given) <= most:
        raise Refused(400, "bad_request", f"`limit` must be a number from 1 to {most}.", param="limit")
    if after is not None:
        if after not in ids:
            raise Refused(400, "bad_request", "`after` is not the id of an object in this list.", param="after")
        ids = ids[ids.index(after) + 1 :]
    return list(ids[: int(given)]), len(ids) > int(given)


def list_body(objects: Sequence[dict[str, object]], *, has_more: bool) -> dict[str, object]:
    """A page of a list, as in OpenAI's API."""
    first, last = (objects[0]["id"], objects[-1]["id"]) if objects else (None, None)
    return {"object": "list", "data": objects, "first_id": first, "last_id": last, "has_more": has_more}


def lifetime_s(seconds: object, anchor: object, *, param: str) -> int:
    """How long a file is to be kept, from `expires_after`.

    Raises:
        Refused: it is not valid.
    """
    text = str(seconds)
    if anchor != "created_at":
        raise Refused(400, "bad_request", f"`{param}.anchor` must be created_at.", param=param)
    if not re.fullmatch("[0-9]{1,8}", text) or not _SHORTEST_S <= int(text) <= _LONGEST_S:
        message = f"`{param}.seconds` must be a number from {_SHORTEST_S} to {_LONGEST_S}."
        raise Refused(400, "bad_request", message, param=param)
    return int(text)


async def _upload(shelf: Shelf, caller: Caller, request: Request) -> Response:
    if await asyncio.to_thread(lambda: shelf.size) >= SHELF_LIMIT_BYTES:
        raise Refused(507, "files_full", f"The gateway's files have {SHELF_LIMIT_BYTES} bytes: delete some.")
    file_id, now = new_id("file-"), int(time.time())
    content = await asyncio.to_thread(shelf.write_content, file_id)
    try:
        form = await read_upload(request, lambda piece: asyncio.to_thread(content.append, 0, piece), FILE_LIMIT_BYTES)
        about = _about(form, file_id, caller.agent, now)
        await asyncio.to_thread(content.flush)
        await asyncio.to_thread(shelf.put, about)
    except BaseException:
        shelf.delete(file_id)
        raise
    finally:
        content.close()
    return JSONResponse(about.as_openai())


def _about(form: Form, file_id: str, agent: str, now: int) -> About:
    purpose = next((known for known in UPLOADED if known == form.fields.get("purpose")), None)
    if form.filename is None:
        raise Refused(400, "bad_request", "The form has no `file`.", param="file")
    if purpose is None:
        known = " or ".join(UPLOADED)
        all_known = get_args(Purpose)
        given = form.fields.get("purpose", "")
        what = f"{given!r} is not for uploads" if given in all_known else "The purpose is not known here"
        raise Refused(400, "bad_request", f"{what}: `purpose` must be {known}.", param="purpose")
    kept_s = UPLOADS_KEPT_S
    if {"expires_after[anchor]", "expires_after[seconds]"} & form.fields.keys():
        seconds, anchor = form.fields.get("expires_after[seconds]"), form.fields.get("expires_after[anchor]")
        kept_s = lifetime_s(seconds, anchor, param="expires_after")
    return About(
        id=file_id,
        agent=agent,
        filename=form.filename,
        purpose=purpose,
        bytes=form.size,
        created_at=now,
        expires_at=now + kept_s,
    )


async def _list(shelf: Shelf, caller: Caller, request: Request) -> Response:
    order, purpose = request.query_params.get("order", "desc"), request.query_params.get("purpose")
    if order not in ("asc", "desc"):
        raise Refused(400, "bad_request", "`order` must be asc or desc.", param="order")
    abouts = await asyncio.to_thread(shelf.all_of, caller.agent)
    if order == "desc":
        abouts.reverse()
    known = {about.id: about for about in abouts if purpose in (None, about.purpose)}
    ids, has_more = page(request, list(known), most=10_000, default=10_000)
    return JSONResponse(list_body([known[file_id].as_openai() for file_id in ids], has_more=has_more))


async def _get(shelf: Shelf, caller: Caller, request: Request) -> Response:
    return JSONResponse((await found(shelf, caller, request.path_params["id"])).as_openai())


async def _delete(shelf: Shelf, caller: Caller, request: Request) -> Response:
    about = await found(shelf, caller, request.path_params["id"])
    await asyncio.to_thread(shelf.delete, about.id)
    return JSONResponse({"id": about.id, "object": "file", "deleted": True})


async def _content(shelf: Shelf, caller: Caller, request: Request) -> Response:
    about = await found(shelf, caller, request.path_params["id"])
    pieces = shelf.content(about.id)
    try:
        first = await asyncio.to_thread(next, pieces)
    except Unreadable as error:
        raise Refused(500, "file_unreadable", str(error)) from None
    except FileNotFoundError:
        raise _unknown(about.id) from None

    def body() -> Iterator[bytes]:
        yield first
        yield from pieces

    headers = {"content-length": str(about.bytes), "cache-control": "no-store"}
    return StreamingResponse(body(), media_type="application/octet-stream", headers=headers)


async def found(shelf: Shelf, caller: Caller, file_id: str) -> About:
    """The caller's file.

    Raises:
        Refused: there is none with this id.
    """
    about = await asyncio.to_thread(shelf.get, file_id, caller.agent)
    if about is None:
        raise _unknown(file_id)
    return about


def _unknown(file_id: str) -> Refused:
    message = f"There is no file {file_id[:60]!r}: it was deleted, or its time is over."
    return Refused(404, "file_not_found", message, param="file_id")

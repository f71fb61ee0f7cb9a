"""Reads the JSON body of a request, within limits of size and time, and checks it against the form of a dialect."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from typing import TypeGuard, TypeVar

from pydantic import BaseModel, JsonValue, ValidationError
from starlette.requests import Request

from tokenlane.producer.gateway.failures import Refused

_Form = TypeVar("_Form", bound=BaseModel)

BODY_LIMIT_BYTES = 16 * 1024 * 1024
"""The largest body of a request: twice what the pool accepts, since JSON may write a character in more bytes."""
_LONGEST_NAME = 64
_WITHIN_S = 60.0
"""How long a client may take to send a body."""
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")
"""How JSON writes the halves of a character above U+FFFF; without the other one, a half is no text."""


async def read_json(request: Request) -> dict[str, JsonValue]:
    """Return the body, which must be a JSON object.

    Raises:
        Refused: the body is too large, comes too slowly, or is not a JSON object.
        ClientDisconnect: the client left.
    """
    data = await read_body(request, BODY_LIMIT_BYTES)
    try:
        text = data.decode("utf-8-sig")
        body: object = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):  # an error of the parser would quote the body
        raise Refused(400, "invalid_json", "The body is not valid JSON: send a JSON object in UTF-8.") from None
    if not _is_object(body):
        raise Refused(400, "invalid_json", f"The body is JSON of type {type(body).__name__}: send a JSON object.")
    if _HALF_CHARACTER.search(text) and not _is_unicode(body):
        raise Refused(400, "bad_request", "The body has text that is not valid Unicode: remove lone surrogates.")
    return body


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body's bytes.

    Raises:
        Refused: the body has more than `limit` bytes, or comes too slowly.
        ClientDisconnect: the client left.
    """
    announced = request.headers.get("content-length", "0")
    too_large = Refused(413, "body_too_large", f"The body is larger than {limit} bytes: send a shorter conversation.")
    if announced.isdecimal() and int(announced) > limit:
        raise too_large
    data = bytearray()
    try:
        async with asyncio.timeout(_WITHIN_S):
            async for chunk in request.stream():
                data += chunk
                if len(data) > limit:
                    raise too_large
    except TimeoutError:
        raise Refused(408, "body_too_slow", f"The body did not arrive within {_WITHIN_S:g} s.") from None
    return bytes(data)


def validated(form: type[_Form], body: Mapping[str, JsonValue]) -> _Form:
    """Return the body as a form.

    Raises:
        Refused: the body does not fit. The first wrong field is named, without its value.
    """
    try:
        return form.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or _is_name(part))
        raise Refused(400, "bad_request", f"`{param}` is not valid: {first['msg']}.", param=param) from None


def _is_name(key: str) -> bool:
    """Whether a key of the body is a name, which an error may show. Other keys, as of `metadata`, may be content."""
    return key.isidentifier() and len(key) <= _LONGEST_NAME


def _is_object(body: object) -> TypeGuard[dict[str, JsonValue]]:
    return isinstance(body, dict)


def _is_unicode(body: object) -> bool:
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_constant(name: str) -> None:
    raise ValueError(name)

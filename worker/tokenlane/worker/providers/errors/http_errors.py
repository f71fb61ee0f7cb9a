"""Turns a back end's error answer into an `LlmError`, whether it came as an HTTP status or inside a stream.

The back end's own words may quote the prompt, so they go into `detail` and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import pydantic_core

from tokenlane.routing.contract.errors import (
    BadRequest,
    LlmError,
    ModelNotFound,
    ProviderDown,
    RateLimited,
    Timeout,
    Unauthorized,
    UnreadableAnswer,
)
from tokenlane.worker.providers.errors.batch_errors import TooManyTexts, too_many
from tokenlane.worker.providers.errors.context_errors import too_long

MAX_DETAIL_BYTES = 2048
PROXY_WANTS_A_USER = (
    "The proxy to the back end wants a user and a password, or others (HTTP 407): put them into HTTP_PROXY and "
    "HTTPS_PROXY, http://USER:PASSWORD@HOST:PORT, or name the back end's host in NO_PROXY."
)
LONGEST_RETRY_AFTER_S = 86_400.0

_NO_ROUTE = (b'{"detail":"NotFound"}', b"Unexpectedendpointormethod")
"""What vLLM's framework and LM Studio say, without their spaces; of an unknown model they say more."""
_BUSY = (b"server busy", b"Model is overloaded")
"""Ollama's and TGI's words, both of which have other statuses for it as well."""
_LOADING = (b"loading model", b"model is loading", b"is currently loading", b"still loading")
"""llama.cpp's words, and those of servers like it, in small letters."""
_NO_IMAGES = (b"image input is not supported", b"missing data required for image input", b"is not a multimodal model")
"""llama.cpp's and Ollama's words, with status 500, and vLLM's."""
_NO_TOOLS = (b"does not support tools", b"requires --enable-auto-tool-choice", b"requires --jinja")
"""Ollama's words, vLLM's, and llama.cpp's, with status 500."""
_TOO_LARGE = b"tokens) is too large to process. increase the physical batch size"
"""llama.cpp's words for a text to embed, with status 500."""
_CANNOT = (b"Jinja Exception", b"Unsupported param", b"parse grammar")
"""llama.cpp's words, with status 500, for what its model's template or its grammar does not take."""
_NO_CREDIT = b"insufficient_quota"
_TOO_LARGE_A_BODY = (
    "The request is too large for the back end, or for a proxy before it (HTTP 413): send less at once, or raise the "
    "limit there."
)
_STATUS_FIELDS = ("code", "status_code", "status")
_TYPE_FIELDS = ("type", "code", "status", "error_type")
_STATUSES = {
    "invalid_api_key": 401,
    "authentication": 401,
    "permission": 403,
    "not_found": 404,
    "notfound": 404,
    "rate_limit": 429,
    "ratelimit": 429,
    "resource_exhausted": 429,
    "too_many_requests": 429,
    "overloaded": 503,
    "unavailable": 503,
    "timeout": 408,
    "invalid_request": 400,
    "invalid_argument": 400,
    "badrequest": 400,
    "bad_request": 400,
    "validation": 422,
    "unprocessable": 422,
    "content_filter": 400,
    "content_policy": 400,
    "unsupported": 400,
}
"""The status that a part of an error's type stands for, the first that fits. Its message may quote a prompt, and is not
looked at for them."""


def refusal(status: int, body: bytes, retry_after: str | None = None) -> LlmError:
    """The error an HTTP answer other than 200 stands for.

    Args:
        retry_after: the header of that name.
    """
    error = _by_words(status, body) or _by_status(status)
    error.detail = _bounded(body)
    error.retry_after_s = retry_after_s(retry_after)
    return error


def unreadable(why: str, data: bytes = b"") -> UnreadableAnswer:
    """The error for an answer that cannot be read. The next answer would have the same form, so it is not worth another
    try.

    Args:
        why: where and how it is unlike what was expected, in words that quote nothing.
        data: what came, for the detail.
    """
    return UnreadableAnswer(
        f"The back end's answer cannot be read: {why}. Is it a server that the lane's provider can talk to?",
        detail=_bounded(data),
    )


def error_of(page: object) -> object | None:
    """What a page of JSON, or an event, reports as an error, in the shape of OpenAI, Ollama, vLLM, FastAPI or Gemini.

    Returns:
        None if it reports none.
    """
    if isinstance(page, list):
        return error_of(page[0]) if page else None
    if not isinstance(page, dict):
        return None
    if error := page.get("error"):
        bare = isinstance(error, dict) or page.keys() <= {"error"} or "choices" in page
        return error if bare else page
    if page.get("choices") or isinstance(page.get("message"), dict):
        return None
    if page.get("object") == "error" or isinstance(page.get("message"), str):
        return page
    detail = page.get("detail") or page.get("errors")
    return page if detail else None


def refusal_in_stream(error: object) -> LlmError:
    """The error that an `error` member of an answer with status 200 stands for; one without a status, a type or words
    that are known is a failed back end."""
    body = pydantic_core.to_json(error)
    fields = error if isinstance(error, dict) else {}
    status = _status_of(fields)
    if status is not None:
        return refusal(status, body)
    meaning = _by_words(400, body) or _without_status(body)
    if type(meaning) is ProviderDown and (status := _status_of_type(fields)) is not None:
        return refusal(status, body)
    meaning.detail = _bounded(body)
    return meaning


def _status_of(error: Mapping[str, object]) -> int | None:
    for name in _STATUS_FIELDS:
        status = error.get(name)
        if isinstance(status, str) and len(status) == 3 and status.isascii() and status.isdigit():  # LiteLLM's
            status = int(status)
        if isinstance(status, int) and 400 <= status <= 599:
            return status
    return None


def _status_of_type(error: Mapping[str, object]) -> int | None:
    types = " ".join(str(error.get(name) or "")[:64] for name in _TYPE_FIELDS).lower()
    return next((status for word, status in _STATUSES.items() if word in types), None)


def retry_after_s(value: str | None) -> float | None:
    """Seconds from now, of a Retry-After header: seconds or an HTTP date; None if it is neither."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), LONGEST_RETRY_AFTER_S)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max((moment - datetime.now(UTC)).total_seconds(), 0.0), LONGEST_RETRY_AFTER_S)


def _bounded(body: bytes) -> str:
    return body[:MAX_DETAIL_BYTES].decode("utf-8", "replace")


def _by_words(status: int, body: bytes) -> LlmError | None:
    """What the words tell better than the status. They may quote a prompt, so each only where its server says it."""
    if status in (400, 500) and _says(body, _NO_IMAGES):
        return BadRequest("The back end's model takes no images: send text, or route this role to a model that does.")
    if status in (400, 500) and _says(body, _NO_TOOLS):
        return BadRequest(
            "The back end's model knows no tools, or its server was started without them: ask without, or route this "
            "role to a model that does."
        )
    if status in (400, 413, 422) or (status == 500 and _TOO_LARGE in body):
        return too_many(body) or too_long(body) or (TooManyTexts(_TOO_LARGE_A_BODY) if status == 413 else None)
    if status == 500 and b'"server_error"' in body and _says(body, _CANNOT):
        return BadRequest("The back end, or its model's template, does not take this request: the detail says why.")
    if status == 404 and _says(b"".join(body.split()), _NO_ROUTE):
        return _no_route()
    if status == 429 and _NO_CREDIT in body:
        return RateLimited("The account's quota at the back end is used up.", retryable=False)
    if status == 503 and _says(body, _BUSY):
        return _busy()
    if status == 503 and _says(body.lower(), _LOADING):
        return _loading()
    return None


def _without_status(body: bytes) -> LlmError:
    if _says(body, _BUSY):
        return _busy()
    if _says(b"".join(body.split()), _NO_ROUTE):
        return _no_route()
    if b"model_not_found" in body:
        return _by_status(404)
    if b"Input validation error" in body:  # TGI's
        return _by_status(422)
    return ProviderDown("The back end reported an error instead of a whole answer.")


def _says(body: bytes, words: tuple[bytes, ...]) -> bool:
    return any(word in body for word in words)


def _busy() -> LlmError:
    return RateLimited("The back end is overloaded and took no more requests.")


def _loading() -> ProviderDown:
    error = ProviderDown("The back end is loading its model (HTTP 503).")
    error.back_end = "loading"
    return error


def _no_route() -> LlmError:
    return BadRequest(
        "The back end has no such route: it was started for another kind of work, or is another kind of server than "
        "its provider."
    )


def _by_status(status: int) -> LlmError:
    match status:
        case 401 | 403:
            return Unauthorized(f"The back end refused the credentials (HTTP {status}): check the lane's API key.")
        case 404:
            return ModelNotFound(
                "The back end does not serve this model (HTTP 404), or is another kind of server than its provider."
            )
        case 407:
            return ProviderDown(PROXY_WANTS_A_USER, retryable=False)
        case 408:
            return Timeout("The back end gave up on the request (HTTP 408).")
        case 429:
            return RateLimited("The back end asks to slow down (HTTP 429).")
        case 501:
            return BadRequest(
                "The back end does not offer this (HTTP 501): it was started without it, or its model cannot do it."
            )
        case _ if 200 < status < 300:
            return UnreadableAnswer(
                f"The back end's answer cannot be read: it came with HTTP {status}, which promises no answer, where "
                "HTTP 200 is expected. Is it a server that the lane's provider can talk to?"
            )
        case _ if 300 <= status < 400:
            return ProviderDown(
                f"The back end answered with a redirect (HTTP {status}), which is not followed: set the lane's "
                "endpoint to the final address.",
                retryable=False,
            )
        case _ if 400 <= status < 500 and status not in _ITS_OWN_FAULT:
            return BadRequest(f"The back end refused the request (HTTP {status}): see the detail for what it says.")
        case _:
            return ProviderDown(f"The back end failed (HTTP {status}).")


_ITS_OWN_FAULT = {424, 499}
"""TGI's engine failed; a proxy or Ollama gave the request up."""

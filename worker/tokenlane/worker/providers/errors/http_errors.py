"""Translates a model server's error to an `LlmError`, whether it comes with an HTTP status or inside a stream.

The error text of a model server may quote the prompt, so it goes only into `detail`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import pydantic_core

from tokenlane.routing.contract.errors import (
    BadRequest,
    ImagesNotAccepted,
    LlmError,
    ModelNotFound,
    ProviderDown,
    RateLimited,
    Timeout,
    Unauthorized,
    UnreadableAnswer,
)
from tokenlane.worker.providers.errors.batch_errors import TooManyTexts, too_many_texts_error
from tokenlane.worker.providers.errors.context_errors import context_error

MAX_DETAIL_BYTES = 2048
PROXY_WANTS_A_USER = (
    "The proxy to the model server requires a valid user and password (HTTP 407): set HTTP_PROXY and HTTPS_PROXY to "
    "http://USER:PASSWORD@HOST:PORT, or name the model server's host in NO_PROXY."
)
LONGEST_RETRY_AFTER_S = 86_400.0

_NO_ROUTE = (b'{"detail":"NotFound"}', b"Unexpectedendpointormethod")
"""Errors for an unknown route, without spaces, from vLLM's framework and LM Studio. Their errors for an unknown model
are longer."""
_BUSY = (b"server busy", b"Model is overloaded")
"""Errors of Ollama and TGI, which also send them with other statuses."""
_LOADING = (b"loading model", b"model is loading", b"is currently loading", b"still loading")
"""Errors of llama.cpp and similar servers, in lower case."""
_NO_IMAGES = (
    b"image input is not supported",
    b"missing data required for image input",
    b"does not support image",
    b"is not a multimodal model",
    b"At most 0 image(s)",
)
"""Errors of llama.cpp and Ollama, with status 500, of Ollama and LM Studio, and of vLLM."""
_NO_TOOLS = (b"does not support tools", b"requires --enable-auto-tool-choice", b"requires --jinja")
"""Errors of Ollama, of vLLM, and of llama.cpp with status 500."""
_TOO_LARGE = b"tokens) is too large to process. increase the physical batch size"
"""llama.cpp's error for a text to embed, with status 500."""
_CANNOT = (b"Jinja Exception", b"Unsupported param", b"parse grammar")
"""llama.cpp's errors, with status 500, for a request that the model's template or the grammar parser refuses."""
_NO_CREDIT = b"insufficient_quota"
_TOO_LARGE_A_BODY = (
    "The request is too large for the server or a proxy in front of it (HTTP 413): send less at once, or raise that "
    "server's limit."
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
"""Words in an error's type, and the status that each stands for. The first match counts. The error's message is not
searched, since it may quote a prompt."""


def refusal(status: int, body: bytes, retry_after: str | None = None) -> LlmError:
    """The error for an HTTP response with a status other than 200.

    Args:
        status: the HTTP status.
        body: the body, or its beginning.
        retry_after: the value of the Retry-After header, if the response has one.
    """
    error = _by_error_text(status, body) or _by_status(status)
    error.detail = _bounded(body)
    error.retry_after_s = retry_after_s(retry_after)
    return error


def unreadable(why: str, data: bytes = b"") -> UnreadableAnswer:
    """The error for an answer that cannot be read. It is not retryable, since the next answer would have the same form.

    Args:
        why: a clause that explains what is wrong with the answer, without quotations from it.
        data: the answer; its beginning becomes the detail.
    """
    return UnreadableAnswer(
        f"The model server's answer cannot be read: {why}. Does the lane's provider match the server?",
        detail=_bounded(data),
    )


def error_of(document: object) -> object | None:
    """The error in a JSON document or an event, in the format of OpenAI, Ollama, vLLM, FastAPI or Gemini; None if there
    is no error in it.
    """
    if isinstance(document, list):
        return error_of(document[0]) if document else None
    if not isinstance(document, dict):
        return None
    if error := document.get("error"):
        bare = isinstance(error, dict) or document.keys() <= {"error"} or "choices" in document
        return error if bare else document
    if document.get("choices") or isinstance(document.get("message"), dict):
        return None
    if document.get("object") == "error" or isinstance(document.get("message"), str):
        return document
    detail = document.get("detail") or document.get("errors")
    return document if detail else None


def refusal_in_stream(error: object) -> LlmError:
    """The error for an `error` field in an answer with status 200. It is ProviderDown unless the field contains a
    status, a type or a text with a known meaning."""
    body = pydantic_core.to_json(error)
    fields = error if isinstance(error, dict) else {}
    status = _status_of(fields)
    if status is not None:
        return refusal(status, body)
    meaning = _by_error_text(400, body) or _without_status(body)
    if type(meaning) is ProviderDown and (status := _status_of_type(fields)) is not None:
        return refusal(status, body)
    meaning.detail = _bounded(body)
    return meaning


def _status_of(error: Mapping[str, object]) -> int | None:
    for name in _STATUS_FIELDS:
        status = error.get(name)
        # LiteLLM sends the status as text.
        if isinstance(status, str) and len(status) == 3 and status.isascii() and status.isdigit():
            status = int(status)
        if isinstance(status, int) and 400 <= status <= 599:
            return status
    return None


def _status_of_type(error: Mapping[str, object]) -> int | None:
    types = " ".join(str(error.get(name) or "")[:64] for name in _TYPE_FIELDS).lower()
    return next((status for word, status in _STATUSES.items() if word in types), None)


def retry_after_s(value: str | None) -> float | None:
    """The seconds to wait, from a Retry-After header with seconds or an HTTP date; None if it has neither."""
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


def _by_error_text(status: int, body: bytes) -> LlmError | None:
    """The error for a known error text; None if the body has none. The body may quote a prompt, so a text counts only
    with the status with which servers send it."""
    if status in (400, 500) and _contains(body, _NO_IMAGES):
        return ImagesNotAccepted()
    if status in (400, 500) and _contains(body, _NO_TOOLS):
        return BadRequest(
            "The server's model does not support tools, or its server was started without them: send no tools, or "
            "route this role to a model that supports them."
        )
    if status in (400, 413, 422) or (status == 500 and _TOO_LARGE in body):
        return (
            too_many_texts_error(body)
            or context_error(body)
            or (TooManyTexts(_TOO_LARGE_A_BODY) if status == 413 else None)
        )
    if status == 500 and b'"server_error"' in body and _contains(body, _CANNOT):
        return BadRequest("The model server or its model's template does not accept this request: see the detail.")
    if status == 404 and _contains(b"".join(body.split()), _NO_ROUTE):
        return _no_route()
    if status == 429 and _NO_CREDIT in body:
        return RateLimited(
            "The account's quota at the model server is used up: raise it with the server's provider, or route this "
            "role elsewhere.",
            retryable=False,
        )
    if status == 503 and _contains(body, _BUSY):
        return _busy()
    if status == 503 and _contains(body.lower(), _LOADING):
        return _loading()
    return None


def _without_status(body: bytes) -> LlmError:
    if _contains(body, _BUSY):
        return _busy()
    if _contains(b"".join(body.split()), _NO_ROUTE):
        return _no_route()
    if b"model_not_found" in body:
        return _by_status(404)
    if b"Input validation error" in body:  # TGI's
        return _by_status(422)
    return ProviderDown("The model server reported an error instead of completing its answer: see the detail.")


def _contains(body: bytes, texts: tuple[bytes, ...]) -> bool:
    return any(word in body for word in texts)


def _busy() -> LlmError:
    return RateLimited("The model server is overloaded and accepts no more requests.")


def _loading() -> ProviderDown:
    error = ProviderDown("The model server is loading its model (HTTP 503).")
    error.server_condition = "loading"
    return error


def _no_route() -> LlmError:
    return BadRequest(
        "The model server does not have this route: it was started for another kind of work, or is another kind of "
        "server than the lane's provider expects."
    )


def _by_status(status: int) -> LlmError:
    match status:
        case 401 | 403:
            return Unauthorized(f"The model server refused the credentials (HTTP {status}): check the lane's API key.")
        case 404:
            return ModelNotFound(
                "The model server does not serve this model (HTTP 404), or is another kind of server than the lane's "
                "provider expects."
            )
        case 407:
            return ProviderDown(PROXY_WANTS_A_USER, retryable=False)
        case 408:
            return Timeout("The model server gave up on the request (HTTP 408).")
        case 429:
            return RateLimited("The model server refuses more requests for now (HTTP 429).")
        case 501:
            return BadRequest(
                "The model server does not support this request (HTTP 501), or was started without that feature."
            )
        case _ if 200 < status < 300:
            return UnreadableAnswer(
                f"The server's answer cannot be read: it has HTTP status {status} instead of 200. Does the lane's "
                "provider match the server?"
            )
        case _ if 300 <= status < 400:
            return ProviderDown(
                f"The model server answered with a redirect (HTTP {status}), which tokenlane does not follow: set the "
                "lane's endpoint to the final address.",
                retryable=False,
            )
        case _ if 400 <= status < 500 and status not in _SERVER_FAULTS:
            return BadRequest(f"The model server refused the request (HTTP {status}): see the detail for the reason.")
        case _:
            return ProviderDown(f"The model server failed (HTTP {status}).")


_SERVER_FAULTS = {424, 499}
"""Statuses below 500 that report a failure of the server: 424 of TGI's engine, 499 of Ollama or a proxy."""

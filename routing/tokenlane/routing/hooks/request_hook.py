"""Applies a request hook to a chat request."""

from __future__ import annotations

import inspect

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from tokenlane.routing.contract.errors import BadRequest, HookFailed
from tokenlane.routing.contract.requests import ChatRequest

from .functions import PATIENCE_S, RequestHook, hook_error, name_of
from .step_limit import StepLimit


async def change_request(hook: RequestHook, request: ChatRequest, *, patience_s: float = PATIENCE_S) -> ChatRequest:
    """Return the request as the hook changes it, validated again. The hook gets a copy, which it may change in place.

    Raises:
        BadRequest: the hook refused the request.
        HookFailed: the hook raised another error, took longer than `patience_s`, or returned no valid request with the
            same id.
    """
    limit = StepLimit(f"request hook {name_of(hook)!r}", patience_s)
    try:
        with limit:
            changed = await limit.run(_call(hook, request.model_copy(deep=True)))
    except BadRequest:
        raise
    except BaseException as error:
        if limit.is_interruption(error):
            raise
        if limit.has_expired:
            raise HookFailed(f"The request hook {name_of(hook)!r} took longer than {patience_s:g} s.") from error
        raise hook_error(hook, "request hook", error) from error
    if not isinstance(changed, ChatRequest):
        raise _returned(hook, f"a value of type {type(changed).__name__}: it must return a ChatRequest")
    try:
        valid = ChatRequest.model_validate(changed.model_dump(exclude_unset=True, warnings=False))
    except (ValidationError, PydanticSerializationError) as error:
        wrong = error.errors(include_input=False) if isinstance(error, ValidationError) else []
        fields = sorted({str(part["loc"][0]) for part in wrong if part["loc"]})
        raise _returned(hook, f"a request that is not valid: check {', '.join(fields) or 'its fields'}") from None
    if valid.id != request.id:
        raise _returned(hook, "a request with another id: it must keep the id")
    return valid


async def _call(hook: RequestHook, request: ChatRequest) -> object:
    changed = hook(request)
    return await changed if inspect.isawaitable(changed) else changed


def _returned(hook: RequestHook, what: str) -> HookFailed:
    return HookFailed(f"The request hook {name_of(hook)!r} returned {what}.")

"""The names that clients may ask for, as OpenAI's and Anthropic's APIs list models: roles, and models of lanes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .access.addressee import ROLE_PREFIX
from .answering import error_body_for, refusal, unless_refused
from .anthropic_errors import speaks_anthropic
from .door import Door
from .failures import Refused

_Entry: TypeAlias = dict[str, object]


async def list_models(door: Door, request: Request) -> Response:
    """Answer `GET /v1/models`: the policy's roles and aliases, then the models."""
    names = await unless_refused(error_body_for(request), _names(door, request))
    if isinstance(names, Response):
        return names
    entries = [_shape(request)(name, owner) for name, owner in names.items()]
    if speaks_anthropic(request.headers):
        ends = {"first_id": next(iter(names), None), "last_id": next(reversed(names), None), "has_more": False}
        return JSONResponse({"data": entries, **ends})
    return JSONResponse({"object": "list", "data": entries})


async def show_model(door: Door, request: Request) -> Response:
    """Answer `GET /v1/models/NAME`."""
    names = await unless_refused(error_body_for(request), _names(door, request))
    if isinstance(names, Response):
        return names
    name: str = request.path_params["model"]
    if name in names:
        return JSONResponse(_shape(request)(name, names[name]))
    missing = Refused(404, "model_not_found", "No lane serves a model of this name now: GET /v1/models lists all.")
    return refusal(error_body_for(request), missing.failure)


async def _names(door: Door, request: Request) -> dict[str, str]:
    """The names, each with its owner: the lane's provider, or tokenlane for a role.

    Raises:
        Refused: the caller is refused.
        PoolUnavailable: the pool does not answer.
    """
    await door.caller_of(request)
    policy, lanes = await door.policy(), await door.client.link.lanes()
    named = [alias for alias in policy.aliases if not set("*?[") & set(alias)]  # a pattern is no name
    roles = dict.fromkeys([*(f"{ROLE_PREFIX}{role}" for role in sorted(policy.roles)), *named], "tokenlane")
    models = {model: lane.provider for lane in lanes if not lane.state.is_away for model in lane.models}
    return roles | dict(sorted(models.items()))


def _shape(request: Request) -> Callable[[str, str], _Entry]:
    return _as_anthropic if speaks_anthropic(request.headers) else _as_openai


def _as_openai(name: str, owner: str) -> _Entry:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}


def _as_anthropic(name: str, _: str) -> _Entry:
    return {"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"}

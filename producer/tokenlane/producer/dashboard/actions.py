"""What operators may do on the page: drain lanes, pause roles, cancel requests, load and unload models."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Literal, TypeAlias, assert_never

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from tokenlane.config.settings.values import is_name
from tokenlane.producer.client import Client
from tokenlane.routing.contract.errors import BadRequest, LlmError
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.parse_snapshot import take_snapshot

logger = logging.getLogger(__name__)

OpenClient: TypeAlias = Callable[[], AbstractAsyncContextManager[Client]]
_Name = Annotated[str, Field(min_length=1, max_length=256)]


class _Action(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class LaneAction(_Action):
    """Give a lane no new work, or give it work again."""

    action: Literal["drain", "resume"]
    lane: _Name


class RoleAction(_Action):
    """Let a role's requests wait, or let them start again."""

    action: Literal["pause", "resume"]
    role: _Name


class CancelAction(_Action):
    """Cancel a request in any state."""

    action: Literal["cancel"]
    request: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]


class ModelAction(_Action):
    """Load a model into a lane's memory, or unload it."""

    action: Literal["load", "unload"]
    model: _Name
    lane: _Name


Action: TypeAlias = LaneAction | RoleAction | CancelAction | ModelAction
adapter: TypeAdapter[Action] = TypeAdapter(Action)


async def act(pool: Pool, open_client: OpenClient, action: Action, address: str | None) -> str:
    """Do this, and return what was done, as a sentence. The log says what is asked for, and how it ends.

    Args:
        address: the address from which the operator asks, for the log; behind a proxy, the proxy's.

    Raises:
        BadRequest: there is no such lane, role or request.
        LlmError: the pool does not answer, or the lane failed.
    """
    logger.info("an operator at %s asks: %s", address, _described(action))
    try:
        done = await _do(pool, open_client, action)
    except (Exception, asyncio.CancelledError) as error:  # the dashboard cancels it when it ends
        reason = error.code if isinstance(error, LlmError) else type(error).__name__
        logger.warning("an operator at %s asked: %s; it failed: %s", address, _described(action), reason)
        raise
    logger.info("an operator at %s asked: %s; done: %s", address, _described(action), done)
    return done


def _described(action: Action) -> str:
    """The action in a few words, such as `load model 'qwen3:8b' lane 'gpu0'`. Quoted names cannot forge a log line."""
    names = action.model_dump(exclude={"action"})
    return " ".join([action.action, *(f"{kind} {name!r}" for kind, name in names.items())])


async def _do(pool: Pool, open_client: OpenClient, action: Action) -> str:
    match action:
        case LaneAction():
            return await _lane(pool, action)
        case RoleAction():
            return await _role(pool, action)
        case CancelAction():
            return await _cancel(pool, action.request)
        case ModelAction():
            return await _model(open_client, action)
        case _:
            assert_never(action)


async def _lane(pool: Pool, action: LaneAction) -> str:
    snapshot = await take_snapshot(pool)
    if action.lane not in {*(lane.name for lane in snapshot.lanes), *snapshot.drained}:
        raise BadRequest(f"Pool {snapshot.pool} has no lane {action.lane!r}.")
    if action.action == "drain":
        await pool.drain_lane(action.lane)
        return f"Lane {action.lane} gets no new work until it is resumed."
    await pool.resume_lane(action.lane)
    return f"Lane {action.lane} gets new work again."


async def _role(pool: Pool, action: RoleAction) -> str:
    if not is_name(action.role):
        raise BadRequest(f"{action.role!r} is not a role's name.")
    if action.action == "pause":
        await pool.pause_role(action.role)
        return f"Role {action.role} is paused: its requests wait until it is resumed."
    await pool.resume_role(action.role)
    return f"Role {action.role} is resumed: its requests start again."


async def _cancel(pool: Pool, request: str) -> str:
    match await pool.requests.cancel(request):
        case "cancelled":
            return f"Request {request} is cancelled."
        case "flagged":
            return f"Request {request} is being stopped by its worker."
        case _:
            raise BadRequest(f"Request {request} has already ended, or the pool does not know it.")


async def _model(open_client: OpenClient, action: ModelAction) -> str:
    async with open_client() as client:
        if action.action == "load":
            await client.load(action.model, lane=action.lane)
            return f"Lane {action.lane} has loaded model {action.model}."
        await client.unload(action.model, lane=action.lane)
        return f"Lane {action.lane} has unloaded model {action.model}."

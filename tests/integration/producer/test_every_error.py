"""Every error of the documentation is met by an agent, or by a worker if it is a lane's, each with its code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
from pydantic import BaseModel
from tests.integration.lanes import lane_of
from tests.integration.life import PREFIX, raw
from tests.unit.routing.contract.test_documented_errors import tree

from tokenlane.benches.simulator import Fault, Simulator
from tokenlane.config.host.pool_key_files import PoolKey
from tokenlane.config.settings.values import LaneSettings
from tokenlane.producer import Client, LlmError
from tokenlane.routing.contract.requests import ChatRequest
from tokenlane.routing.contract.wire import new_id
from tokenlane.routing.decide.policy import Policy, PromptPolicy, RolePolicy
from tokenlane.routing.store.access.api_key import ApiKey
from tokenlane.routing.store.pool import Pool

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}


class City(BaseModel):
    name: str


@dataclass
class Site:
    """A pool with an agent, and lanes as a provocation needs them."""

    url: str
    pool: Pool
    client: Client
    stack: AsyncExitStack

    async def lane(self, *faults: Fault, api: str = "openai", name: str = "lane1", **settings: object) -> str:
        """Start a simulated server and its lane; the server's URL."""
        server = await self.stack.enter_async_context(Simulator(api=api, faults=list(faults), pullable=["qwen3:8b"]))
        await self.lane_at(server.url, api, name, **settings)
        return server.url

    async def lane_at(self, url: str, api: str = "openai", name: str = "lane1", **settings: object) -> None:
        lane = LaneSettings(name, api, url, **settings)  # type: ignore[arg-type]  # as the fields are
        await self.stack.enter_async_context(lane_of(self.url, lane))

    async def ask(self, **options: object) -> None:
        """Ask for a chat."""
        await self.client.complete("hello", role="planner", **options)  # type: ignore[arg-type]  # as the options are

    async def ask_lane(self, *faults: Fault, **options: object) -> None:
        """Ask a lane whose server fails so, all the time."""
        await self.lane(*(fault.model_copy(update={"times": 0}) for fault in faults))
        await self.ask(**options)


async def cancelled(site: Site) -> None:
    async with site.client.chat("hello", role="planner") as stream:
        await stream.cancel()
        await stream.answer()


async def context_too_long(site: Site) -> None:
    await site.lane(max_input_tokens=1)
    await site.client.complete("hello " * 100, role="planner")


async def conversation_busy(site: Site) -> None:
    conversation = site.client.conversation(role="planner", on_busy="reject")
    async with conversation.ask("hello"):
        await conversation.complete("hello")


async def digest_mismatch(site: Site) -> None:
    await site.lane(api="ollama", digests={"qwen3:8b": f"sha256:{'0' * 64}"})
    async for _ in site.client.pull("qwen3:8b"):
        pass


async def duplicate(site: Site) -> None:
    await site.lane()
    for _ in range(2):
        await site.ask(idempotency_key="k")


async def entry_deleted(site: Site) -> None:
    async with site.client.chat("hello", role="planner") as stream:
        await raw(site.pool).delete(f"{PREFIX}role:planner")
        await site.lane()
        await stream.answer()


async def images_not_accepted(site: Site) -> None:
    await site.lane(api="llamacpp")
    await site.client.complete([{"role": "user", "content": [PICTURE]}], role="planner")


async def lane_conflict(site: Site) -> None:
    await site.lane()
    await site.lane()


async def hook_failed(site: Site) -> None:
    def fails(_: ChatRequest) -> ChatRequest:
        raise ZeroDivisionError

    async with Client(site.url, request_hook=fails) as client:
        await client.complete("hello", role="planner")


async def plugin_failed(site: Site) -> None:
    await site.lane()
    prompt = PromptPolicy(plugin=f"sha256:{'0' * 64}")
    await site.pool.policies.write(Policy(max_starts=1, roles={"planner": RolePolicy(prompt=prompt)}))
    await site.ask()


async def api_key_exists(site: Site) -> None:
    for _ in range(2):
        await site.pool.api_keys.add(ApiKey(name="ci", agent="ci", created_s=0))


async def policy_changed(site: Site) -> None:
    await site.pool.policies.write(Policy(depth=7), expected=0)


async def policy_refused(site: Site) -> None:
    await site.pool.policies.write(Policy(keep_payload=True))


async def policy_unreadable(site: Site) -> None:
    await raw(site.pool).hset(f"{PREFIX}policy", "document", "not JSON")
    await site.pool.policies.read()


async def pool_key_mismatch(site: Site) -> None:
    async with Client(site.url, key=PoolKey.new().reveal()), Client(site.url, key=PoolKey.new().reveal()):
        pass


async def pool_unavailable(_: Site) -> None:
    async with Client("redis://127.0.0.1:1"):
        pass


async def queue_full(site: Site) -> None:
    await site.pool.policies.write(Policy(depth=1))
    async with site.client.chat("hello", role="planner"):
        await site.ask()


async def request_lost(site: Site) -> None:
    async with site.client.attach(new_id()) as stream:
        await stream.answer()


async def timeout(site: Site) -> None:
    await site.lane(Fault(hold_after=0, times=0), first_token_timeout_s=0.2)
    await site.ask()


PROVOCATIONS: dict[str, Callable[[Site], Awaitable[None]]] = {
    "bad_request": lambda site: site.ask(top_p=2.0),
    "cancelled": cancelled,
    "context_too_long": context_too_long,
    "conversation_busy": conversation_busy,
    "deadline_exceeded": lambda site: site.ask_lane(Fault(hold_after=0), time_to_live_ms=500),
    "digest_mismatch": digest_mismatch,
    "duplicate": duplicate,
    "entry_deleted": entry_deleted,
    "hook_failed": hook_failed,
    "images_not_accepted": images_not_accepted,
    "interrupted": lambda site: site.ask_lane(Fault(cut_after=3)),
    "lane_conflict": lane_conflict,
    "model_not_found": lambda site: site.ask_lane(model="nosuch"),
    "no_tool_call": lambda site: site.ask_lane(Fault(pieces=("hi",)), tools=[TOOL], tool_choice="required"),
    "plugin_failed": plugin_failed,
    "api_key_exists": api_key_exists,
    "policy_changed": policy_changed,
    "policy_refused": policy_refused,
    "policy_unreadable": policy_unreadable,
    "pool_key_mismatch": pool_key_mismatch,
    "pool_unavailable": pool_unavailable,
    "provider_down": lambda site: site.ask_lane(Fault(status=500)),
    "queue_full": queue_full,
    "rate_limited": lambda site: site.ask_lane(Fault(status=429, error={"code": "insufficient_quota"})),
    "request_lost": request_lost,
    "schema_mismatch": lambda site: site.ask_lane(Fault(pieces=("hi",)), response_format=City),
    "timeout": timeout,
    "unauthorized": lambda site: site.ask_lane(Fault(status=401)),
    "unreadable_answer": lambda site: site.ask_lane(Fault(malformed_after=0)),
}


def test_every_code_has_its_provocation() -> None:
    """No code is documented that nothing raises."""
    assert sorted(PROVOCATIONS) == sorted(error.code for error in tree(LlmError))


@pytest.mark.parametrize("code", PROVOCATIONS)
async def test_it_is_met(code: str, redis_url: str, pool: Pool) -> None:
    """What provokes an error ends in it, and says something."""
    await pool.policies.write(Policy(max_starts=1))
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(redis_url, agent="agent1"))
        with pytest.raises(LlmError) as met:
            await PROVOCATIONS[code](Site(redis_url, pool, client, stack))
    assert met.value.code == code
    assert met.value.message

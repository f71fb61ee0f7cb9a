"""Who may ask a gateway."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from starlette.requests import Request

from tokenlane.producer.gateway.access.callers import WITHOUT_KEY, Callers
from tokenlane.producer.gateway.failures import Refused
from tokenlane.routing.contract.envelope import Quota
from tokenlane.routing.store.access.api_key import ApiKey

SECRET = "tl-secret"
KEY = ApiKey(name="ci", agent="builds", role="coder", priority="low", created_s=0)


class Keys:
    """The keys of a pool: none, or one."""

    def __init__(self, *keys: ApiKey) -> None:
        self._keys = keys

    async def are_used(self) -> bool:
        return bool(self._keys)

    async def find(self, secret: str) -> ApiKey | None:
        return self._keys[0] if secret == SECRET else None


def callers(*keys: ApiKey, trusted: bool = True) -> Callers:
    return Callers(Keys(*keys), this_host_is_trusted=trusted)


def asking(headers: Mapping[str, str]) -> Request:
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw, "method": "POST", "path": "/v1/chat/completions"})


@pytest.mark.parametrize(
    "headers", [{"Authorization": f"Bearer {SECRET}"}, {"authorization": f"bearer  {SECRET} "}, {"x-api-key": SECRET}]
)
async def test_a_key_names_its_agent(headers: dict[str, str]) -> None:
    caller = await callers(KEY, trusted=False).caller_of(asking(headers))
    assert (caller.agent, caller.role, caller.priority, caller.quota) == ("builds", "coder", "low", None)


async def test_all_users_of_a_key_share_its_limit() -> None:
    key = KEY.model_copy(update={"in_flight": 3})
    caller = await callers(key).caller_of(asking({"x-api-key": SECRET, "session-id": "one"}))
    assert caller.quota == Quota(name="ci", in_flight=3)
    assert caller.user(None) != "builds"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_api_key"),
        ({"Authorization": "Basic abc"}, "missing_api_key"),
        ({"x-api-key": "tl-other"}, "invalid_api_key"),
    ],
)
@pytest.mark.parametrize("trusted", [True, False])
async def test_where_keys_are_used_everybody_needs_one(headers: dict[str, str], code: str, trusted: bool) -> None:
    with pytest.raises(Refused) as raised:
        await callers(KEY, trusted=trusted).caller_of(asking(headers))
    assert (raised.value.failure.status, raised.value.failure.code) == (401, code)


async def test_programs_of_this_host_need_none_while_there_are_none() -> None:
    """What clients send in place of a key does not matter."""
    assert (await callers().caller_of(asking({"Authorization": "Bearer none"}))).agent == WITHOUT_KEY


async def test_other_hosts_need_a_key_although_there_are_none() -> None:
    with pytest.raises(Refused) as raised:
        await callers(trusted=False).caller_of(asking({}))
    assert (raised.value.failure.status, raised.value.failure.code) == (401, "no_api_keys")


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Origin": "https://evil.example"}, "browser_refused"),
        ({"Sec-Fetch-Site": "cross-site"}, "browser_refused"),
        ({"X-Forwarded-For": "10.0.0.1"}, "proxy_refused"),
        ({"Via": "1.1 proxy"}, "proxy_refused"),
        ({"Host": "evil.example:4000"}, "host_refused"),
        ({"Host": "127.0.0.1.evil.example"}, "host_refused"),
        ({"Host": "localhost.evil.example"}, "host_refused"),
    ],
)
async def test_browsers_and_proxies_need_a_key(headers: dict[str, str], code: str) -> None:
    with pytest.raises(Refused) as raised:
        await callers().caller_of(asking(headers))
    assert (raised.value.failure.status, raised.value.failure.code) == (403, code)
    caller = await callers(KEY).caller_of(asking(headers | {"x-api-key": SECRET}))
    assert caller.agent == "builds"


@pytest.mark.parametrize(
    "host", ["127.0.0.1:4000", "localhost:4000", "LOCALHOST", "app.localhost", "[::1]:4000", "[::1]", "vm7:4000", ""]
)
async def test_this_host_may_be_called_by_its_names(host: str) -> None:
    assert (await callers().caller_of(asking({"Host": host}))).agent == WITHOUT_KEY


async def test_a_session_is_an_agent_of_its_own() -> None:
    """Its name reaches the pool only as a hash, and the conversation as it is if that is a valid name."""
    first = await callers().caller_of(asking({"x-claude-code-session-id": "abc-1"}))
    second = await callers().caller_of(asking({"session-id": "user@host: projects/secret plan"}))
    assert first.conversation == "abc-1"
    assert second.conversation is not None
    assert "secret" not in second.conversation
    agents = {first.user(None), second.user(None), first.user("somebody"), WITHOUT_KEY}
    assert len(agents) == 4
    assert not any("abc" in agent or "somebody" in agent for agent in agents)

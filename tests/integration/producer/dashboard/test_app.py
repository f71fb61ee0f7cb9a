"""The dashboard's application over HTTP: its headers, checks, events and actions."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from pydantic import SecretStr
from tests.integration import life
from tests.integration.life import LANE, WORKER

from tokenlane.producer import Client
from tokenlane.producer.dashboard import feed as feeds
from tokenlane.producer.dashboard.access import Access
from tokenlane.producer.dashboard.app import dashboard_app
from tokenlane.producer.dashboard.feed import Feed
from tokenlane.routing.http_server import serve_http
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.support.tasks import InternalErrors

TOKEN = "a-token"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
FILES = ("", "dashboard.js", "dashboard.css", "uPlot.iife.min.js", "uPlot.min.css", "icon.svg")


@asynccontextmanager
async def dashboard(pool: Pool, *, is_open: bool = True) -> AsyncIterator[tuple[Feed, aiohttp.ClientSession]]:
    """The application mounted below a path, and a session with that base."""
    feed, errors, root = Feed(pool), InternalErrors(), web.Application()
    access = Access(SecretStr(TOKEN), frozenset(), viewing_is_open=is_open)
    root.add_subapp("/live", dashboard_app(feed, lambda: Client(pool.server.url), access))
    async with serve_http(root, ("127.0.0.1", 0), option="--listen", errors=errors) as url:
        async with aiohttp.ClientSession(f"{url}/live/") as session:
            yield feed, session
    assert errors.count == pool.internal_errors.count == 0


async def read_event(answer: aiohttp.ClientResponse, kind: str) -> Any:
    """The next event of that kind."""
    while True:
        event = (await answer.content.readuntil(b"\n\n")).decode()
        if event.startswith(f"event: {kind}\n"):
            return json.loads(event.partition("data: ")[2])


async def test_the_files_of_the_page(pool: Pool) -> None:
    """Each has a policy that lets the browser load nothing else, and the page has no inline script or style."""
    async with dashboard(pool) as (_, session):
        for name in FILES:
            async with session.get(name) as answer:
                assert answer.status == 200, name
                policy = answer.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
        async with session.get("") as answer:
            page = await answer.text()
        assert re.findall(r"<script(?![^>]*src=)|\sstyle=|\son\w+=|https?:", page) == []
        async with session.get("app.py") as answer:
            assert answer.status == 404


async def test_other_sites_get_nothing(pool: Pool) -> None:
    """Neither the page nor an action, whatever token they have; the refusal has the policy, too."""
    async with dashboard(pool) as (_, session):
        for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
            async with session.get("events", headers=headers) as answer:
                assert answer.status in (403, 421)
                assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            async with session.post("actions", headers=headers | BEARER, json={}) as answer:
                assert answer.status in (403, 421)


async def test_events(pool: Pool) -> None:
    """A viewer gets the history and then each look: role, lane, request and why it waits, but no payload."""
    await life.running(pool)
    waiting = await life.submit(pool)
    await pool.pause_role("planner")
    async with dashboard(pool) as (feed, session), session.get("events") as answer:
        assert answer.content_type == "text/event-stream"
        assert await read_event(answer, "history") is not None
        look = await read_event(answer, "look")
        while look["requests"] is None:
            look = await read_event(answer, "look")
        view = look["view"]
        assert (look["outage"], view["pool"], view["waiting"], view["running"]) == ("", "main", 1, 1)
        assert view["roles"][0]["standing"] == "paused"
        assert view["lanes"][0]["name"] == LANE.lane
        (request,) = [each for each in look["requests"] if each["state"] == "waiting"]
        assert (request["id"], request["position"], request["in_queue"]) == (waiting, 1, 1)
        assert "operator" in request["why"]
        assert "messages" not in json.dumps(look)
        assert feed.viewers == 1


async def test_viewing_without_a_token(pool: Pool) -> None:
    """Where viewing is not open, the events need the token; the files of the page do not, as they show nothing."""
    async with dashboard(pool, is_open=False) as (_, session):
        async with session.get("events") as answer:
            assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        async with session.get("") as answer:
            assert answer.status == 200
        async with session.get("events", headers=BEARER) as answer:
            assert await read_event(answer, "look")


async def test_failed_requests(pool: Pool) -> None:
    """The newest come first, with their error's code."""
    failed = [await life.bring(pool, "failed") for _ in range(2)]
    async with dashboard(pool) as (_, session), session.get("events") as answer:
        look = await read_event(answer, "look")
        while look["failed"] is None:
            look = await read_event(answer, "look")
        assert {each["id"] for each in look["failed"]} == {each.id for each in failed}
        ages = [each["ended_ms"] for each in look["failed"]]
        assert ages == sorted(ages)
        assert look["requests"] == []


async def test_too_many_viewers(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is refused; a viewer that leaves makes room."""
    monkeypatch.setattr("tokenlane.producer.dashboard.app.MOST_VIEWERS", 1)
    async with dashboard(pool) as (feed, session):
        async with session.get("events"):
            async with session.get("events") as answer:
                assert answer.status == 503
        async with asyncio.timeout(20):
            while feed.viewers:
                await asyncio.sleep(0.01)


async def test_a_slow_viewer_misses_looks(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has not taken yet is replaced by what is newer: nothing piles up for it."""
    looks = iter(range(1_000))
    monkeypatch.setattr(feeds, "look_document", lambda _: next(looks))
    monkeypatch.setattr("tokenlane.routing.watch.live.follow.EVERY_S", 0)
    feed = Feed(pool)
    running = asyncio.create_task(feed.run())
    try:
        events = feed.events()
        await anext(events)
        first = int((await anext(events)).split()[-1])
        async with asyncio.timeout(20):
            while int(feed._event.split()[-1]) < first + 3:
                await asyncio.sleep(0.01)
        newest = int(feed._event.split()[-1])
        assert int((await anext(events)).split()[-1]) >= newest
        await events.aclose()
    finally:
        running.cancel()


async def act(session: aiohttp.ClientSession, **action: str) -> tuple[int, str]:
    async with session.post("actions", headers=BEARER, json=action) as answer:
        return answer.status, await answer.text()


async def test_actions(pool: Pool) -> None:
    """Lanes are drained and resumed, roles paused and continued, requests cancelled, in the pool itself."""
    running = await life.running(pool)
    await pool.beats.register(WORKER, LANE.lane, life.FACTS)
    waiting = await life.submit(pool)
    async with dashboard(pool) as (_, session):
        assert (await act(session, action="drain", lane=LANE.lane))[0] == 200
        assert await life.dispatch(pool, waiting) is None
        assert (await act(session, action="resume", lane=LANE.lane))[0] == 200
        assert (await act(session, action="pause", role="planner"))[0] == 200
        assert await life.dispatch(pool, waiting) is None
        assert (await act(session, action="continue", role="planner"))[0] == 200
        assert (await act(session, action="cancel", request=waiting))[0] == 200
        assert await life.state_of(pool, waiting) == "cancelled"
        assert (await act(session, action="cancel", request=running.id))[0] == 200
        assert (await act(session, action="cancel", request="f" * 32))[0] == 409
        assert (await act(session, action="drain", lane="unknown"))[0] == 409


@pytest.mark.parametrize(
    "action",
    [
        {},
        {"action": "drop"},
        {"action": "drain"},
        {"action": "drain", "lane": ""},
        {"action": "drain", "lane": 1},
        {"action": "drain", "lane": "gpu0", "more": "x"},
        {"action": "cancel", "request": "../../x"},
        {"action": "cancel", "request": "A" * 32},
        {"action": "load", "lane": "gpu0"},
    ],
)
async def test_what_is_no_action(pool: Pool, action: dict[str, object]) -> None:
    """Foreign input is validated before anything is done."""
    async with dashboard(pool) as (_, session):
        async with session.post("actions", headers=BEARER, json=action) as answer:
            assert answer.status == 400


async def test_actions_without_a_right(pool: Pool) -> None:
    """A form, which another site could send, and a request without the token do nothing."""
    pause = json.dumps({"action": "pause", "role": "planner"})
    async with dashboard(pool) as (_, session):
        for body, headers, status in (
            (pause, BEARER, 415),
            (pause, {"Content-Type": "application/json"}, 401),
            (pause, {"Content-Type": "application/json", "Authorization": "Bearer wrong"}, 401),
        ):
            async with session.post("actions", data=body, headers=headers) as answer:
                assert answer.status == status
    assert await pool.resume_role("planner") is False

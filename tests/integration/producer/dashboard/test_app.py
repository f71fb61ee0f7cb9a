"""The dashboard's application over HTTP: its headers, checks, events and actions."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import aiohttp
import pytest
from tests.integration import life
from tests.integration.life import LANE, WORKER
from tests.integration.producer.dashboard.served import TOKEN, served

from tokenlane.producer import Client
from tokenlane.producer.dashboard import feed as feeds
from tokenlane.producer.dashboard.actions import adapter
from tokenlane.producer.dashboard.feed import Feed
from tokenlane.routing.contract.errors import PoolUnavailable
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.support.tasks import background
from tokenlane.routing.watch.live import follow
from tokenlane.routing.watch.live.follow import Look
from tokenlane.routing.watch.live.view import live_view
from tokenlane.routing.watch.parse_snapshot import take_snapshot
from tokenlane.routing.watch.snapshot import Snapshot

BEARER = {"Authorization": f"Bearer {TOKEN}"}
FILES = ("", "dashboard.js", "dashboard.css", "uPlot.iife.min.js", "uPlot.min.css", "icon.svg")


@asynccontextmanager
async def dashboard(
    pool: Pool, *, is_open: bool = True, internal_errors: int = 0
) -> AsyncIterator[tuple[Feed, aiohttp.ClientSession]]:
    """The application, and a session with its address."""
    async with (
        served(pool, viewing_is_open=is_open, internal_errors=internal_errors) as (feed, url),
        aiohttp.ClientSession(url) as session,
    ):
        yield feed, session


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The feed looks every 10 ms."""
    monkeypatch.setattr(follow, "_EVERY_S", 0.01)


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
        assert request["why"]
        assert "messages" not in json.dumps(look)
        assert look["more_requests"] is False
        assert feed.viewers == 1


def fields(document: object) -> set[str]:
    """The names of all fields of a document."""
    if isinstance(document, list):
        return set().union(*map(fields, document))
    return set(document).union(*map(fields, document.values())) if isinstance(document, dict) else set()


async def test_the_page_reads_every_field(pool: Pool) -> None:
    """The server sends nothing that no line of the page mentions."""
    await life.bring(pool, "failed")
    await life.running(pool)
    await life.submit(pool)
    async with dashboard(pool) as (_, session):
        code = ""
        for name in ("dashboard.js", "tables.js", "charts.js"):
            async with session.get(name) as answer:
                code += await answer.text()
        async with session.get("events") as answer:
            look = await read_event(answer, "look")
            while not look["requests"]:
                look = await read_event(answer, "look")
    assert look["failed"]
    assert look["view"]["problems"]
    assert fields(look) - set(re.findall(r"\w+", code)) == set()


async def test_no_more_requests_than_the_page_says(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those with the nearest deadlines, whether they wait or run; the page learns that there are more."""
    monkeypatch.setattr(follow, "_REQUESTS_SHOWN", 2)
    for _ in range(2):
        await life.running(pool)
    nearest = {await life.submit(pool, life.envelope(time_to_live_ms=60_000)) for _ in range(2)}
    await life.submit(pool)
    async with dashboard(pool) as (_, session), session.get("events") as answer:
        look = await read_event(answer, "look")
        while look["requests"] is None:
            look = await read_event(answer, "look")
        assert {each["id"] for each in look["requests"]} == nearest
        assert look["more_requests"] is True


async def test_its_own_errors_are_a_metric(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prometheus reads how often the dashboard failed, by any name and without the token."""

    async def fails(*_: object) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr("tokenlane.producer.dashboard.app.act", fails)
    async with dashboard(pool, is_open=False, internal_errors=1) as (_, session):

        async def errors() -> str:
            async with session.get("metrics", headers={"Host": "dashboard:9466"}) as answer:
                lines = (await answer.text()).splitlines()
            (line,) = (line for line in lines if line.startswith("tokenlane_dashboard_errors_total{"))
            assert f'pool="{pool.keys.pool}"' in line
            return line.split()[-1]

        assert await errors() == "0.0"
        assert (await act(session, action="pause", role="planner"))[0] == 500
        assert await errors() == "1.0"


async def test_health(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Orchestrators ask by any name and without the token. They learn whether the pool answers, and not where it is."""
    first_look, outages = asyncio.Event(), iter((True, False))

    async def take(pool: Pool) -> Snapshot:
        await first_look.wait()
        if next(outages, False):
            raise PoolUnavailable("Redis at 10.1.2.3 does not answer.")
        return await take_snapshot(pool)

    monkeypatch.setattr(follow, "take_snapshot", take)
    async with dashboard(pool, is_open=False) as (feed, session):

        async def ask(path: str) -> tuple[int, str]:
            async with session.get(path, headers={"Host": "dashboard:9466"}) as answer:
                return answer.status, (await answer.text()).strip()

        assert await ask("healthz") == (200, "ok")
        assert await ask("readyz") == (503, "not ready")
        first_look.set()
        await another_look(feed)
        assert feed.newest.outage
        assert await ask("readyz") == (503, "not ready")
        async with asyncio.timeout(20):
            while await ask("readyz") != (200, "ok"):
                await asyncio.sleep(0.01)
        assert (await ask("events"))[0] == 421


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


async def test_slow_viewers_miss_looks(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """They get the newest look, so nothing piles up for them. It is encoded once for all, and the missed ones never."""
    encoded: list[Look] = []
    monkeypatch.setattr(feeds, "look_document", encoded.append)
    monkeypatch.setattr(follow, "_EVERY_S", 0)
    feed = Feed(pool)
    async with background() as tasks:
        tasks.create_task(feed.run())
        viewers = feed.events(), feed.events()
        for viewer in viewers:
            await anext(viewer)
            await anext(viewer)
        known = len(encoded)
        for _ in range(3):
            await another_look(feed)
        assert len(encoded) == known
        for viewer in viewers:
            await anext(viewer)
        assert encoded[known:] == [feed.newest]


async def test_an_error_of_the_feed_shows_old_figures_as_old(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes after an unexpected error gets the newest view with an outage; the dashboard is not ready then."""
    await life.submit(pool)
    feed, views = Feed(pool), [live_view]
    monkeypatch.setattr(follow, "live_view", lambda *known: views.pop()(*known))
    with pytest.raises(IndexError):
        await feed.run()
    async with aclosing(feed.events()) as events:
        await anext(events)
        look = json.loads((await anext(events)).decode().partition("data: ")[2])
    assert look["outage"]
    assert look["view"]["waiting"] == 1
    assert not feed.is_ready


async def another_look(feed: Feed) -> None:
    """Wait for the feed's next look."""
    seen = feed.newest
    async with asyncio.timeout(20):
        while feed.newest is seen:
            await asyncio.sleep(0.001)


async def act(session: aiohttp.ClientSession, **action: str) -> tuple[int, str]:
    async with session.post("actions", headers=BEARER, json=action) as answer:
        return answer.status, await answer.text()


async def test_actions(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    """Lanes are drained and resumed, roles paused and resumed, requests cancelled, in the pool itself. The log has each
    action before it is done, and how it ended."""
    caplog.set_level(logging.INFO, "tokenlane.producer.dashboard")
    running = await life.running(pool)
    await pool.beats.register(WORKER, LANE.lane, life.FACTS)
    waiting = await life.submit(pool)
    async with dashboard(pool) as (_, session):
        assert (await act(session, action="drain", lane=LANE.lane))[0] == 200
        assert await life.dispatch(pool, waiting) is None
        assert (await act(session, action="resume", lane=LANE.lane))[0] == 200
        assert (await act(session, action="pause", role="planner"))[0] == 200
        assert await life.dispatch(pool, waiting) is None
        assert (await act(session, action="resume", role="planner"))[0] == 200
        assert (await act(session, action="cancel", request=waiting))[0] == 200
        assert await life.state_of(pool, waiting) == "cancelled"
        assert (await act(session, action="cancel", request=running.id))[0] == 200
        assert (await act(session, action="cancel", request="f" * 32))[0] == 409
        assert (await act(session, action="drain", lane="unknown"))[0] == 409
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 16
    assert all(name in lines[0] for name in ("drain", LANE.lane))
    assert all("127.0.0.1" in line for line in lines)
    assert (caplog.records[-1].levelname, "bad_request" in lines[-1]) == ("WARNING", True)


async def test_an_action_goes_on_without_its_browser(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    """A browser that leaves does not stop a load, and the log says how the load ended."""
    caplog.set_level(logging.INFO, "tokenlane.producer.dashboard")
    loading, may_end = asyncio.Event(), asyncio.Event()
    ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    class SlowClient(Client):
        async def load(self, model: str, *, lane: str | None = None) -> None:
            loading.set()
            try:
                await may_end.wait()
            finally:
                ended.set_result(may_end.is_set())

    async with (
        served(pool, open_client=lambda: SlowClient(pool.server.url)) as (_, url),
        aiohttp.ClientSession(url) as session,
    ):
        async with background() as tasks:
            tasks.create_task(act(session, action="load", model="m1", lane=LANE.lane))
            await loading.wait()
            asked = len(caplog.messages)
        assert (await act(session, action="pause", role="planner"))[0] == 200  # the server knows that the browser left
        may_end.set()
        async with asyncio.timeout(20):
            assert await ended
            while len(caplog.messages) < asked + 3:  # the pause has two lines
                await asyncio.sleep(0.01)
    assert (caplog.records[-1].levelname, "m1" in caplog.messages[-1]) == ("INFO", True)


async def test_an_invalid_reply_is_no_bad_action(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what the operator sent can be no action. Whatever else fails is an internal error, and counts as such."""

    async def fail(*_: object) -> str:
        return str(adapter.validate_python({}))

    monkeypatch.setattr("tokenlane.producer.dashboard.app.act", fail)
    async with dashboard(pool, internal_errors=1) as (_, session):
        assert (await act(session, action="pause", role="planner"))[0] == 500


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


async def test_actions_without_a_right(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    """A form, which another site could send, and a request without the token do nothing. The log has each refusal."""
    pause = json.dumps({"action": "pause", "role": "planner"})
    async with dashboard(pool) as (_, session):
        for body, headers, status in (
            (pause, BEARER, 415),
            (pause, {"Content-Type": "application/json"}, 401),
            (pause, {"Content-Type": "application/json", "Authorization": "Bearer wrong"}, 401),
        ):
            async with session.post("actions", data=body, headers=headers) as answer:
                assert answer.status == status
    refused = [each for each in caplog.records if each.name == "tokenlane.producer.dashboard.app"]
    assert len(refused) == 2
    assert all("127.0.0.1" in each.getMessage() for each in refused)
    assert await pool.resume_role("planner") is False

"""The page of the dashboard in a browser: how it shows a pool at work and in trouble, and what operators do there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.chromium import BINARY, Page, chromium
from tests.integration import life
from tests.integration.farm import Child, Server, farm
from tests.integration.lanes import lane_of
from tests.integration.life import LANE, WORKER

from tokenlane.benches.simulator import Simulator
from tokenlane.config.settings.values import LaneSettings
from tokenlane.producer import Client, LlmError
from tokenlane.routing.store.pool import Pool, connect
from tokenlane.routing.support.tasks import background
from tokenlane.worker.lane.timings import Timings

pytestmark = pytest.mark.skipif(BINARY is None, reason="no Chromium is installed: `apt-get install chromium`")

TOKEN = "a-token"
NAMES_OF_ALL = "[...document.querySelectorAll('{}')].map((it) => it.innerText.trim())"


@asynccontextmanager
async def opened(directory: Path, url: str, *, token: bool = True, listen: str = "127.0.0.1:0") -> AsyncIterator[Page]:
    """The page of the command `tokenlane dashboard` in a browser, with the token in its address."""
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(farm(directory, url))
        page = await stack.enter_async_context(chromium(directory / "browser"))
        child = await site.tokenlane("dashboard", "--listen", listen, TOKENLANE_DASHBOARD_TOKEN=TOKEN)
        await page.open(await address(child) + (f"#token={TOKEN}" if token else ""))
        yield page
        assert page.errors == []


async def address(child: Child) -> str:
    """The address that the command prints."""
    await child.says("token ")
    (line,) = [line for line in child.out.splitlines() if line.startswith("page ")]
    assert TOKEN not in child.out
    return line.split()[1]


@asynccontextmanager
async def agents(url: str) -> AsyncIterator[None]:
    """Agents of three roles that ask all the time, more than two lanes can answer."""

    async def ask(client: Client, role: str) -> None:
        while True:
            try:
                await client.complete("SECRET question", role=role, max_tokens=300)
            except LlmError:
                await asyncio.sleep(0.1)

    async with Client(url, agent="agents") as client, background() as tasks:
        for role, number in (("coder", 9), ("planner", 3), ("reviewer", 1)):
            for _ in range(number):
                tasks.create_task(ask(client, role))
        yield


@asynccontextmanager
async def lane(url: str, name: str, simulator: Simulator, *, provider: str = "openai") -> AsyncIterator[None]:
    """A lane of that model server, which notices within a moment that it is down."""
    settings = LaneSettings(name, provider, simulator.url, capacity=3)
    async with lane_of(url, settings, Timings(check_s=0.2)):
        yield


async def test_a_pool_at_work_and_in_trouble(tmp_path: Path) -> None:
    """The first sentence says what is wrong: two dead model servers, then Redis. Figures and charts follow the pool."""
    server = Server(tmp_path)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(server)
        simulators = [await stack.enter_async_context(Simulator(itl_ms=20, tokens=300)) for _ in range(2)]
        for number, simulator in enumerate(simulators):
            await stack.enter_async_context(lane(server.url, f"gpu{number}", simulator))
        await stack.enter_async_context(agents(server.url))
        page = await stack.enter_async_context(opened(tmp_path, server.url))

        await page.until("document.querySelectorAll('#requests tbody tr').length === 13")
        assert await page.run(NAMES_OF_ALL.format("#roles tbody th .name")) != []
        assert set(await page.run(NAMES_OF_ALL.format("#lanes tbody th .name"))) == {"gpu0", "gpu1"}
        await page.shows("3 of 3", "#lanes")
        await page.until("Number(document.querySelector('#lanes td.number').innerText) > 20")
        await page.until("document.querySelectorAll('#roles canvas').length === 6")
        await page.shows("Every role keeps up", "#sentence")
        assert "SECRET" not in await page.run("document.documentElement.outerHTML")

        for simulator in simulators:
            await simulator.__aexit__(None, None, None)
        await page.until("document.querySelector('#headline').dataset.severity === 'fail'")
        await page.shows("is stuck", "#sentence")
        await page.shows("gpu0 (down)", "#sentence")
        await page.shows("gpu1", "#why")
        assert await page.run(NAMES_OF_ALL.format("#lanes .badge")) == ["down", "down"]
        await check_sizes_and_colours(page)

        await server.kill()
        await page.until("!document.querySelector('#outage').hidden")
        await page.shows("has not answered for", "#outage")
        await page.shows("is stuck", "#sentence")
        await server.start()
        await page.until("document.querySelector('#outage').hidden")


async def check_sizes_and_colours(page: Page) -> None:
    """Nothing is cut off on a desk or on a phone; the colours are those that the system asks for."""
    paper = "getComputedStyle(document.body).backgroundColor"
    await page.prefer("light")
    light = await page.run(paper)
    await page.prefer("dark")
    assert await page.run(paper) != light
    await page.resize(390, 844, is_phone=True)
    await page.until("document.documentElement.scrollWidth <= 390")
    assert await page.run("getComputedStyle(document.querySelector('#roles tbody tr')).display") == "grid"
    await page.until("[...document.querySelectorAll('#roles canvas')].every((it) => it.clientWidth > 100)")
    await page.click("#numbers")
    await page.until("document.querySelector('#roles .numbers').innerText.includes('now')")
    assert await page.run("document.querySelector('#roles .canvas').hidden")
    await page.until("document.documentElement.scrollWidth <= 390")
    await page.resize(1280, 860)
    await page.prefer("light")


async def choose(page: Page, label: str) -> None:
    """Press the button with this label, and confirm. Rows move while the pool changes, so no mouse does it."""
    await page.until("!document.querySelector('dialog').open")
    found = f"document.querySelector('button[aria-label=\"{label}\"]')"
    await page.until(f"{found} !== null && ({found}.focus(), document.activeElement === {found})")
    await page.press("Enter")
    await page.until("document.querySelector('dialog').open && document.querySelector('#token-field').hidden")
    await page.press("Tab")
    await page.until("document.activeElement.id === 'confirm-yes'")
    await page.press("Enter")


async def test_acting_with_the_keyboard(pool: Pool, tmp_path: Path) -> None:
    """Tab reaches the button, Escape leaves, Enter confirms; without the right token nothing is done."""
    waiting = await life.bring(pool, "waiting")
    await pool.beats.register(WORKER, LANE.lane, life.FACTS)
    async with opened(tmp_path, pool.server.url, token=False) as page:
        await page.until("document.querySelector('#roles button') !== null")
        button = "Pause role planner"
        for _ in range(10):
            await page.press("Tab")
            if await page.run("document.activeElement.getAttribute('aria-label')") == button:
                break
        await page.press("Enter")
        await page.until("document.querySelector('dialog').open")
        await page.press("Escape")
        await page.until("!document.querySelector('dialog').open")
        assert await page.run("document.activeElement.getAttribute('aria-label')") == button
        await page.press("Enter")
        await page.until("document.activeElement.id === 'token'")
        await page.write("wrong")
        await page.press("Enter")
        await page.shows("token is wrong", "#confirm-error")
        await page.run("document.querySelector('#token').select()")
        await page.write(TOKEN)
        await page.press("Enter")
        await page.until("!document.querySelector('dialog').open")
        await page.shows("Role planner is paused", "#done")
        await page.shows("planner is paused", "#sentence")
        assert await life.dispatch(pool, waiting.id) is None
        assert [error for error in page.errors if "401" not in error] == []
        page.errors.clear()

        await choose(page, "Resume role planner")
        await page.shows("is resumed", "#done")
        await choose(page, f"Cancel request {waiting.id[:8]} of role planner")
        await page.until("document.querySelectorAll('#requests tbody tr').length === 0")
        assert await life.state_of(pool, waiting.id) == "cancelled"


async def test_models_and_lanes(redis_url: str, tmp_path: Path) -> None:
    """Load and unload reach the model server through the pool; a drained lane says so. The token leaves the address."""
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(Simulator(api="ollama", models=["m1", "m2"]))
        await stack.enter_async_context(lane(redis_url, "gpu0", simulator, provider="ollama"))
        page = await stack.enter_async_context(opened(tmp_path, redis_url))
        await page.until("document.querySelectorAll('#lanes .models li').length === 2")
        assert await page.run("location.hash + location.search") == ""
        for verb in ("Load", "Unload"):
            await choose(page, f"{verb} model m2:latest on lane gpu0")
            await page.shows(f"has {verb.lower()}ed model m2:latest", "#done")
        await choose(page, "Drain lane gpu0")
        await page.until("document.querySelector('#lanes .badge').innerText === 'draining'")
        await choose(page, "Resume lane gpu0")
        await page.until("document.querySelector('#lanes .badge').innerText === 'up'")


async def test_names_are_text(pool: Pool, tmp_path: Path) -> None:
    """Markup in names from the pool is shown as it is written, and does nothing."""
    hostile = '<img src=x onerror="document.title=1"><script>document.title=1</script>'
    await pool.beats.renew(WORKER, replace(LANE, models=(hostile,), provider="<b>sim</b>"), [], accepts_new_work=True)
    await pool.beats.register(WORKER, LANE.lane, life.FACTS)
    await life.submit(pool, life.envelope(model=hostile))
    async with opened(tmp_path, pool.server.url) as page:
        await page.shows(hostile, "#lanes .models")
        await page.until("document.querySelectorAll('#requests tbody tr').length === 1")
        assert await page.run("document.querySelectorAll('img, main script').length") == 0
        assert "tokenlane" in await page.run("document.title")


async def test_seeing_from_other_hosts(pool: Pool, tmp_path: Path) -> None:
    """On an address that others reach, the page shows nothing before it has the right token."""
    await life.bring(pool, "waiting")
    async with opened(tmp_path, pool.server.url, token=False, listen="0.0.0.0:0") as page:
        await page.until("document.activeElement?.id === 'token'")
        assert await page.run("document.querySelectorAll('#roles tbody tr').length") == 0
        for given in ("wrong", TOKEN):
            await page.until("document.querySelector('dialog').open")
            await page.write(given)
            await page.press("Enter")
        await page.shows("planner", "#roles")
        page.errors.clear()  # a refused request is one


async def test_the_dashboard_goes_and_comes_back(tmp_path: Path) -> None:
    """The page says that the dashboard does not answer, and follows it again as soon as it does."""
    server = Server(tmp_path)
    async with server, connect(server.url) as pool, chromium(tmp_path / "browser") as page:
        await life.bring(pool, "waiting")
        async with farm(tmp_path, server.url) as site:
            first = await site.tokenlane("dashboard", "--listen", "127.0.0.1:0", TOKENLANE_DASHBOARD_TOKEN=TOKEN)
            url = await address(first)
            await page.open(url)
            await page.shows("planner", "#roles")
            assert (await first.end()).code == 0
            await page.shows("Trying again", "#link")
            port = url.rstrip("/").rpartition(":")[2]
            again = await site.tokenlane("dashboard", "--listen", f"127.0.0.1:{port}", TOKENLANE_DASHBOARD_TOKEN=TOKEN)
            await again.says("page ")
            await page.until("document.querySelector('#link').dataset.state === 'live'")

"""The page of the dashboard in a browser: how it shows a pool at work and in trouble, and what operators do there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from tests.chromium import BINARY, Page, chromium
from tests.integration import life
from tests.integration.farm import Server, farm
from tests.integration.lanes import lane_of
from tests.integration.life import LANE, WORKER
from tests.integration.producer.dashboard.served import TOKEN, served

from tokenlane.benches.simulator import Simulator
from tokenlane.config.settings.values import LaneSettings
from tokenlane.producer import Client, LlmError
from tokenlane.producer.dashboard.actions import OpenClient
from tokenlane.producer.dashboard.documents import LookDocument, look_document
from tokenlane.producer.dashboard.feed import Feed
from tokenlane.routing.contract.errors import PoolUnavailable, ProviderDown
from tokenlane.routing.store.pool import Pool, connect
from tokenlane.routing.support.tasks import background
from tokenlane.routing.watch.live import follow
from tokenlane.routing.watch.live.follow import Look
from tokenlane.routing.watch.snapshot import Snapshot
from tokenlane.worker.lane.timings import Timings

pytestmark = [
    pytest.mark.skipif(BINARY is None, reason="no Chromium is installed: `apt-get install chromium`"),
    pytest.mark.asyncio(loop_scope="module"),
]

NAMES_OF_ALL = "[...document.querySelectorAll('{}')].map((it) => it.innerText.trim())"
WITH_TOKEN = f"#token={TOKEN}"
COUNT_CHARTS = """(({ uPlot: Plot }) => {
  window.charts = 0;
  window.uPlot = function (...options) {
    const plot = new Plot(...options);
    const { destroy } = plot;
    plot.destroy = () => { charts -= 1; destroy(); };
    charts += 1;
    return plot;
  };
})(window)"""
DRAWN_AT = """((canvas) => {seconds}.map((ago) => {{
  const x = Math.round(canvas.width * (1 - ago / 120));
  return canvas.getContext("2d").getImageData(x, 0, 1, canvas.height).data.some(Boolean);
}}))(document.querySelectorAll("#roles canvas")[{canvas}])"""
"""Whether a chart has a line so many seconds ago."""
STANDINGS = NAMES_OF_ALL.format("#roles .badge")
SEVERITY = "document.querySelector('#headline').dataset.severity"
LINK = "document.querySelector('#link').dataset.state"
DONE = """(({{ textContent, dataset }}) => textContent !== "" && dataset.severity === "{severity}")(
  document.querySelector("#done"))"""
"""Whether the page says how an action ended, and in that way."""
DIALOG = "(document.querySelector('dialog[open]') !== null)"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Page]:
    """One browser for all tests."""
    async with chromium(tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Page) -> AsyncIterator[Page]:
    """An empty page. By its end, no error may be in its console."""
    browser.errors.clear()
    yield browser
    assert browser.errors == []


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dashboards in this process look ten times a second, and do not wait for their viewers when they end."""
    monkeypatch.setattr(follow, "_EVERY_S", 0.1)
    monkeypatch.setattr("tokenlane.routing.http_server._SHUTDOWN_S", 0.05)


@asynccontextmanager
async def shown(
    page: Page, pool: Pool, fragment: str = "", open_client: OpenClient | None = None
) -> AsyncIterator[tuple[Feed, str]]:
    """The dashboard of the pool in the browser, until the end of the block: its feed and its address."""
    async with served(pool, open_client=open_client) as (feed, url):
        await page.open(url + fragment)
        try:
            yield feed, url
        finally:
            await page.open("about:blank")


@pytest_asyncio.fixture(loop_scope="module")
async def pool(redis_url: str) -> AsyncIterator[Pool]:
    """A pool that holds nothing."""
    async with connect(redis_url) as pool:
        yield pool


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
async def lane(url: str, name: str, simulator: Simulator) -> AsyncIterator[None]:
    """A lane of that model server, which notices within a moment that it is down."""
    settings = LaneSettings(name, "ollama", simulator.url, capacity=3)
    async with lane_of(url, settings, Timings(check_s=0.2)):
        yield


async def test_a_pool_at_work_and_in_trouble(page: Page, tmp_path: Path) -> None:
    """The first sentence says what is wrong: two dead model servers, then Redis. Figures follow, and actions work."""
    server = Server(tmp_path)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(server)
        pool = await stack.enter_async_context(connect(server.url))
        simulators = [
            await stack.enter_async_context(Simulator(api="ollama", models=["m1", "m2"], itl_ms=20, tokens=300))
            for _ in range(2)
        ]
        for number, simulator in enumerate(simulators):
            await stack.enter_async_context(lane(server.url, f"gpu{number}", simulator))
        await stack.enter_async_context(agents(server.url))
        await stack.enter_async_context(shown(page, pool, WITH_TOKEN))

        await page.until("document.querySelectorAll('#requests tbody tr').length === 13")
        assert await page.run("location.hash + location.search") == ""
        assert await page.run(NAMES_OF_ALL.format("#roles tbody th .name")) != []
        assert set(await page.run(NAMES_OF_ALL.format("#lanes tbody th .name"))) == {"gpu0", "gpu1"}
        await page.shows("3 of 3", "#lanes")
        await page.until("document.querySelectorAll('#roles canvas').length === 6")
        await page.until(f"{SEVERITY} === 'ok'")
        await steer_lanes(page)
        places = "[...document.querySelectorAll('#requests td[data-label=Place]')].map((it) => it.innerText)"
        await page.until(f"{places}.some((text) => /^1\\D+\\d+\\D+\\d+ s$/.test(text))")
        await page.until("Number(document.querySelector('#lanes td.number').innerText) > 20")
        assert "SECRET" not in await page.run("document.documentElement.outerHTML")

        await asyncio.gather(*(simulator.__aexit__(None, None, None) for simulator in simulators))
        await page.until(f"{SEVERITY} === 'fail'")
        await page.until(f"{NAMES_OF_ALL.format('#lanes .badge')}.join() === 'down,down'")
        await page.until(f"{STANDINGS}.join() === 'stuck,stuck,stuck'")
        worst = await page.run(NAMES_OF_ALL.format("#roles tbody th .name"))
        assert worst[0] in await page.text("#sentence")
        await check_sizes_and_colours(page)

        await server.kill()
        await page.until(f"!document.querySelector('#outage').hidden && {LINK} === 'outage'")
        assert await page.run(STANDINGS) == ["stuck"] * 3
        await server.start()
        await page.until("document.querySelector('#outage').hidden")


async def steer_lanes(page: Page) -> None:
    """Load and unload reach the model server through the pool; a drained lane says so."""
    for verb in ("Load", "Unload"):
        await choose(page, f"{verb} model m2:latest on lane gpu0")
        await page.until(DONE.format(severity="ok"))
    await choose(page, "Drain lane gpu0")
    drained = "[...document.querySelectorAll('#lanes tr')].some((it) => it.innerText.includes('draining'))"
    await page.until(drained)
    await choose(page, "Resume lane gpu0")
    await page.until(f"!{drained}")


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
    await press(page, "#numbers")
    await page.until("document.querySelector('#roles .canvas').hidden")
    assert await page.text("#roles .numbers")
    await page.until("document.documentElement.scrollWidth <= 390")
    await page.resize(1280, 860)
    await page.prefer("light")


async def press(page: Page, selector: str) -> None:
    """Press a button with the keyboard: rows move while the pool changes, so a mouse may miss it."""
    found = f"document.querySelector({json.dumps(selector)})"
    await page.until(f"{found} !== null && ({found}.focus(), document.activeElement === {found})")
    await page.press("Enter")


async def choose(page: Page, label: str) -> None:
    """Press the button with this label, and confirm."""
    await page.until(f"!{DIALOG}")
    await press(page, f'button[aria-label="{label}"]')
    await page.until(f"{DIALOG} && document.querySelector('#token-field').hidden")
    await page.press("Tab")
    await page.until("document.activeElement.id === 'confirm-yes'")
    await page.run("document.querySelector('#done').textContent = ''")  # of the action before
    await page.press("Enter")


async def test_acting_with_the_keyboard(pool: Pool, page: Page) -> None:
    """Tab reaches the button, Escape leaves, Enter confirms; without the right token nothing is done."""
    waiting = await life.bring(pool, "waiting")
    await pool.beats.register(WORKER, LANE.lane, life.FACTS)
    async with shown(page, pool):
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
        await page.until("!document.querySelector('#confirm-error').hidden")
        await page.run("document.querySelector('#token').select()")
        await page.write(TOKEN)
        await page.press("Enter")
        await page.until("!document.querySelector('dialog').open")
        await page.until(DONE.format(severity="ok"))
        await page.until(f"{STANDINGS}.join() === 'paused'")
        assert await life.dispatch(pool, waiting.id) is None
        assert [error for error in page.errors if "401" not in error] == []
        page.errors.clear()

        await choose(page, "Resume role planner")
        await page.until(DONE.format(severity="ok"))
        await page.until(f"{STANDINGS}.join() !== 'paused'")
        await choose(page, f"Cancel request {waiting.id[:8]} of role planner")
        await page.until("document.querySelectorAll('#requests tbody tr').length === 0")
        assert await life.state_of(pool, waiting.id) == "cancelled"


async def test_names_are_text(pool: Pool, page: Page) -> None:
    """Markup in names from the pool is shown as it is written, and does nothing."""
    hostile = '<img src=x onerror="document.title=1"><script>document.title=1</script>'
    await pool.beats.renew(WORKER, replace(LANE, models=(hostile,), provider="<b>sim</b>"), [], accepts_new_work=True)
    await pool.beats.register(WORKER, LANE.lane, life.FACTS)
    await life.submit(pool, life.envelope(model=hostile))
    async with shown(page, pool):
        await page.shows(hostile, "#lanes .models")
        await page.until("document.querySelectorAll('#requests tbody tr').length === 1")
        assert await page.run("document.querySelectorAll('img, main script').length") == 0
        assert await page.run("document.title") != "1"


async def test_a_lane_that_cannot_load(pool: Pool, page: Page) -> None:
    """The page offers no button for what its model server cannot do, and offers it once the lane can."""
    buttons = "[...document.querySelectorAll('#lanes .models button')].filter((it) => !it.hidden).length"
    vllm = LANE.offer.model_copy(update={"unsupported": {"load": "start it with the model", "unload": "stop it"}})
    await life.beat(pool, WORKER, replace(LANE, offer=vllm))
    async with shown(page, pool):
        await page.until("document.querySelectorAll('#lanes .models .name').length === 2")
        assert await page.run(buttons) == 0
        await life.beat(pool, WORKER, LANE)
        await page.until(f"{buttons} === 4")


async def test_filtering_requests(pool: Pool, page: Page) -> None:
    """Where none matches, the page does not say that there are none."""
    waiting = await life.bring(pool, "waiting")
    async with shown(page, pool):
        await page.until("document.querySelectorAll('#requests tbody tr').length === 1")
        await page.run("document.querySelector('#filter').focus()")
        await page.write("nobody")
        await page.until("document.querySelector('#requests').hidden")
        no_match = await page.text("#no-requests")
        await page.run("document.querySelector('#filter').select()")
        await page.write("planner wait")
        await page.until("!document.querySelector('#requests').hidden")
        assert await pool.requests.cancel(waiting.id) == "cancelled"
        await page.until("document.querySelector('#requests').hidden")
        assert await page.text("#no-requests") not in ("", no_match)


async def test_the_first_look_fails(pool: Pool, page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page says so, and does not speak of figures that it does not show."""

    message = "Redis does not answer."

    async def fail(_: Pool) -> Snapshot:
        raise PoolUnavailable(message)

    monkeypatch.setattr(follow, "take_snapshot", fail)
    async with shown(page, pool):
        await page.shows(message, "#outage")
        assert await page.text("#outage") == message
        assert await page.run(LINK) == "outage"


async def test_closing_the_dialog_while_a_model_loads(pool: Pool, page: Page) -> None:
    """The load goes on, and says how it ended; meanwhile another action is asked for and done."""
    await life.bring(pool, "waiting")
    await pool.beats.register(WORKER, LANE.lane, life.FACTS)
    loading, loaded = asyncio.Event(), asyncio.Event()

    class SlowClient(Client):
        async def load(self, model: str, *, lane: str | None = None) -> None:
            loading.set()
            await loaded.wait()
            raise ProviderDown("The model server has no memory left.")

    async with shown(page, pool, WITH_TOKEN, lambda: SlowClient(pool.server.url)):
        await choose(page, "Load model m1 on lane lane1")
        await loading.wait()
        assert await page.run("document.querySelector('#confirm-yes').disabled")
        await page.press("Escape")
        await choose(page, "Pause role planner")
        await page.until(DONE.format(severity="ok"))
        await page.until(f"!{DIALOG}")
        await press(page, "[aria-label='Resume role planner']")
        await page.until(DIALOG)
        loaded.set()
        await page.until(DONE.format(severity="fail"))
        assert "no memory left" in await page.text("#done")  # as the model server's error says it
        assert await page.run(DIALOG)
        assert await page.text("#confirm-error") == ""
        await page.press("Escape")
        await page.until(f"!{DIALOG}")
        page.errors.clear()  # an action that fails is one


async def test_a_bug_of_the_page(pool: Pool, page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no loss of the connection: the page says what it is, once in the console, and goes on with newer looks."""
    await life.bring(pool, "waiting")
    broken = []

    def break_it(look: Look) -> dict[str, object]:
        document = look_document(look)
        broken.append(document)
        return {**document, "view": {**(document["view"] or {}), "lanes": None}}

    async with shown(page, pool) as (feed, _):
        await page.shows("planner", "#roles")
        with monkeypatch.context() as patch:
            patch.setattr("tokenlane.producer.dashboard.feed.look_document", break_it)
            await page.until("!document.querySelector('#bug').hidden")
            seen = len(broken)
            async with asyncio.timeout(20):
                while len(broken) < seen + 2:
                    await asyncio.sleep(0.01)
        await page.until("document.querySelector('#bug').hidden")
        assert await page.run(LINK) == "live"
        assert await page.run("performance.getEntriesByName(new URL('events', location).href).length") <= 1
        assert feed.viewers == 1
        assert len(page.errors) == 1
        assert "TypeError" in page.errors[0]
        page.errors.clear()


async def test_the_charts_of_a_role_that_leaves(pool: Pool, page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are destroyed, so that a page that is open for days keeps no memory for them."""
    await life.bring(pool, "waiting")
    hidden = True

    def without_roles(look: Look) -> LookDocument:
        document = look_document(look)
        if hidden and document["view"]:
            document["view"]["roles"] = []
        return document

    monkeypatch.setattr("tokenlane.producer.dashboard.feed.look_document", without_roles)
    async with shown(page, pool):
        await page.until("document.querySelector('#no-roles')?.hidden === false")
        await page.run(COUNT_CHARTS)
        hidden = False
        await page.until("charts === 2")
        hidden = True
        await page.until("document.querySelector('#no-roles')?.hidden === false")
        assert await page.run("charts") == 0


def with_a_gap(look: Look) -> dict[str, list[list[float]]]:
    """The samples of two minutes in which nobody looked for one minute."""
    assert look.view is not None
    seconds = (*range(120, 85, -1), *range(30, 0, -1))
    return {life.ROLE: [[look.view.time_ms - 1000 * each, 5, 1, 1] for each in seconds]}


async def test_the_charts_of_an_outage(pool: Pool, page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no look was taken there is no line, and no number."""
    await life.bring(pool, "waiting")
    monkeypatch.setattr("tokenlane.producer.dashboard.feed.history_document", with_a_gap)
    async with served(pool) as (feed, url):
        async with asyncio.timeout(20):
            while not feed.is_ready:
                await asyncio.sleep(0.01)
        await page.open(url)
        await page.until("document.querySelectorAll('#roles canvas').length === 2")
        for canvas in range(2):
            drawn = await page.run(DRAWN_AT.format(canvas=canvas, seconds=[110, 60, 10]))
            assert drawn == [True, False, True]
        await press(page, "#numbers")
        numbers = await page.run(NAMES_OF_ALL.format("#roles .numbers tbody tr:first-child td"))
        assert [number.isdecimal() for number in numbers[1:5]] == [True, False, True, True]  # 90, 60, 30, 0 s ago
        await page.open("about:blank")


async def test_seeing_from_other_hosts(pool: Pool, page: Page, tmp_path: Path) -> None:
    """On an address that others reach, the page shows nothing before it has the right token, and asks until then."""
    await life.bring(pool, "waiting")
    async with farm(tmp_path, pool.server.url) as site:
        child = await site.tokenlane("dashboard", "--listen", "0.0.0.0:0", TOKENLANE_DASHBOARD_TOKEN=TOKEN)
        await child.says("token ")
        (line,) = [line for line in child.out.splitlines() if line.startswith("page ")]
        assert TOKEN not in child.out
        url = line.split()[1]
        await page.open(url)
        await page.until("document.activeElement?.id === 'token'")
        for _ in range(3):
            await page.press("Escape")
        assert await page.run("document.querySelectorAll('#roles tbody tr').length") == 0
        for given in ("wrong", f" {TOKEN}\u200b "):
            await page.until(DIALOG)
            assert await page.run("document.querySelector('#confirm-no').hidden")
            await page.write(given)
            await page.press("Enter")
        await page.shows("planner", "#roles")

        await page.run("sessionStorage.clear()")
        await page.open("about:blank")
        await page.open(url)
        await page.until(DIALOG)
        await page.run(f"location.hash = '#token={TOKEN}%20'")
        await page.shows("planner", "#roles")
        await page.until(f"!{DIALOG}")
        assert await page.run("location.hash") == ""
        await page.open("about:blank")
    page.errors.clear()  # a refused request is one


async def test_the_dashboard_goes_and_comes_back(pool: Pool, page: Page) -> None:
    """The page says that the dashboard does not answer, and follows it again as soon as it does."""
    await life.bring(pool, "waiting")
    async with served(pool) as (_, url):
        await page.open(url)
        await page.shows("planner", "#roles")
    await page.until(f"{LINK} === 'lost'")
    async with served(pool, port=urlsplit(url).port or 0):
        await page.until(f"{LINK} === 'live'")
        await page.open("about:blank")
    page.errors.clear()  # a lost connection is one

"""What a worker or router announces is foreign: of any version, or anybody's. No reader ends over it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator

import pytest
from tests.integration import life
from tests.integration.life import CLIENT, LANE, PREFIX, ROUTER, WORKER, raw
from tests.lanes import chats

from tokenlane.benches.simulator import Simulator
from tokenlane.config.cli.output import show, show_json
from tokenlane.config.cli.plain_text import running_text
from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.commands.doctor import _details, _table
from tokenlane.routing.commands.status import _parts, _problem_lines, as_document
from tokenlane.routing.decide.lanes.offer import Announcement
from tokenlane.routing.decide.no_candidate import no_candidate_error
from tokenlane.routing.decide.queue_key import Queue
from tokenlane.routing.router import run_router
from tokenlane.routing.store.hub import open_hub
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.support.tasks import background
from tokenlane.routing.watch.doctor import (
    examine,
    examine_endpoint,
    examine_key_and_policy,
    examine_unreadable,
    examine_versions,
)
from tokenlane.routing.watch.parse_snapshot import take_snapshot
from tokenlane.routing.watch.pool_health import examine_pool, find_problems
from tokenlane.routing.watch.route_coverage import route_coverage
from tokenlane.routing.watch.snapshot import Snapshot
from tokenlane.worker.lane.model_server.describe_lane import describe_lane
from tokenlane.worker.providers import default_registry

HOSTILE = [
    *("", "0", "-1", "null", "{}", "[]", "NaN", "1e999", "9" * 30, "9" * 5000, "0x10", "1.5", "true", '"text"'),
    *("[1, 2]", '{"a": 1}', "[" * 20_000, '["\\ud800"]', '["\u202egpj", "\\u001b[31m"]', "x" * 200_000),
    *('{"limits": {"chat": 1e999, "embed": "many"}}', '{"limits": [], "abilities": {"m": 3}}', '{"pulling": {"m": 1}}'),
    *("\x1b]0;title\x07", "\u202egpj.exe", "two\nlines\r\n", "\x00", "http://[", "http://[::1", "http://h:x"),
    *("http://h:99999999", "http://a..b:1", "http://[host]:1", "unix://\x00", "unix://[", f"http://{'a' * 300}:1"),
    b"\xff\xfe".decode("latin-1"),
]
LANE_FIELDS = ("provider", "endpoint", "models", "limit", "seen", "offer", "arq", "condition", "why")
WORKER_FIELDS = ("lane", "host", "versions", "revision", "error", "error_at", "report", "keys", "condition", "why")
BAD, WORSE = Announcement("bad", "sim", "http://gpu3:8080", ("m1",), chats(2)), "worker\u202e\x1b[31m\xff"


@pytest.fixture
async def site(pool: Pool) -> Pool:
    """A pool with a good lane, and one that can be spoilt."""
    await life.beat(pool)
    await pool.beats.register(WORKER, LANE.lane, life.FACTS)
    await life.beat(pool, WORSE, BAD)
    await pool.beats.register(WORSE, BAD.lane, life.FACTS)
    await pool.beats.sweep(ROUTER, revision=0)
    return pool


def shown(seen: Snapshot, capsys: pytest.CaptureFixture[str]) -> str:
    """All that people and programs are shown of a snapshot."""
    wrong = find_problems(seen, 60)
    endpoints = (examine_endpoint(lane, "refuses", "host") for lane in seen.lanes)
    found = (
        *examine_key_and_policy(seen),
        *examine_unreadable(seen),
        *examine_pool(seen),
        *endpoints,
        *examine_versions(seen),
    )
    show(*_parts(seen, wrong), _problem_lines(wrong), _table(found), *_details(found))
    text = capsys.readouterr().out
    show_json(as_document(seen, wrong))
    document = capsys.readouterr().out
    assert json.loads(document)["pool"] == "main"
    assert running_text(document) == document  # a terminal may show that too
    return text


async def readers(pool: Pool, capsys: pytest.CaptureFixture[str]) -> Snapshot:
    """Have everybody read who reads; nobody may fail, or lose sight of the good lane."""
    seen, survey = await take_snapshot(pool), await pool.survey()
    await pool.beats.check(CLIENT)
    text = shown(seen, capsys)
    assert all(letter.isprintable() or letter == "\n" for letter in text)
    for lanes in (seen.views, survey.lanes):
        (good,) = [lane for lane in lanes if lane.name == LANE.lane]
        assert (good.models, good.offer.limit_of("chat"), good.state.accepts_work, good.endpoint) == (
            LANE.models,
            LANE.offer.limit_of("chat"),
            True,
            LANE.endpoint,
        )
        assert "bad" in [lane.name for lane in lanes]
        str(no_candidate_error(Queue.of(life.envelope(model="none")), seen.policy, lanes))
        for lane in lanes:
            route_coverage(seen.policy, lane=lane.name, provider=lane.provider, models=lane.models)
    return seen


def spoilt() -> Iterator[tuple[str, str]]:
    """The hashes and fields that a worker writes."""
    yield from ((f"{PREFIX}lane:bad:state", field) for field in LANE_FIELDS)
    yield from ((f"{PREFIX}worker:{WORSE}", field) for field in WORKER_FIELDS)


@pytest.mark.parametrize(("key", "field"), [pytest.param(*it, id=f"{it[0][7:11]}-{it[1]}") for it in spoilt()])
async def test_no_value_of_a_hash_ends_a_reader(
    key: str, field: str, site: Pool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever stands in one field of a lane's or a worker's hash, or if it is missing."""
    before = await raw(site).hget(key, field)
    for value in [*(text.encode("utf-8", "surrogatepass") for text in HOSTILE), b"\xff\xfe", None]:
        if value is None:
            await raw(site).hdel(key, field)
        else:
            await raw(site).hset(key, field, value)
        await readers(site, capsys)
    if before is not None:
        await raw(site).hset(key, field, before)
    assert not (await readers(site, capsys)).unknown


@pytest.mark.parametrize(
    ("key", "field", "value"),
    [
        (f"{PREFIX}lane:bad:state", "models", "[1]"),
        (f"{PREFIX}lane:bad:state", "models", "{"),
        (f"{PREFIX}lane:bad:state", "limit", "many"),
        (f"{PREFIX}lane:bad:state", "offer", '{"limits": 3}'),
        (f"{PREFIX}worker:{WORSE}", "versions", '{"tokenlane": 3}'),
        (f"{PREFIX}worker:{WORSE}", "revision", "newest"),
        (f"{PREFIX}worker:{WORSE}", "report", '{"attempts": {"ended": {"chat:completed": -1}}}'),
    ],
)
async def test_what_cannot_be_read_is_named(
    key: str, field: str, value: str, site: Pool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is dropped in silence: `status` and `doctor` say what they could not read."""
    await raw(site).hset(key, field, value)
    seen = await readers(site, capsys)
    assert len(seen.unknown) == 1
    assert seen.unknown[0][:20] in shown(seen, capsys)


async def test_a_router_s_word_is_foreign_too(site: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    """The revision by which it decides, and what it has survived."""
    for text in HOSTILE:
        await raw(site).set(f"{PREFIX}router:{ROUTER}", text.encode("utf-8", "surrogatepass"))
        await raw(site).set(f"{PREFIX}router:{ROUTER}:survived", text.encode("utf-8", "surrogatepass"))
        await readers(site, capsys)


async def test_a_beat_of_odd_names(site: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    """A worker that announces anything as its lane's names ends nobody; all lanes stay in sight."""
    for text in HOSTILE:
        odd = Announcement("bad", text, text, (text, "m1"), chats(1, abilities={text: (text,)}, unpulled={text: text}))
        await life.beat(site, WORSE, odd)
        await readers(site, capsys)
        await examine(site)


async def test_work_goes_on_beside_a_spoilt_lane(site: Pool) -> None:
    """A router gives requests to the good lane while another's state cannot be read."""
    spoiling = {"models": "[1]", "limit": "many", "offer": "{", "seen": "now"}
    await raw(site).hset(f"{PREFIX}lane:bad:state", mapping=spoiling)
    async with open_hub(site) as hub, background() as tasks:
        tasks.create_task(run_router(site, hub, host="host2"))
        asked = await life.submit(site, life.envelope(model=LANE.models[0]))
        async with asyncio.timeout(10):
            while await life.state_of(site, asked) != "dispatched":
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
async def test_a_loopback_is_announced_as_a_url_of_this_host(host: str, pool: Pool) -> None:
    """By the host's name, which every URL takes; whoever reads it reaches the server from here."""
    async with Simulator(host=host) as simulator:
        settings = LaneSettings("gpu0", "llamacpp", simulator.url)
        async with default_registry().create(settings) as provider:
            lane = await describe_lane(settings, provider)
        port = simulator.url.rpartition(":")[2]
        assert lane.endpoint == f"http://{socket.gethostname()}:{port}"
        await life.beat(pool, WORKER, lane)
        (endpoint,) = [finding for finding in await examine(pool) if finding.code == "endpoint"]
        assert (endpoint.severity, lane.endpoint in endpoint.observed) == ("ok", True)

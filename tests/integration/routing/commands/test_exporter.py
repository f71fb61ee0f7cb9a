"""`tokenlane exporter` as Prometheus and orchestrators see it, while Redis comes and goes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from tests.integration.farm import Child, Server, eventually, farm

from tokenlane.config import exit_codes as exits
from tokenlane.producer import Client
from tokenlane.routing.contract.envelope import Quota
from tokenlane.routing.store.access.api_key import ApiKey
from tokenlane.routing.store.pool import connect
from tokenlane.routing.watch.metrics.table import BY_NAME

OPEN_METRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}


async def get(url: str, **headers: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        return answer.status, await answer.text()


def url_of(exporter: Child) -> str:
    """Where it serves, as it says."""
    match = re.search(r"http://127\.0\.0\.1:\d+", exporter.out)
    assert match is not None
    return match[0]


@pytest.mark.kills
async def test_while_redis_comes_and_goes(tmp_path: Path) -> None:
    """The exporter outlives the server: it is not ready then, and says that the pool is away."""
    async with Server(tmp_path) as server, farm(tmp_path, server.url) as opened:
        await server.kill()
        exporter = await opened.tokenlane("exporter", "--listen", "127.0.0.1:0")
        await exporter.says("until Ctrl-C")
        url = url_of(exporter)

        async def answers() -> bool:
            return (await get(f"{url}/readyz"))[0] == 200

        async def is_up() -> bool:
            return 'tokenlane_up{pool="main"} 1.0' in (await get(f"{url}/metrics"))[1]

        assert (await get(f"{url}/healthz"))[0] == 200
        assert (await get(f"{url}/readyz"))[0] == 503
        assert 'tokenlane_up{pool="main"} 0.0' in (await get(f"{url}/metrics"))[1]
        await server.start()
        await eventually(is_up, child=exporter)
        async with connect(server.url) as pool:
            await pool.api_keys.add(ApiKey(name="ci", agent="ci", in_flight=2, created_s=1))
        quota = Quota(name="ci", in_flight=2)
        async with Client(server.url) as client, client.chat("hi", role="planner", quota=quota):
            _, text = await get(f"{url}/metrics")
            assert 'tokenlane_quota_in_flight{pool="main",quota="ci"} 1.0' in text
            assert 'tokenlane_quota_limit{pool="main",quota="ci"} 2.0' in text
            assert 'tokenlane_up{pool="main"} 1.0' in text
            assert 'tokenlane_waiting_requests{pool="main",priority="normal",role="planner"} 1.0' in text
        _, text = await get(f"{url}/metrics", **OPEN_METRICS)
        parsed = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]  # prometheus-client's parser has no types
        families = {family.name: family.type for family in parsed}
        ours = {name: kind for name, kind in families.items() if not name.startswith("process_")}
        assert ours
        for name, kind in ours.items():
            assert BY_NAME[f"{name}_total" if kind == "counter" else name].type == kind
        assert (await get(f"{url}/readyz"))[0] == 200
        await server.kill()
        assert (await get(f"{url}/readyz"))[0] == 503
        assert (await get(f"{url}/healthz"))[0] == 200
        assert 'tokenlane_up{pool="main"} 0.0' in (await get(f"{url}/metrics"))[1]
        await server.start()
        await eventually(answers, child=exporter)
        await eventually(is_up, child=exporter)
        second = await opened.tokenlane("exporter", "--listen", url.removeprefix("http://"))
        ended = await second.ended()
        assert ended.code == exits.USAGE
        assert url.removeprefix("http://") in ended.error
        ended = await exporter.end()
        assert ended.code == exits.OK
        lines = [json.loads(line) for line in ended.error.splitlines()]
        ours_only = [line["level"] for line in lines if line["logger"].endswith("exporter")]
        assert ours_only == ["warning", "info", "warning", "info"]  # one of each in each of two outages

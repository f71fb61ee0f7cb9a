"""Prometheus reads a pool at work: every panel of the Grafana dashboard has data, and every alert is evaluated."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
import yaml
from tests.integration.farm import eventually, farm
from tests.repository import ROOT

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.producer import Client
from tokenlane.routing.contract.errors import BadRequest
from tokenlane.routing.support.tasks import background

CONFIG = ROOT / "config"
CHOSEN = {"$pool": "main", "$role": ".*", "$lane": ".*", "$__rate_interval": "1m"}
"""What Grafana puts in the place of its variables."""

pytestmark = [
    pytest.mark.deployed,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs Debian's package prometheus"),
]


class Query(NamedTuple):
    """A query of the dashboard; `panel`: the panel's title."""

    panel: str
    expression: str


def queries() -> Iterator[Query]:
    """All queries of the dashboard, as Grafana sends them."""
    for panel in json.loads((CONFIG / "grafana" / "tokenlane.json").read_text(encoding="utf-8"))["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"]
            for variable, value in CHOSEN.items():
                expression = expression.replace(variable, value)
            yield Query(panel["title"], expression)


class Prometheus:
    """A running Prometheus."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, url

    async def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer of the HTTP API, which must be a success."""
        async with self._session.get(f"{self._url}/api/v1/{path}", params=parameters) as answer:
            body = await answer.json()
        assert body["status"] == "success", (parameters, body)
        return body["data"]

    async def has_data(self, expression: str) -> bool:
        """Whether the expression has a value that a panel can plot."""
        result = (await self.ask("query", query=expression))["result"]
        return any(series["value"][1] != "NaN" for series in result)

    async def evaluates_all_rules(self) -> bool:
        """Whether Prometheus has evaluated each rule of each file.

        Raises:
            AssertionError: one failed.
        """
        rules = [rule for group in (await self.ask("rules"))["groups"] for rule in group["rules"]]
        assert [rule["lastError"] for rule in rules if rule.get("lastError")] == []
        return bool(rules) and all(rule["health"] == "ok" for rule in rules)

    async def alerts(self, name: str) -> list[dict[str, Any]]:
        """The alerts of that name that fire, or will unless their cause goes away."""
        return [alert for alert in (await self.ask("alerts"))["alerts"] if alert["labels"]["alertname"] == name]


@asynccontextmanager
async def prometheus(directory: Path, jobs: Mapping[str, str]) -> AsyncIterator[Prometheus]:
    """Prometheus with the rules that are shipped, which it evaluates four times a second.

    Args:
        jobs: the address that each job reads. The configuration that is shipped has jobs of these names.
    """
    configuration = yaml.safe_load((CONFIG / "prometheus.yml").read_text(encoding="utf-8"))
    configuration["global"] = {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "250ms"}
    configuration["rule_files"] = [str(CONFIG / name) for name in configuration["rule_files"]]
    assert jobs.keys() <= {job["job_name"] for job in configuration["scrape_configs"]}
    configuration["scrape_configs"] = [
        {"job_name": name, "static_configs": [{"targets": [address]}]} for name, address in jobs.items()
    ]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        *(f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/prometheus"),
        "--web.listen-address=127.0.0.1:0",
        stdout=DEVNULL,
        stderr=PIPE,
    )
    try:
        async with asyncio.timeout(30):
            url = await _url(process)
        async with aiohttp.ClientSession() as session:
            yield Prometheus(session, url)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _url(process: asyncio.subprocess.Process) -> str:
    """Where Prometheus listens, once it is ready."""
    assert process.stderr is not None
    url, written = "", ""
    async for line in process.stderr:
        written += line.decode()
        if found := re.search(rb'msg="Listening on" address=(\S+)', line):
            url = f"http://{found[1].decode()}"
        if b"ready to receive web requests" in line and url:
            return url
    raise AssertionError(f"Prometheus ended:\n{written}")


async def ask_again_and_again(client: Client) -> None:
    """An agent's work without end."""
    while True:
        await client.complete("hi", role="planner")


async def until_plotted(server: Prometheus, wanted: Iterable[Query]) -> None:
    """Wait until each of these queries has had data."""
    for query in wanted:
        try:
            await eventually(partial(server.has_data, query.expression))
        except TimeoutError:
            pytest.fail(f"no data for {query}")


async def test_a_pool_at_work(tmp_path: Path, redis_url: str) -> None:
    """While an agent asks, all panels but that of problems have data, and no rule fails. Once the model server is away,
    the pool has a problem, and the alert about a lane names it."""
    work, problems = (
        [query for query in queries() if (query.panel == "Problems") is about_problems]
        for about_problems in (False, True)
    )
    async with farm(tmp_path, redis_url) as opened, AsyncExitStack() as model_server:
        simulator = await model_server.enter_async_context(Simulator(tokens=8, itl_ms=10))
        exporter = await opened.tokenlane("exporter", "--listen", "127.0.0.1:0")
        worker = await opened.worker("gpu0", simulator, "--metrics", "127.0.0.1:0")
        await exporter.says("until Ctrl-C")
        page = await opened.tokenlane("dashboard", "--listen", "127.0.0.1:0")
        await page.says("#token=")
        address, dashboard = (re.findall(r"http://(127\.0\.0\.1:\d+)", each.out)[0] for each in (exporter, page))
        workers = worker.metrics_url.removeprefix("http://")
        jobs = {"tokenlane": address, "tokenlane-workers": workers, "tokenlane-dashboard": dashboard}
        async with prometheus(tmp_path, jobs) as server:
            await opened.tokenlane("keys", "add", "ci", "--in-flight", "2")
            async with Client(redis_url) as client, background() as tasks:
                simulator.faults.append(FaultScript(status=400))
                with pytest.raises(BadRequest):
                    await client.complete("hi", role="planner")
                working = tasks.create_task(ask_again_and_again(client))
                await until_plotted(server, work)
                await eventually(server.evaluates_all_rules)
                working.cancel()
                await model_server.aclose()
                async with client.chat("hi", role="planner"):  # the worker asks a server whose attempt failed how it is
                    await until_plotted(server, problems)

            async def alerts_of_the_lane() -> bool:
                alerts = await server.alerts("TokenlaneLaneDown")
                assert all("gpu0" in alert["annotations"]["summary"] for alert in alerts)
                return bool(alerts)

            await eventually(alerts_of_the_lane)

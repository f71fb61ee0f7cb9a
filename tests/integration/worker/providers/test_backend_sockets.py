"""Model servers at a Unix socket: found, checked and asked as those at a port are."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests.fake_server import answer_of, ask
from tests.integration.farm import Farm, farm
from tests.lanes import chats

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.dialects import DIALECTS
from tokenlane.config import exit_codes as exits
from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.errors import ProviderDown
from tokenlane.routing.decide.lanes.offer import Announcement, WorkerInfo
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.doctor import examine
from tokenlane.routing.watch.finding import Code, Finding
from tokenlane.worker.discovery.model_servers import probe_target
from tokenlane.worker.discovery.targets import Target
from tokenlane.worker.lane.model_server.describe_lane import describe_lane
from tokenlane.worker.providers import default_registry


@pytest.fixture
async def processes(tmp_path: Path, redis_url: str) -> AsyncIterator[Farm]:
    async with farm(tmp_path, redis_url) as running:
        yield running


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[Simulator]:
    """A model server at a socket whose path needs quoting."""
    async with Simulator(socket=tmp_path / "a model server?.sock", tokens=3) as simulator:
        yield simulator


@pytest.mark.parametrize("api", [api for api in DIALECTS if api != "anthropic"])  # no provider speaks it
async def test_every_server_is_recognised_and_answers(api: str, tmp_path: Path) -> None:
    """Whatever its dialect, with its key where it wants one; the request names localhost as its host."""
    key, kind = SecretStr("right"), api.removesuffix("-router")
    async with Simulator(api=api, socket=tmp_path / "s", tokens=3, api_key="right") as backend:
        seen = await probe_target(Target(LaneSettings("probe", "openai", backend.url, api_key=key), kind))
        assert (seen.provider, seen.models[0].partition(":")[0], seen.problem) == (kind, "sim", None)
        async with default_registry().create(LaneSettings("gpu0", kind, backend.url, api_key=key)) as provider:
            assert await answer_of(provider, ask(), model="sim") == "w0 w1 w2 "
        assert {received.headers["Host"] for received in backend.log} == {"localhost"}
    assert not (tmp_path / "s").exists()


async def test_a_worker_and_its_check(processes: Farm, backend: Simulator) -> None:
    """A worker takes such an endpoint on its command line, and an agent is answered."""
    serving = ("--lane", "gpu0", "--provider", "llamacpp", "--endpoint", backend.url)
    checked = await (await processes.tokenlane("worker", "--check", *serving)).ended()
    assert (checked.code, f"endpoint  {backend.url}, answered in" in checked.out) == (exits.OK, True)
    await processes.tokenlane("worker", *serving)
    answered = await (await processes.tokenlane("chat", "Hello?", "--role", "planner")).ended()
    assert (answered.code, answered.out.strip()) == (exits.OK, "w0 w1 w2")


@pytest.mark.parametrize("name", ["none.sock", "n" * 120])
async def test_no_server_there(tmp_path: Path, name: str) -> None:
    """A socket that is not there, or cannot be, is a model server that cannot be reached."""
    url = f"unix://{tmp_path}/{name}"
    async with default_registry().create(LaneSettings("gpu0", "openai", url)) as provider:
        with pytest.raises(ProviderDown) as raised:
            await answer_of(provider, ask())
        assert raised.value.server_condition == "down"
    problem = (await probe_target(Target(LaneSettings("probe", "openai", url)))).problem
    assert problem is not None
    assert (problem.code, problem.observed) == (Code.MODEL_SERVER, "Nothing listens at this address.")


async def test_a_socket_of_another_host() -> None:
    """A socket is on this host: an address with a host, as `status` shows it, cannot be asked."""
    with pytest.raises(ConfigError, match="unix:///"):
        default_registry().create(LaneSettings("gpu0", "openai", "unix://gpu-hub/run/vllm.sock"))


async def test_others_know_it_by_its_host(backend: Simulator) -> None:
    """Two hosts may have a socket of the same path: the pool is told which host's it is."""
    settings = LaneSettings("gpu0", "llamacpp", backend.url)
    async with default_registry().create(settings) as provider:
        told = await describe_lane(settings, provider)
    assert told.endpoint == f"unix://{socket.gethostname()}{backend.url.removeprefix('unix://')}"


async def doctors_finding(pool: Pool, host: str, path: Path) -> Finding:
    """What the doctor says of a lane whose model server is at a socket of that host."""
    lane = Announcement("gpu0", "vllm", f"unix://{host}{path}", ("m",), chats(1))
    await pool.beats.register("w1", "gpu0", WorkerInfo(host))
    await pool.beats.renew("w1", lane, [], accepts_new_work=True)
    return next(finding for finding in await examine(pool) if finding.code == Code.ENDPOINT)


async def test_the_doctor_looks_at_it(pool: Pool, tmp_path: Path) -> None:
    """While it listens it answers; a socket that is left over refuses; one of another host is not looked at."""
    host, path = socket.gethostname(), tmp_path / "s"

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(path))
        listening.listen()
        found = await doctors_finding(pool, host, path)
        assert found.severity == "ok"
    found = await doctors_finding(pool, host, path)
    assert (found.severity, "refuses" in found.observed) == ("fail", True)
    path.unlink()
    found = await doctors_finding(pool, host, path)
    assert (found.severity, "refuses" in found.observed) == ("fail", True)


async def test_the_doctor_cannot_look_at_anothers(pool: Pool, tmp_path: Path) -> None:
    """A socket of another host is not looked for here."""
    found = await doctors_finding(pool, "another-host", tmp_path / "s")
    assert (found.severity, "answers" in found.observed, "refuses" in found.observed) == ("ok", False, False)

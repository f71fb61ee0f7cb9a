"""The manifests in config/kubernetes work together: their containers run as processes until they are ready."""

from __future__ import annotations

import pytest
from tests.compose import new_settings, read_services
from tests.kubernetes import as_service
from tests.kubernetes import containers as of_manifests

from tokenlane.benches.simulator import Simulator

from .containers import containers


@pytest.mark.deployed
@pytest.mark.timeout(120)
async def test_the_containers_of_the_manifests_work() -> None:
    """All become ready on Valkey with its users, an agent's question is answered, and all end with 0."""
    settings = new_settings()
    passwords = {name: settings[f"{name.upper()}_PASSWORD"] for name in ("agent", "worker", "router", "ops")}
    passwords["pool-key"] = settings["TOKENLANE_POOL_KEY"]
    ours = [as_service(container, passwords) for container in of_manifests()]
    compose = read_services(settings)
    async with Simulator(api="vllm", models=["m"]) as server:
        hosts = {"http://vllm-gpu0:8000": server.url, "http://127.0.0.1:8000": server.url}
        async with containers(compose, hosts) as project:
            for service in (compose["valkey"], *ours):
                await project.up(service)
            answered = await project.run(compose["agent"], "chat", "Name three primes.", "--role", "planner")
            assert (answered.code, answered.error) == (0, "")
            assert answered.out.strip()
            for name, endings in (await project.down()).items():
                assert [ended.code for ended in endings] == [0], name

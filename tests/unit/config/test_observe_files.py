"""What docker-compose.yml gives Prometheus, Grafana and the collector to read names what exists."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from tests.compose import Service, new_settings, read_services
from tests.repository import ROOT

SERVICES = read_services(new_settings())
CONFIG = ROOT / "config"
PORTS = {"prometheus": {9090}, "jaeger": {16686, 8888}}
"""The ports at which third-party services listen by default. Jaeger has its metrics at the second."""


def read(name: str) -> Any:
    return yaml.safe_load((CONFIG / name).read_text(encoding="utf-8"))


def mounted(service: Service) -> dict[str, Path]:
    """The files and folders of the repository that the service sees, by their paths in its container."""
    return {mount.target: ROOT / mount.source for mount in service.mounts if mount.source.startswith(".")}


def listens(host: str, port: int) -> bool:
    """Whether a service of that name listens at that port."""
    if host == "collector":
        collector = read("collector.yml")
        reader = collector["service"]["telemetry"]["metrics"]["readers"][0]["pull"]["exporter"]["prometheus"]
        return port in (
            reader["port"],
            urlsplit("//" + collector["receivers"]["otlp"]["protocols"]["http"]["endpoint"]).port,
        )
    return port in PORTS.get(host, ()) or any(word.endswith(f"=0.0.0.0:{port}") for word in SERVICES[host].command)


def targets() -> Iterator[tuple[str, int]]:
    """The hosts and ports that Prometheus reads, apart from itself."""
    for job in read("prometheus.yml")["scrape_configs"]:
        for static in job.get("static_configs", []):
            yield from ((target.split(":")[0], int(target.split(":")[1])) for target in static["targets"])
        for found in job.get("dns_sd_configs", []):
            yield from ((name, found["port"]) for name in found["names"])


def test_each_service_reads_the_files_that_it_is_told_to() -> None:
    """The option of each command is the path at which the file is mounted."""
    for name, option in (("prometheus", "--config.file="), ("collector", "--config=")):
        (path,) = [word.removeprefix(option) for word in SERVICES[name].command if word.startswith(option)]
        assert mounted(SERVICES[name])[path].is_file()


def test_prometheus_reads_what_listens() -> None:
    """Every target is a service, and listens there."""
    found = {(host, port) for host, port in targets() if host != "127.0.0.1"}
    assert {host for host, _ in found} == {"exporter", "worker", "dashboard", "collector", "jaeger"}
    assert [target for target in found if not listens(*target)] == []


def test_prometheus_sees_its_rules() -> None:
    """They are mounted at the paths that its configuration names, which it reads from its own folder."""
    files = mounted(SERVICES["prometheus"])
    (folder,) = {str(Path(path).parent) for path, file in files.items() if file.name == "prometheus.yml"}
    rules = read("prometheus.yml")["rule_files"]
    assert rules
    assert {files[f"{folder}/{name}"] for name in rules} == {CONFIG / name for name in rules}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Debian's package prometheus")
@pytest.mark.parametrize("name", ["prometheus.yml", "kubernetes/prometheus.yml"])
def test_promtool_accepts_the_configuration(name: str, tmp_path: Path) -> None:
    """As Prometheus does when it starts with the alerts in the same folder."""
    shutil.copy(CONFIG / "alerts.yml", tmp_path)
    checked = subprocess.run(
        ["promtool", "check", "config", shutil.copy(CONFIG / name, tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stderr


def test_the_collector_uses_what_it_configures() -> None:
    """Every part of a pipeline is configured, and every part that is configured is used."""
    collector = read("collector.yml")
    assert collector.keys() == {"receivers", "processors", "exporters", "service"}
    for kind in ("receivers", "processors", "exporters"):
        used = [name for pipeline in collector["service"]["pipelines"].values() for name in pipeline[kind]]
        assert {*used} == collector[kind].keys()
    (exporter,) = collector["exporters"].values()
    assert urlsplit(exporter["endpoint"]).hostname in SERVICES


def test_services_send_traces_to_the_collector() -> None:
    """The address in .env.example is one at which the collector listens."""
    (line,) = [
        line for line in (ROOT / ".env.example").read_text(encoding="utf-8").splitlines() if "collector:" in line
    ]
    address = urlsplit(next(word for word in line.split() if word.startswith("http://")))
    assert address.port is not None
    assert listens(str(address.hostname), address.port)


def test_grafana_has_its_data_sources_and_dashboard() -> None:
    """The data sources are services that listen, and the folder of dashboards has the file."""
    sources = read("grafana/provisioning/datasources/tokenlane.yml")
    assert sources["apiVersion"] == 1
    for source in sources["datasources"]:
        assert {"name", "type", "uid", "access", "url"} <= source.keys()
        address = urlsplit(source["url"])
        assert address.port is not None
        assert listens(str(address.hostname), address.port)
    (provider,) = read("grafana/provisioning/dashboards/tokenlane.yml")["providers"]
    files = mounted(SERVICES["grafana"])
    boards = [path for path in files if path.startswith(f"{provider['options']['path']}/")]
    assert boards == [SERVICES["grafana"].environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]]

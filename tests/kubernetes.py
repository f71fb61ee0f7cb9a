"""The manifests in `config/kubernetes` as tests use them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import yaml
from tests.compose import Service
from tests.repository import ROOT

__all__ = ["FOLDER", "Container", "as_service", "containers", "manifests"]

FOLDER = ROOT / "config" / "kubernetes"
Manifest = Mapping[str, Any]


class Container(NamedTuple):
    """A container of tokenlane, and the pod that it is in."""

    deployment: str
    spec: Mapping[str, Any]
    pod: Mapping[str, Any]


def manifests() -> dict[tuple[str, str], Manifest]:
    """All objects, by kind and name."""
    files = [file for file in sorted(FOLDER.rglob("*.yaml")) if file.name != "kustomization.yaml"]
    found = [item for file in files for item in yaml.safe_load_all(file.read_text(encoding="utf-8"))]
    return {(item["kind"], item["metadata"]["name"]): item for item in found}


def containers() -> Iterator[Container]:
    """The containers that run our image."""
    for (kind, name), manifest in manifests().items():
        if kind == "Deployment":
            pod = manifest["spec"]["template"]["spec"]
            yield from (Container(name, spec, pod) for spec in pod["containers"] if spec["image"] == "tokenlane")


def as_service(container: Container, passwords: Mapping[str, str]) -> Service:
    """The container as a service, so that it can run as a process.

    Args:
        passwords: the password of each Redis user, and under `pool-key` the pool's key.
    """
    spec, security = container.spec, container.pod["securityContext"]
    environment = {item["name"]: _value(item, passwords) for item in spec["env"]}
    arguments = [re.sub(r"\$\((\w+)\)", lambda found: environment[found[1]], word) for word in spec["args"]]
    entry = {
        "build": {},
        "user": f"{security['runAsUser']}:{security['runAsGroup']}",
        "command": arguments,
        "environment": environment,
        "tmpfs": [mount["mountPath"] for mount in spec["volumeMounts"]],
        "healthcheck": {"disable": True},
        "deploy": {},
    }
    if "readinessProbe" in spec:
        url = f"http://127.0.0.1:{spec['ports'][0]['containerPort']}{spec['readinessProbe']['httpGet']['path']}"
        asks = f"import urllib.request as http; http.urlopen({url!r}, timeout=5)"
        entry["healthcheck"] = {"test": ["CMD", "python", "-c", asks]}
    return Service(container.deployment, entry)


def _value(item: Mapping[str, Any], passwords: Mapping[str, str]) -> str:
    """The value of a variable, with the secret of the example filled in."""
    if "value" in item:
        return str(item["value"])
    source = item["valueFrom"]
    if "fieldRef" in source:
        return "pod-0"
    reference = source["secretKeyRef"]
    text: str = manifests()["Secret", reference["name"]]["stringData"][reference["key"]]
    user = re.search(r"//(\w+):", text)
    return text.replace("tlk1-REPLACE", passwords["pool-key"]).replace("REPLACE", passwords[user[1]] if user else "")

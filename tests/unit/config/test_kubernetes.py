"""The manifests in `config/kubernetes` are valid, and agree with each other and with what they run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import kubernetes_validate
import pytest
import yaml
from tests.compose import new_settings, read_services
from tests.kubernetes import FOLDER, Container, containers, manifests
from tests.repository import ROOT
from tests.verbs import every_verb

VERSION = "1.33"
ALL = manifests()
OURS = list(containers())
each = pytest.mark.parametrize("container", OURS, ids=lambda container: container.deployment)


def objects(required: Mapping[str, Any], **optional: Any) -> dict[str, Any]:
    """The schema of an object with these properties and no others."""
    properties = {**required, **optional}
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


NAME = {"type": "string", "minLength": 1}
NATURAL = {"type": "integer", "minimum": 0}
NUMBER_AS_TEXT = {"type": "string", "pattern": r"^\d+(\.\d+)?$"}
FLAG_AS_TEXT = {"enum": ["true", "false"]}
SCALED_OBJECT = objects(
    {
        "scaleTargetRef": objects({"name": NAME}, apiVersion=NAME, kind=NAME, envSourceContainerName=NAME),
        "triggers": {
            "type": "array",
            "minItems": 1,
            "items": objects(
                {
                    "type": {"const": "prometheus"},
                    "metadata": objects(
                        {"serverAddress": NAME, "query": NAME, "threshold": NUMBER_AS_TEXT},
                        activationThreshold=NUMBER_AS_TEXT,
                        ignoreNullValues=FLAG_AS_TEXT,
                        unsafeSsl=FLAG_AS_TEXT,
                        **dict.fromkeys(("namespace", "customHeaders", "queryParameters", "authModes"), NAME),
                    ),
                },
                name=NAME,
                metricType={"enum": ["AverageValue", "Value"]},
                authenticationRef=objects({"name": NAME}, kind=NAME),
            ),
        },
    },
    **dict.fromkeys(("pollingInterval", "cooldownPeriod", "initialCooldownPeriod", "idleReplicaCount"), NATURAL),
    **dict.fromkeys(("minReplicaCount", "maxReplicaCount"), NATURAL),
    fallback=objects({"failureThreshold": NATURAL, "replicas": NATURAL}, behavior=NAME),
    advanced=objects(
        {},
        restoreToOriginalReplicaCount={"type": "boolean"},
        horizontalPodAutoscalerConfig=objects({}, name=NAME, behavior={"type": "object"}),
    ),
)
"""What KEDA's documentation says of a ScaledObject with a trigger of Prometheus: numbers of a trigger are texts."""


@pytest.mark.parametrize(("kind", "name"), [key for key in ALL if key[0] != "ScaledObject"])
def test_kubernetes_accepts_it(kind: str, name: str) -> None:
    """No object has an unknown field or a wrong value."""
    kubernetes_validate.validate(ALL[kind, name], VERSION, strict=True)


def test_keda_accepts_the_scaled_object() -> None:
    """So far as KEDA's documentation describes it. It scales a deployment that does not set its replicas itself."""
    scaled = ALL["ScaledObject", "vllm"]
    assert scaled["apiVersion"] == "keda.sh/v1alpha1"
    jsonschema.validate(scaled["spec"], SCALED_OBJECT)
    target = ALL["Deployment", scaled["spec"]["scaleTargetRef"]["name"]]
    assert "replicas" not in target["spec"]


def test_the_scaler_asks_for_metrics_that_exist() -> None:
    """The query names metrics of docs/metrics.md."""
    query = ALL["ScaledObject", "vllm"]["spec"]["triggers"][0]["metadata"]["query"]
    (pattern,) = re.findall(r'__name__=~"([^"]+)"', query)
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    metrics = set(re.findall(r"^\| `(tokenlane_\w+)` \|", page, re.MULTILINE))
    asked = {metric for metric in metrics if re.fullmatch(pattern, metric)}
    assert asked == {"tokenlane_waiting_requests", "tokenlane_running_requests"}
    assert "tokenlane_up" in metrics


@pytest.mark.parametrize("folder", [FOLDER, FOLDER / "keda"], ids=lambda folder: str(folder.name))
def test_kustomize_has_every_file(folder: Path) -> None:
    """Each list names all files of its folder but the secrets, and gives our image its name in a registry."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    others = {"kustomization.yaml", "secrets.example.yaml"}
    assert {*kustomization["resources"]} == {file.name for file in folder.glob("*.yaml")} - others
    (image,) = kustomization["images"]
    assert f"{image['name']}:{image['newTag']}" == read_services(new_settings())["worker"].entry["image"]


def test_secrets_are_placeholders() -> None:
    """The example has no secret, and each value says what to replace."""
    assert all("REPLACE" in value for value in ALL["Secret", "tokenlane"]["stringData"].values())


@each
class TestContainer:
    """What holds for each container of our image."""

    def test_runs_a_verb_with_options_that_exist(self, container: Container) -> None:
        """The arguments are those of the command line."""
        verbs = {
            verb.words: {option for param in verb.command.params for option in param.opts} for verb in every_verb()
        }
        verb, *arguments = container.spec["args"]
        assert {argument for argument in arguments if argument.startswith("--")} <= verbs[verb,]

    def test_has_few_rights(self, container: Container) -> None:
        """No root, no capabilities, no writing to the image, and no way into Kubernetes."""
        pod, own = container.pod["securityContext"], container.spec["securityContext"]
        user = read_services(new_settings())["worker"].entry["user"]
        assert f"{pod['runAsUser']}:{pod['runAsGroup']}" == user
        assert pod["runAsNonRoot"] is True
        assert own["readOnlyRootFilesystem"] is True
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert container.pod["automountServiceAccountToken"] is False
        assert container.pod["enableServiceLinks"] is False
        assert "memory" in container.spec["resources"]["limits"]

    def test_has_time_to_drain(self, container: Container) -> None:
        """Kubernetes kills a pod later than its worker ends its requests."""
        arguments = container.spec["args"]
        drain = int(arguments[arguments.index("--drain") + 1]) if "--drain" in arguments else 0
        assert container.pod.get("terminationGracePeriodSeconds", 30) > drain

    def test_has_its_secrets(self, container: Container) -> None:
        """Each variable that comes from a secret has a key there."""
        for variable in container.spec["env"]:
            if "secretKeyRef" in variable.get("valueFrom", {}):
                secret = variable["valueFrom"]["secretKeyRef"]
                assert secret["key"] in ALL["Secret", secret["name"]]["stringData"]

    def test_is_asked_where_it_listens(self, container: Container) -> None:
        """The probes and the command name one port."""
        if not (ports := container.spec.get("ports")):
            return
        assert f"0.0.0.0:{ports[0]['containerPort']}" in container.spec["args"]
        for probe, path in (("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
            assert container.spec[probe]["httpGet"] == {"path": path, "port": ports[0]["name"]}


@pytest.mark.parametrize(("kind", "name"), [key for key in ALL if key[0] in ("PodDisruptionBudget", "Service")])
def test_selects_pods_that_exist(kind: str, name: str) -> None:
    """A budget or a service of no pods would do nothing."""
    selector = ALL[kind, name]["spec"]["selector"]
    wanted = selector.get("matchLabels", selector)
    labels = [item["spec"]["template"]["metadata"]["labels"] for (k, _), item in ALL.items() if k == "Deployment"]
    assert any(wanted.items() <= those.items() for those in labels)


def test_a_budget_leaves_something_to_evict() -> None:
    """A deployment with a budget has more pods than the budget keeps."""
    for (kind, name), budget in ALL.items():
        if kind == "PodDisruptionBudget":
            assert ALL["Deployment", name]["spec"]["replicas"] > budget["spec"]["minAvailable"]


def test_every_pod_has_a_network_policy() -> None:
    """The policy selects the pods of every deployment."""
    wanted = ALL["NetworkPolicy", "tokenlane"]["spec"]["podSelector"]["matchLabels"]
    for (kind, _), item in ALL.items():
        if kind == "Deployment":
            assert wanted.items() <= item["spec"]["template"]["metadata"]["labels"].items()


def test_only_workers_and_gateways_have_the_key() -> None:
    """Routers and the exporter open no request."""
    with_key = {container.deployment for container in OURS if "TOKENLANE_POOL_KEY" in str(container.spec["env"])}
    opening = {container.deployment for container in OURS if container.spec["args"][0] in ("worker", "serve")}
    assert with_key == opening


def test_prometheus_may_read_what_it_asks_for() -> None:
    """The jobs of prometheus.yml name services of the exporter and of all workers; the policy opens their ports."""
    exporter, workers = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    namespace = yaml.safe_load((FOLDER / "kustomization.yaml").read_text(encoding="utf-8"))["namespace"]
    (port,) = {ALL["Service", name]["spec"]["ports"][0]["port"] for name in ("exporter", "workers")}
    assert (exporter["job_name"], workers["job_name"]) == ("tokenlane", "tokenlane-workers")
    assert exporter["static_configs"] == [{"targets": [f"exporter.{namespace}.svc:{port}"]}]
    (found,) = workers["dns_sd_configs"]
    assert (found["names"], found["port"]) == ([f"workers.{namespace}.svc"], port)
    assert ALL["Service", "workers"]["spec"]["clusterIP"] == "None"
    for service in ("exporter", "workers"):  # a pod that is not ready says why in its metrics
        assert ALL["Service", service]["spec"]["publishNotReadyAddresses"]

    ((opened,),) = [rule["ports"] for rule in ALL["NetworkPolicy", "tokenlane"]["spec"]["ingress"]]
    for container in OURS:
        ports = [(item["name"], item["containerPort"]) for item in container.spec.get("ports", [])]
        others = {"router": [], "gateway": [("http", 4000)]}
        assert ports == others.get(container.deployment, [(opened["port"], port)])
        labels = ALL["Deployment", container.deployment]["spec"]["template"]["metadata"]["labels"]
        is_worker = ALL["Service", "workers"]["spec"]["selector"].items() <= labels.items()
        assert is_worker == (container.spec["args"][0] == "worker")


def test_pods_may_connect_to_what_they_are_given() -> None:
    """The policy opens the ports of Redis, of the worker's model server, and of a collector of traces."""
    opened = {port["port"] for rule in ALL["NetworkPolicy", "tokenlane"]["spec"]["egress"] for port in rule["ports"]}
    urls = [url for url in ALL["Secret", "tokenlane"]["stringData"].values() if "://" in url]
    urls += [word for container in OURS for word in container.spec["args"] if "://" in word]
    urls.append("http://collector:4318")
    assert opened == {53, *(urlsplit(url).port for url in urls)}


def test_a_sidecar_outlives_its_worker() -> None:
    """Kubernetes stops a container that restarts always among the init containers after the others."""
    pod = ALL["Deployment", "vllm"]["spec"]["template"]["spec"]
    (server,) = pod["initContainers"]
    assert server["restartPolicy"] == "Always"
    assert "startupProbe" in server

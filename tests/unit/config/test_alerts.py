"""The alerts of config/alerts.yml are valid, say whom they concern, and each has a section of docs/runbook.md."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml
from tests.repository import ROOT

from tokenlane.routing.decide.lanes.state import LaneState
from tokenlane.routing.watch.finding import Code
from tokenlane.routing.watch.metrics.table import BY_NAME
from tokenlane.routing.watch.pool_health import MAX_WAIT_S
from tokenlane.routing.watch.queue_health import fails
from tokenlane.routing.watch.snapshot import Rates

CONFIG = ROOT / "config"
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
(GROUP,) = yaml.safe_load((CONFIG / "alerts.yml").read_text(encoding="utf-8"))["groups"]
ALERTS: dict[str, dict[str, Any]] = {rule["alert"]: rule for rule in GROUP["rules"]}
PARTS = ["Means", "Look at", "Do", "Undo"]

each_alert = pytest.mark.parametrize("alert", ALERTS.values(), ids=ALERTS.keys())


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Debian's package prometheus")
@pytest.mark.parametrize(("verb", "file"), [("check", "alerts.yml"), ("test", "alerts_test.yml")])
def test_promtool_accepts_the_rules(verb: str, file: str) -> None:
    """They parse, and fire when alerts_test.yml says."""
    command = ["promtool", verb, "rules", str(CONFIG / file)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_every_alert_is_tested() -> None:
    """alerts_test.yml has a case in which it fires."""
    assert len(ALERTS) == len(GROUP["rules"])
    tested = (CONFIG / "alerts_test.yml").read_text(encoding="utf-8")
    assert set(re.findall(r'alertname="(\w+)", alertstate="firing"', tested)) == ALERTS.keys()


@each_alert
def test_an_alert_says_whom_it_concerns(alert: dict[str, Any]) -> None:
    """Its severity, and in its texts each pool, role, lane and code that its expression leaves apart."""
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert alert["annotations"].keys() == {"summary", "description", "runbook"}
    texts = alert["annotations"]["summary"] + alert["annotations"]["description"]
    labels = {label for by in re.findall(r"by \(([^)]+)\)", alert["expr"]) for label in by.split(", ")}
    assert labels <= set(re.findall(r"\$labels\.(\w+)", texts))


@each_alert
def test_an_expression_asks_for_what_exists(alert: dict[str, Any]) -> None:
    """The metrics, labels, states of lanes and codes of problems in an expression, apart from Prometheus' own `up`."""
    expression = re.sub(r'"[^"]*"', "", alert["expr"])
    names = set(re.findall(r"\btokenlane_\w+", expression))
    assert names <= BY_NAME.keys()
    known = {"pool", *(label for name in names for label in BY_NAME[name].labels)}
    labels = {label for by in re.findall(r"by \(([^)]+)\)", expression) for label in by.split(", ")}
    assert labels <= known
    if names:
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|=)", expression)) <= known | {"severity"}
    for label, known_values in (("state", {*LaneState}), ("code", {*Code})):
        for values in re.findall(rf'\b{label}[=!~]+"([^"]*)"', alert["expr"]):
            assert set(values.split("|")) <= known_values


def test_jobs_exist() -> None:
    """The jobs that expressions name are jobs of config/prometheus.yml."""
    jobs = {job["job_name"] for job in yaml.safe_load((CONFIG / "prometheus.yml").read_text("utf-8"))["scrape_configs"]}
    named = {job for alert in ALERTS.values() for job in re.findall(r'\bjob="([^"]+)"', alert["expr"])}
    assert {"tokenlane", "tracing"} <= named <= jobs


def test_every_alert_has_a_section_of_the_runbook() -> None:
    """The section has the alert's name, four parts in the same order, and the alert links to it. There is no other."""
    sections = {title: body for title, _, body in (part.partition("\n") for part in RUNBOOK.split("\n## ")[1:])}
    assert sections.keys() == ALERTS.keys()
    for name, body in sections.items():
        assert re.findall(r"^- \*\*(.+)\.\*\*", body, re.MULTILINE) == PARTS, name
        assert ALERTS[name]["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"


def test_limits_are_those_of_status() -> None:
    """A role fails, and its requests wait too long, in the alerts as in `tokenlane status --check`."""
    per_second = float(re.findall(r"> ([0-9.]+)", ALERTS["TokenlaneRoleFails"]["expr"])[0])
    assert not fails(Rates(failed=per_second - 0.001))
    assert fails(Rates(expired=per_second + 0.003))
    assert ALERTS["TokenlaneRequestsWait"]["expr"].endswith(f"> {MAX_WAIT_S:g}")

"""The documentation and the dashboard show every metric, as the table has it."""

from __future__ import annotations

import json
import os
import re

from tests.documents import GeneratedPart
from tests.repository import ROOT

from tokenlane.routing.watch.metrics.grafana import dashboard, queries
from tokenlane.routing.watch.metrics.table import METRICS

PAGE = GeneratedPart(ROOT / "docs" / "metrics.md", "metrics")
DASHBOARD = ROOT / "config" / "grafana" / "tokenlane.json"


def test_the_page_is_up_to_date() -> None:
    """After a change, `TOKENLANE_RECORD=1` writes it anew."""
    rows = ["| metric | type | labels | from | meaning |", "|---|---|---|---|---|"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        rows.append(f"| `{metric.name}` | {metric.type} | {labels} | {metric.source} | {metric.meaning} |")
    assert PAGE.is_up_to_date("\n".join(rows) + "\n")


def test_the_dashboard_is_up_to_date() -> None:
    """After a change, `TOKENLANE_RECORD=1` writes it anew."""
    text = json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"
    if os.environ.get("TOKENLANE_RECORD"):
        DASHBOARD.write_text(text, encoding="utf-8")
    assert DASHBOARD.read_text(encoding="utf-8") == text


def test_every_metric_has_a_panel() -> None:
    """The dashboard plots each metric, and asks for none that is not in the table."""
    plotted = {name for metric in METRICS for query in queries(metric).values() for name in names_in(query)}
    assert plotted == {metric.name for metric in METRICS}
    shown = names_in(DASHBOARD.read_text(encoding="utf-8"))
    assert shown == plotted


def names_in(text: str) -> set[str]:
    """The names of metrics in a text."""
    return {
        name.removesuffix("_bucket") for name in re.findall(r"\b(?:tokenlane|gen_ai_client|gen_ai_server)_\w+", text)
    }


def test_names_follow_prometheus() -> None:
    """Names are unique; counters end with `_total`, and seconds and bytes are in the name."""
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.name.endswith("_total") == (metric.type == "counter"), metric.name
        assert metric.name.endswith("_seconds") == (metric.unit == "s"), metric.name
        assert metric.name.endswith("_bytes") == (metric.unit == "bytes"), metric.name
        assert bool(metric.bounds) == (metric.type == "histogram"), metric.name


def test_names_are_tokenlane_s_or_those_of_a_model_server_s_client() -> None:
    """Model servers report `gen_ai_server_...` themselves, and a sum would mix both."""
    assert all(metric.name.startswith(("tokenlane_", "gen_ai_client_")) for metric in METRICS)


def test_no_label_has_unbounded_values() -> None:
    """Requests, agents, clients and workers have ids, which are in no label."""
    labels = {label for metric in METRICS for label in metric.labels}
    assert labels & {"id", "request", "request_id", "agent", "client", "worker", "endpoint", "host"} == set()

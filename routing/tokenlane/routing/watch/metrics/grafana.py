"""Makes the Grafana dashboard from the table of metrics. A test writes it to config/grafana/tokenlane.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .metric import Metric, Panel
from .table import METRICS

Json = dict[str, object]

_ROWS = ("Queues", "Lanes", "Latency", "Work", "Pool")
_UNITS: Mapping[str, str] = {"s": "s", "bytes": "bytes", "1/s": "reqps"}
_WIDTH, _HEIGHT = 12, 8
_FILTERS = ("role", "lane")
_QUANTILES = {"p50": 0.5, "p95": 0.95}
_SOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}


def dashboard() -> Json:
    """The dashboard, as Grafana provisions it."""
    return {
        "uid": "tokenlane",
        "title": "tokenlane",
        "description": "A pool of tokenlane: queues, lanes, times, work and errors. Made from the table of metrics.",
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": list(_variables())},
        "panels": list(_panels()),
    }


def queries(metric: Metric) -> dict[str, str]:
    """The PromQL queries that a panel plots for a metric, each under the beginning of its legend."""
    by = metric.labels if metric.panel.by is None else metric.panel.by
    selector = ",".join(['pool="$pool"', *(f'{label}=~"${label}"' for label in _FILTERS if label in metric.labels)])
    grouped = f" by ({', '.join(by)}) " if by else " "
    if metric.panel.query:
        return {"": metric.panel.query}
    match metric.type:
        case "gauge":
            return {"": f"{'max' if metric.unit == 's' else 'sum'}{grouped}({metric.name}{{{selector}}})"}
        case "counter":
            return {"": f"sum{grouped}(rate({metric.name}{{{selector}}}[$__rate_interval]))"}
        case "histogram":
            rates = f"sum by ({', '.join(('le', *by))}) (rate({metric.name}_bucket{{{selector}}}[$__rate_interval]))"
            return {name: f"histogram_quantile({quantile}, {rates})" for name, quantile in _QUANTILES.items()}


def _variables() -> Iterator[Json]:
    yield {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    for name, query in {
        "pool": "label_values(tokenlane_up, pool)",
        "role": 'label_values(tokenlane_waiting_requests{pool="$pool"}, role)',
        "lane": 'label_values(tokenlane_lane_state{pool="$pool"}, lane)',
    }.items():
        choice: Json = {} if name == "pool" else {"multi": True, "includeAll": True, "allValue": ".*"}
        yield {
            "name": name,
            "label": name.capitalize(),
            "type": "query",
            "datasource": _SOURCE,
            "query": {"query": query, "refId": name},
            "refresh": 2,
            "sort": 1,
            **({"current": {"text": "All", "value": "$__all"}} if choice else {}),
            **choice,
        }


def _panels() -> Iterator[Json]:
    number, y = 0, 0
    for row in _ROWS:
        number += 1
        yield {"id": number, "type": "row", "title": row, "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}, "panels": []}
        y += 1
        panels = dict.fromkeys(metric.panel for metric in METRICS if metric.panel.row == row)
        for place, panel in enumerate(panels):
            number += 1
            position = {"h": _HEIGHT, "w": _WIDTH, "x": place % 2 * _WIDTH, "y": y + place // 2 * _HEIGHT}
            yield {"id": number, "gridPos": position, **_panel(panel)}
        y += (len(panels) + 1) // 2 * _HEIGHT


def _panel(panel: Panel) -> Json:
    metrics = [metric for metric in METRICS if metric.panel == panel]
    targets = [
        {"refId": f"{chr(65 + number)}", "datasource": _SOURCE, "expr": query, "legendFormat": legend}
        for number, (query, legend) in enumerate(_targets(metrics))
    ]
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": "; ".join(f"{metric.name}: {metric.meaning}" for metric in metrics),
        "datasource": _SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": {"unit": _UNITS.get(metrics[0].unit, "short"), "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
    }


def _targets(metrics: list[Metric]) -> Iterator[tuple[str, str]]:
    for metric in metrics:
        by = metric.labels if metric.panel.by is None else metric.panel.by
        for name, query in queries(metric).items():
            words = [name, metric.name.removeprefix("tokenlane_") if len(metrics) > 1 or not by else ""]
            yield query, " ".join([*filter(None, words), *(f"{{{{{label}}}}}" for label in by)])

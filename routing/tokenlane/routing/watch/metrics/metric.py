"""A metric: its name, its labels, its source, and the panel of the Grafana dashboard that plots it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Type = Literal["gauge", "counter", "histogram"]
Source = Literal["exporter", "worker", "dashboard"]
Unit = Literal["", "s", "bytes", "tokens", "requests", "1/s"]


@dataclass(frozen=True)
class Panel:
    """A panel of the Grafana dashboard. Metrics with the same panel share it.

    `by`: the labels by which its lines are told apart; by default all labels of the metric. `query`: what it plots; by
    default the value of a gauge, the rate of a counter, or quantiles of a histogram.
    """

    row: str
    title: str
    by: tuple[str, ...] | None = None
    query: str = ""


@dataclass(frozen=True)
class Metric:
    """One metric. `bounds`: the upper bounds of a histogram's buckets, without infinity."""

    name: str
    type: Type
    unit: Unit
    labels: tuple[str, ...]
    meaning: str
    source: Source
    panel: Panel
    bounds: tuple[float, ...] = ()

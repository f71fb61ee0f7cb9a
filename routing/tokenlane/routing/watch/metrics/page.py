"""The page `/metrics`, in the formats of Prometheus. It needs the extra `metrics`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

from aiohttp import web
from prometheus_client import ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from .metric import Metric, Type
from .samples import Histogram, Sample
from .table import METRICS

_FAMILIES: Mapping[Type, type[GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily]] = {
    "gauge": GaugeMetricFamily,
    "counter": CounterMetricFamily,
    "histogram": HistogramMetricFamily,
}


def add_metrics(app: web.Application, pool: str, read: Callable[[], Awaitable[Iterable[Sample]]]) -> None:
    """Add the page `/metrics`.

    Args:
        pool: the value of the label `pool`.
        read: returns the values of the metrics at each request.
    """

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(_Values(pool, await read())), headers={"Content-Type": content_type})

    app.router.add_get("/metrics", metrics)


class _Values(Collector):
    """The samples as prometheus-client encodes them, with memory, CPU and open files of this process."""

    def __init__(self, pool: str, samples: Iterable[Sample]) -> None:
        self._pool, self._samples = pool, tuple(samples)

    def collect(self) -> Iterator[Family]:
        by_name: dict[str, list[Sample]] = {}
        for sample in self._samples:
            by_name.setdefault(sample.name, []).append(sample)
        for metric in METRICS:
            if samples := by_name.get(metric.name):
                yield _family(metric, self._pool, samples)
        yield from ProcessCollector(registry=None).collect()


def _family(metric: Metric, pool: str, samples: Iterable[Sample]) -> Family:
    family = _FAMILIES[metric.type](metric.name, metric.meaning, labels=("pool", *metric.labels))
    for _, labels, value in samples:
        values = (value.buckets(), value.sum) if isinstance(value, Histogram) else (value,)
        family.add_metric((pool, *labels), *values)
    return family

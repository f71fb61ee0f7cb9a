"""A collector for tests: receives spans by OTLP over HTTP, as the exporters of real processes send them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from tests.loopback import served
from tests.waiting import until


@dataclass(frozen=True)
class Received:
    """A span that the collector received. `links`: the ids of the spans that it links to."""

    service: str
    name: str
    trace_id: str
    id: str
    parent: str
    attributes: Mapping[str, object]
    links: tuple[str, ...]
    events: tuple[str, ...]
    has_failed: bool
    started_ns: int
    ended_ns: int


class Collector:
    """The received spans, and the environment that has a process send its spans here.

    `bytes`: all that exporters have sent. `received`: in how many requests.
    """

    def __init__(self) -> None:
        self.spans: list[Received] = []
        self.bytes, self.received = b"", 0
        self.environment: dict[str, str] = {}

    async def named(self, name: str, count: int = 1) -> list[Received]:
        """Wait for so many spans of this name, and return them in the order of their start."""
        await until(lambda: len(self._named(name)) >= count)
        return self._named(name)

    async def one(self, name: str) -> Received:
        """Wait for the only span of this name."""
        (span,) = await self.named(name)
        return span

    def _named(self, name: str) -> list[Received]:
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.started_ns)

    async def receive(self, request: web.Request) -> web.Response:
        """Take in what an exporter sends."""
        body = await request.read()
        self.bytes += body
        self.received += 1
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = str(_values(resource.resource.attributes)["service.name"])
            self.spans += [_read(service, span) for scope in resource.scope_spans for span in scope.spans]
        return web.Response(
            body=ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf"
        )


def _read(service: str, span: Span) -> Received:
    return Received(
        service,
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        _values(span.attributes),
        tuple(link.span_id.hex() for link in span.links),
        tuple(event.name for event in span.events),
        span.status.code == Status.STATUS_CODE_ERROR,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
    )


def _values(attributes: list[KeyValue]) -> dict[str, object]:
    return {each.key: _value(each.value) for each in attributes}


def _value(value: AnyValue) -> object:
    kind = value.WhichOneof("value")
    assert kind is not None
    return [_value(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)


@asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    """A collector on a port of its own."""
    opened, app = Collector(), web.Application()
    app.router.add_post("/v1/traces", opened.receive)
    async with served(app) as url:
        opened.environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        yield opened

from __future__ import annotations

import logging
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from opentelemetry import trace
from opentelemetry.sdk import _configuration as sdk
from opentelemetry.sdk.resources import Resource
from tests.repository import ROOT

from tokenlane.config.cli.root import VERBS
from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.spans.export import export_spans
from tokenlane.config.spans.redis_commands import RECORDED

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "")  # restored at the end, whatever the code sets
        monkeypatch.delenv(name)


def started(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> list[dict[str, object]]:
    """The calls of the SDK's configuration in an environment with these variables."""
    calls: list[dict[str, object]] = []
    monkeypatch.setattr(sdk, "_initialize_components", lambda **options: calls.append(options))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    export_spans("worker")
    return calls


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", **ENDPOINT},
        {"OTEL_SDK_DISABLED": "true", **ENDPOINT},
        {"OTEL_SERVICE_NAME": "mine"},
    ],
)
def test_nothing_starts_without_an_exporter(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    """Without an exporter the SDK is not configured, and no span is created."""
    assert started(monkeypatch, variables) == []
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


@pytest.mark.parametrize(
    ("variables", "exporters"),
    [
        (ENDPOINT, ["otlp_proto_http"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1"}, ["otlp_proto_http"]),
        ({"OTEL_TRACES_EXPORTER": "otlp,console"}, ["otlp_proto_http", "console"]),
        ({"OTEL_TRACES_EXPORTER": "", "OTEL_EXPORTER_OTLP_PROTOCOL": "", **ENDPOINT}, ["otlp_proto_http"]),
    ],
)
def test_the_sdk_reads_the_variables(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], exporters: list[str]
) -> None:
    """An endpoint or an exporter starts the SDK. OTLP goes over HTTP, for which the extra installs the exporter."""
    assert len(started(monkeypatch, variables)) == 1
    assert sdk._get_exporter_names("traces") == exporters


@pytest.mark.parametrize(
    ("variables", "service"),
    [
        ({}, "tokenlane-worker"),
        ({"OTEL_SERVICE_NAME": "mine"}, "mine"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=mine,host.name=gpu"}, "mine"),
    ],
)
def test_the_environment_names_the_service(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], service: str
) -> None:
    """Otherwise the service has the name of the verb."""
    (options,) = started(monkeypatch, ENDPOINT | variables)
    assert Resource.create(options["resource_attributes"]).attributes["service.name"] == service  # type: ignore[arg-type]  # the options are of many types


@pytest.mark.parametrize("wanted", ["true", "false"])
def test_redis_commands_are_recorded_in_all_threads_if_wanted(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    """A thread that a verb starts later belongs to the same process."""
    try:
        started(monkeypatch, {"TOKENLANE_TELEMETRY__REDIS": wanted, **ENDPOINT})
        with ThreadPoolExecutor(1) as threads:
            assert threads.submit(RECORDED.is_set).result() is (wanted == "true")
    finally:
        RECORDED.clear()


def test_a_wrong_variable_is_an_error_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the value."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipper")
    with pytest.raises(ConfigError, match="zipper"):
        export_spans("worker")


def test_a_missing_extra_is_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The variables may be meant for other programs of the host, so the verb runs all the same."""
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk._configuration", None)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    export_spans("worker")
    (record,) = caplog.records
    assert (record.levelno, "[telemetry]" in record.getMessage()) == (logging.WARNING, True)


def test_another_version_of_the_sdk_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The name of its configuration is private, so a later version may not have it."""
    monkeypatch.delattr(sdk, "_OTelSDKConfigurator")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    export_spans("worker")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_the_page_lists_the_verbs() -> None:
    """docs/tracing.md names all verbs that export spans."""
    page = (ROOT / "docs" / "tracing.md").read_text(encoding="utf-8")
    sentence = page.partition(" send their spans")[0].rpartition("\n\n")[2]
    assert {word.strip("`,") for word in sentence.split() if word != "and"} == {
        name for name, verb in VERBS.items() if verb.traced
    }

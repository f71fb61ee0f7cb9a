"""Exports the spans of a verb's process, as the standard variables of OpenTelemetry say.

OpenTelemetry's SDK reads the variables itself: exporter, endpoint, headers, sampling, batches, resource. This module
only decides whether to start it, and fills in what the SDK for Python leaves open.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from functools import wraps

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.extras import install_advice

from .redis_commands import RECORDED

logger = logging.getLogger(__name__)

_EXPORTER = "OTEL_TRACES_EXPORTER"
_PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def exporting_spans(verb: str, run: Callable[..., object]) -> Callable[..., object]:
    """Return a function that calls `export_spans` and then `run`."""

    @wraps(run)
    def export_and_run(*args: object, **options: object) -> object:
        export_spans(verb)
        return run(*args, **options)

    return export_and_run


def export_spans(verb: str) -> None:
    """Send the spans of this process to the exporter that the environment names, if it names one. What is left is sent
    when the process exits.

    Args:
        verb: the verb that the process runs. It names the service, unless the environment does.
    """
    if not _is_wanted(os.environ):
        return
    # The specification's defaults, also for empty variables. The SDK's protocol is grpc, for which the extra has no
    # exporter.
    for name, default in ((_EXPORTER, "otlp"), (_PROTOCOL, "http/protobuf")):
        os.environ[name] = os.environ.get(name, "").strip() or default
    try:
        from opentelemetry.sdk._configuration import _OTelSDKConfigurator
    except ImportError:  # the extra is not installed, or its private name has moved
        logger.warning(
            "spans are not exported, although %s is set: %s", _reason(os.environ), install_advice("telemetry")
        )
        return

    class Configurator(_OTelSDKConfigurator):
        """The SDK's configuration by variables, which it offers as a base class to those who start it for others."""

    configurator = Configurator()  # type: ignore[no-untyped-call]  # the SDK has no types there
    try:
        configurator.configure(resource_attributes=_service(verb, os.environ))  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"OpenTelemetry cannot be configured: {error}. Check the OTEL_ variables.") from None
    # Imports pydantic, for which `tokenlane --help` need not wait.
    from tokenlane.config.settings.load import telemetry_settings

    if telemetry_settings().redis:
        RECORDED.set()


def _is_wanted(environment: Mapping[str, str]) -> bool:
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environment.get(_EXPORTER, "").strip().lower()
    return exporter != "none" and bool(exporter or _reason(environment))


def _reason(environment: Mapping[str, str]) -> str:
    """The variable that asks for spans."""
    return next((name for name in (*_ENDPOINTS, _EXPORTER) if environment.get(name)), "")


def _service(verb: str, environment: Mapping[str, str]) -> dict[str, str]:
    named = environment.get("OTEL_SERVICE_NAME") or "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return {} if named else {"service.name": f"tokenlane-{verb}"}

"""The table of all metrics, from which the exposition, docs/metrics.md and the Grafana dashboard are made.

A metric has one source: the exporter, which reads it from the pool, or each worker or dashboard, which measures it.
So no sum counts anything twice. Every metric also has the label `pool`.

Labels never hold ids of requests, agents or workers. `MOST_NAMES` limits how many roles, lanes, models and quotas a
process reports by name; it reports the others together as `other`.
"""

from __future__ import annotations

from tokenlane.routing.decide.policy import LEASES_KEPT
from tokenlane.routing.decide.recovery import FREE_RETRIES
from tokenlane.routing.watch.snapshot import CLIENT_SILENT_MS, ROUTER_SILENT_MS

from .metric import Metric, Panel, Source, Unit

MOST_NAMES = 100
"""How many roles, lanes, models, error codes or quotas a process reports by name."""
OTHER = "other"
"""Stands for all names beyond `MOST_NAMES`."""

_GEN_AI = ("lane", "gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_response_model")

_QUEUES, _LANES, _WORK, _LATENCY, _POOL = "Queues", "Lanes", "Work", "Latency", "Pool"
_WAITING = Panel(_QUEUES, "Waiting requests")
_QUOTAS = Panel(_QUEUES, "Quotas of API keys: requests and limit", ("quota",))
_SLOTS = Panel(_LANES, "Running and limit", ("lane",))
_MEMORY = Panel(_POOL, "Redis memory")
_BUDGET = Panel(_POOL, "Retries taken from the budget")
_CACHE = Panel(_WORK, "Vector cache", ("lane",))
_BUGS = Panel(_POOL, "Internal errors per second")

# Boundaries that OpenTelemetry's conventions give for the metrics named gen_ai_client_..., and servers' time per token.
_DURATIONS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_TOKENS = tuple(float(4**power) for power in range(14))
_WAITS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
DELIVERY_INTERVALS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


def _gauge(name: str, unit: Unit, labels: tuple[str, ...], meaning: str, panel: Panel) -> Metric:
    return Metric(name, "gauge", unit, labels, meaning, "exporter", panel)


def _counter(
    name: str, unit: Unit, labels: tuple[str, ...], meaning: str, panel: Panel, source: Source = "exporter"
) -> Metric:
    return Metric(name, "counter", unit, labels, meaning, source, panel)


def _histogram(
    name: str, unit: Unit, labels: tuple[str, ...], meaning: str, panel: Panel, bounds: tuple[float, ...]
) -> Metric:
    return Metric(name, "histogram", unit, labels, meaning, "worker", panel, bounds)


METRICS = (
    _gauge(
        "tokenlane_up",
        "",
        (),
        "1 if the pool's Redis server answered the exporter, otherwise 0",
        Panel(_POOL, "Pool answers"),
    ),
    _gauge(
        "tokenlane_waiting_requests",
        "requests",
        ("role", "priority"),
        "requests that no lane has been given yet",
        _WAITING,
    ),
    _gauge(
        "tokenlane_delayed_requests",
        "requests",
        (),
        "requests that wait for a time before they are tried again",
        _WAITING,
    ),
    _gauge(
        "tokenlane_oldest_request_seconds",
        "s",
        ("role", "priority"),
        "how long the oldest waiting request has waited; 0 if none waits",
        Panel(_QUEUES, "Age of the oldest waiting request"),
    ),
    _gauge(
        "tokenlane_running_requests",
        "requests",
        ("role", "priority"),
        "requests given to a lane, started or not",
        Panel(_QUEUES, "Requests on lanes"),
    ),
    _gauge(
        "tokenlane_requests_per_second",
        "1/s",
        ("role", "priority", "event"),
        "requests per second over the last minute; `event` is `accepted`, `refused`, `completed`, `failed`, "
        "`cancelled`, `expired`, `retried` (tried again after an attempt ended) or `recovered` (tried again after its "
        "worker was lost)",
        Panel(_QUEUES, "Requests per second", ("role", "event")),
    ),
    _gauge(
        "tokenlane_quota_in_flight",
        "requests",
        ("quota",),
        "requests that count against the limit `--in-flight` of the API key with this name, waiting or running",
        _QUOTAS,
    ),
    _gauge("tokenlane_quota_limit", "requests", ("quota",), "how many requests the key may have at once", _QUOTAS),
    _histogram(
        "tokenlane_queue_wait_seconds",
        "s",
        ("role", "priority"),
        "from the acceptance of a request to the start of its first attempt on a lane",
        Panel(_QUEUES, "Time in the queue", ("role",)),
        _WAITS,
    ),
    _gauge(
        "tokenlane_lane_state",
        "",
        ("lane", "state"),
        "1 for the state that the lane is in, 0 for the other states; for the lane `other`, how many are in the state",
        Panel(_LANES, "State", query='tokenlane_lane_state{pool="$pool",lane=~"$lane"} > 0'),
    ),
    _gauge("tokenlane_lane_running", "requests", ("lane", "kind"), "requests that have started on the lane", _SLOTS),
    _gauge(
        "tokenlane_lane_limit",
        "requests",
        ("lane", "kind"),
        "how many requests the lane runs at once; 0 until its model server has answered",
        _SLOTS,
    ),
    _gauge(
        "tokenlane_lane_queued",
        "requests",
        ("lane", "kind"),
        "requests given to the lane and not started",
        Panel(_LANES, "Given to the lane and not started", ("lane",)),
    ),
    _gauge(
        "tokenlane_lane_silent_seconds",
        "s",
        ("lane",),
        "how long the lane has run chats without a new token, by its workers' newest beats; 0 if it runs none, and "
        "no value while a worker of an older version runs requests, of whose tokens it does not tell",
        Panel(_LANES, "Time without a token"),
    ),
    _gauge(
        "tokenlane_lane_breakers",
        "",
        ("lane", "state"),
        "live workers whose circuit breaker is in the state `closed`, `open` or `half-open`",
        Panel(
            _LANES,
            "Breakers that are not closed",
            query='sum by (lane, state) (tokenlane_lane_breakers{pool="$pool",lane=~"$lane",state!="closed"})',
        ),
    ),
    _gauge(
        "tokenlane_workers",
        "",
        ("lane", "state"),
        f"workers with a beat within {LEASES_KEPT} leases, by state",
        Panel(_LANES, "Workers"),
    ),
    _counter(
        "tokenlane_attempts_total",
        "requests",
        ("lane", "kind", "outcome"),
        "attempts that ended, by what became of the request: `completed`, `failed`, `cancelled`, `expired`, `requeued` "
        "(tried again or continued), or `left` to another worker; kinds and outcomes of other versions are `other`",
        Panel(_WORK, "Attempts per second", ("lane", "outcome")),
    ),
    _counter(
        "tokenlane_attempt_errors_total",
        "requests",
        ("lane", "code"),
        "attempts that ended with an error or were stopped, by error code or reason",
        Panel(_WORK, "Errors per second"),
    ),
    _counter(
        "tokenlane_tokens_total",
        "tokens",
        ("lane", "type"),
        "tokens of completed answers, as the model server counts them: `input` or `output`",
        Panel(_WORK, "Tokens per second"),
    ),
    _counter(
        "tokenlane_wasted_tokens_total",
        "tokens",
        ("lane",),
        "tokens that the model server produced for cancelled or expired requests and no agent received, counted as "
        "deltas; those that the agent received before are not among them",
        Panel(_WORK, "Wasted tokens per second"),
    ),
    _counter(
        "tokenlane_continued_answers_total",
        "requests",
        ("lane",),
        "attempts that continued an answer which another attempt had begun",
        Panel(_WORK, "Continued answers per second"),
    ),
    _counter(
        "tokenlane_resends_total",
        "requests",
        ("lane",),
        "how often an agent that missed messages asked for them again",
        Panel(_WORK, "Resends per second"),
    ),
    _counter(
        "tokenlane_cache_lookups_total", "", ("lane",), "vectors that workers looked up in the embedding cache", _CACHE
    ),
    _counter("tokenlane_cache_hits_total", "", ("lane",), "vectors of these that the cache had", _CACHE),
    _histogram(
        "gen_ai_client_operation_time_to_first_chunk_seconds",
        "s",
        _GEN_AI,
        "from the start of an attempt on its lane to the first piece of its answer",
        Panel(_LATENCY, "Time to the first piece of the answer", ("lane",)),
        _DURATIONS,
    ),
    _histogram(
        "tokenlane_time_per_output_token_seconds",
        "s",
        _GEN_AI,
        "mean time between the tokens of a completed answer, as the model server counts tokens",
        Panel(_LATENCY, "Time per output token", ("lane",)),
        _PER_TOKEN,
    ),
    _histogram(
        "tokenlane_delivery_interval_seconds",
        "s",
        ("lane",),
        "time between two published batches of one answer's deltas",
        Panel(_LATENCY, "Time between deltas", ("lane",)),
        DELIVERY_INTERVALS,
    ),
    _histogram(
        "gen_ai_client_operation_duration_seconds",
        "s",
        (*_GEN_AI, "error_type"),
        "duration of an attempt; `error_type` is its error code, empty for a complete answer",
        Panel(_LATENCY, "Duration of attempts", ("lane",)),
        _DURATIONS,
    ),
    _histogram(
        "gen_ai_client_token_usage",
        "tokens",
        (*_GEN_AI, "gen_ai_token_type"),
        "tokens of a completed answer, as the model server counts them: `input` or `output`",
        Panel(_LATENCY, "Tokens of an answer", ("lane", "gen_ai_token_type")),
        _TOKENS,
    ),
    _gauge(
        "tokenlane_routers",
        "",
        (),
        f"routers with a beat within {ROUTER_SILENT_MS / 1000:g} s",
        Panel(_POOL, "Routers"),
    ),
    _gauge(
        "tokenlane_sweep_age_seconds",
        "s",
        (),
        "time since a router last swept",
        Panel(_POOL, "Time since the last sweep"),
    ),
    _gauge(
        "tokenlane_clients",
        "",
        ("state",),
        f"agents' clients: `live`, or `silent` for {CLIENT_SILENT_MS / 1000:g} s",
        Panel(_POOL, "Clients"),
    ),
    _gauge(
        "tokenlane_retries_unpaid", "requests", (), "retries taken from the retry budget and not yet paid back", _BUDGET
    ),
    _gauge(
        "tokenlane_retries_allowed",
        "requests",
        (),
        f"how many unpaid retries delay no request: {FREE_RETRIES}, and the limit for chats of the largest lane",
        _BUDGET,
    ),
    _gauge("tokenlane_redis_memory_bytes", "bytes", (), "memory that the Redis server uses", _MEMORY),
    _gauge("tokenlane_redis_memory_limit_bytes", "bytes", (), "the server's `maxmemory`; 0 if it has none", _MEMORY),
    _gauge(
        "tokenlane_problems",
        "",
        ("code", "severity"),
        "problems as `tokenlane status --check` finds them, by code",
        Panel(_POOL, "Problems"),
    ),
    _counter(
        "tokenlane_internal_errors_total",
        "",
        ("lane",),
        "bugs of tokenlane that workers survived; their logs have the tracebacks",
        _BUGS,
    ),
    _counter(
        "tokenlane_exporter_errors_total",
        "",
        (),
        "bugs of tokenlane that the exporter survived; its log has the tracebacks",
        _BUGS,
    ),
    _counter(
        "tokenlane_dashboard_errors_total",
        "",
        (),
        "bugs of tokenlane that a dashboard survived; its log has the tracebacks",
        _BUGS,
        "dashboard",
    ),
    _gauge(
        "tokenlane_names_omitted",
        "",
        ("label",),
        f"roles, lanes and error codes beyond the first {MOST_NAMES}, and quotas beyond the {MOST_NAMES} with the "
        f"least headroom, which are reported together as `{OTHER}`",
        Panel(_POOL, "Names reported as other"),
    ),
)
"""All metrics, in the order of the documentation."""

BY_NAME = {metric.name: metric for metric in METRICS}

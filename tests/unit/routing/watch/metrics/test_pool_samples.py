"""The values of metrics that the exporter reads from snapshots."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError

from tokenlane.routing.contract.worker_report import AttemptsReport, Hits, WorkerReport
from tokenlane.routing.decide.lanes.state import LaneState
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.access.api_key import QuotaUse
from tokenlane.routing.watch.metrics import increases as increases_module
from tokenlane.routing.watch.metrics.increases import Count, Increases
from tokenlane.routing.watch.metrics.pool_samples import PoolSamples
from tokenlane.routing.watch.metrics.samples import Histogram, Names, Sample
from tokenlane.routing.watch.metrics.table import BY_NAME, METRICS
from tokenlane.routing.watch.snapshot import (
    ClientsStatus,
    LaneStatus,
    Memory,
    Rates,
    RoleStatus,
    RouterStatus,
    Slots,
    Snapshot,
    WorkerStatus,
)


def role(name: str, waiting: int = 2, oldest_ms: int | None = 20_000) -> RoleStatus:
    return RoleStatus(name, "normal", waiting, oldest_ms, 1, Rates(accepted=0.5, recovered=0.1))


def worker(name: str = "w1", report: WorkerReport | None = None) -> WorkerStatus:
    return WorkerStatus(name, "gpu0", LaneState.UP, "host", {}, 1, 100, 0, None, report or WorkerReport())


def lane(*workers: WorkerStatus, name: str = "gpu0") -> LaneStatus:
    slots = {"chat": Slots(limit=4, running=3, queued=2)}
    return LaneStatus(name, LaneState.DEGRADED, "vllm", "http://gpu:8000", ("m",), slots, 100, None, workers)


def snapshot(roles: tuple[RoleStatus, ...] = (), lanes: tuple[LaneStatus, ...] = ()) -> Snapshot:
    return Snapshot(
        *(3, "main", 1_000_000, 0, None, roles, (), lanes, (RouterStatus("h/1", 100, 0),), ClientsStatus(3, 1)),
        delayed=4,
        swept_ms=250,
        lagging=(),
        policy=Policy(),
        unpaid_retries=6.5,
        memory=Memory(1_000, 2_000),
    )


def values(samples: list[Sample]) -> dict[tuple[str, ...], float]:
    """The samples' values by name and labels."""
    return {(name, *labels): value for name, labels, value in samples if not isinstance(value, Histogram)}


def test_the_pool_s_facts() -> None:
    """What a snapshot has is in the samples, in seconds and bytes."""
    found = values(PoolSamples().of(snapshot((role("coder"),), (lane(worker()),))))
    expected = {
        ("tokenlane_up",): 1,
        ("tokenlane_waiting_requests", "coder", "normal"): 2,
        ("tokenlane_oldest_request_seconds", "coder", "normal"): 20,
        ("tokenlane_running_requests", "coder", "normal"): 1,
        ("tokenlane_requests_per_second", "coder", "normal", "accepted"): 0.5,
        ("tokenlane_requests_per_second", "coder", "normal", "recovered"): 0.1,
        ("tokenlane_delayed_requests",): 4,
        ("tokenlane_sweep_age_seconds",): 0.25,
        ("tokenlane_lane_state", "gpu0", "degraded"): 1,
        ("tokenlane_lane_state", "gpu0", "up"): 0,
        ("tokenlane_lane_running", "gpu0", "chat"): 3,
        ("tokenlane_lane_queued", "gpu0", "chat"): 2,
        ("tokenlane_lane_limit", "gpu0", "chat"): 4,
        ("tokenlane_lane_breakers", "gpu0", "closed"): 1,
        ("tokenlane_workers", "gpu0", "up"): 1,
        ("tokenlane_routers",): 1,
        ("tokenlane_clients", "live"): 2,
        ("tokenlane_clients", "silent"): 1,
        ("tokenlane_retries_unpaid",): 6.5,
        ("tokenlane_retries_allowed",): 14,
        ("tokenlane_redis_memory_bytes",): 1_000,
        ("tokenlane_redis_memory_limit_bytes",): 2_000,
    }
    assert {key: found.get(key) for key in expected} == expected


def test_the_exporter_has_each_of_its_metrics() -> None:
    """Each metric of the table with this source has a sample, with as many labels as the table says. The exporter's
    errors are not of the pool: `test_exporter_reader.py` has their counter."""
    busy = WorkerReport(attempts=AttemptsReport(ended={"chat:failed": 1}, errors={"provider_down": 1}), silent_ms=0)
    gone = replace(lane(worker(report=busy)), state=LaneState.GONE)  # a problem
    samples = PoolSamples().of(snapshot((role("coder"),), (gone,)), [QuotaUse("ci", 1, 2)])
    from_the_exporter = {metric.name for metric in METRICS if metric.source == "exporter"}
    assert {sample.name for sample in samples} == from_the_exporter - {"tokenlane_exporter_errors_total"}
    for sample in samples:
        assert len(sample.labels) == len(BY_NAME[sample.name].labels), sample.name


def test_the_fallback_lane() -> None:
    """It is a lane like the others here, although lists of lanes omit it."""
    pool = PoolSamples()
    pool.of(replace(snapshot(), fallback=lane(worker(), name="fallback")))
    busy = WorkerReport(attempts=AttemptsReport(ended={"embed:completed": 3}))
    found = values(pool.of(replace(snapshot(), fallback=lane(worker(report=busy), name="fallback"))))
    assert found["tokenlane_lane_limit", "fallback", "chat"] == 4
    assert found["tokenlane_attempts_total", "fallback", "embed", "completed"] == 3


def test_omitted_names_are_added_up() -> None:
    """Beyond the limit, values are added up under one name, and of ages the greatest counts."""
    pool = PoolSamples(most_names=1)
    found = values(pool.of(snapshot((role("a"), role("b", 3, 1_000), role("c", 4, 9_000)))))
    assert found["tokenlane_waiting_requests", "a", "normal"] == 2
    assert found["tokenlane_waiting_requests", "other", "normal"] == 7
    assert found["tokenlane_oldest_request_seconds", "other", "normal"] == 9
    assert found["tokenlane_names_omitted", "role"] == 2
    silent = (
        lane(worker(report=WorkerReport(silent_ms=ms)), name=name)
        for name, ms in {"a": 0, "b": 5_000, "c": 7_000}.items()
    )
    found = values(pool.of(snapshot(lanes=tuple(silent))))
    assert found["tokenlane_lane_silent_seconds", "other"] == 7
    unknown = lane(replace(worker(report=WorkerReport.model_validate_json("{}")), running=1), name="a")
    assert ("tokenlane_lane_silent_seconds", "a") not in values(PoolSamples().of(snapshot(lanes=(unknown,))))
    later = values(pool.of(snapshot((role("b", 3),))))
    assert later["tokenlane_waiting_requests", "b", "normal"] == 3
    assert later["tokenlane_names_omitted", "role"] == 0


def test_quotas_with_the_least_headroom_have_names() -> None:
    """The others are added up. After each snapshot, other quotas may be those."""
    pool = PoolSamples(most_names=2)

    def quotas(*uses: QuotaUse) -> dict[tuple[str, ...], float]:
        found = values(pool.of(snapshot(), uses))
        return {key: value for key, value in found.items() if "quota" in key[0]}

    a, b, c, d = QuotaUse("a", 1, 9), QuotaUse("b", 4, 4), QuotaUse("c", 5, 3), QuotaUse("d", 0, 7)
    assert quotas(a, b, c, d) == {
        ("tokenlane_quota_in_flight", "b"): 4,
        ("tokenlane_quota_limit", "b"): 4,
        ("tokenlane_quota_in_flight", "c"): 5,
        ("tokenlane_quota_limit", "c"): 3,
        ("tokenlane_quota_in_flight", "other"): 1,
        ("tokenlane_quota_limit", "other"): 16,
    }
    assert values(pool.of(snapshot(), [a, b, c, d]))["tokenlane_names_omitted", "quota"] == 2
    full = replace(a, in_flight=9)
    assert quotas(full, b, d)["tokenlane_quota_in_flight", "a"] == 9
    assert values(pool.of(snapshot(), [full]))["tokenlane_names_omitted", "quota"] == 0
    assert not quotas()


def test_counters_over_workers_that_come_and_go() -> None:
    """A lane's counter counts what workers add from the first snapshot on, and never falls."""

    def tokens(*counts: int | None) -> float:
        reports = [None if n is None else WorkerReport(attempts=AttemptsReport(completion_tokens=n)) for n in counts]
        present = [worker(f"w{i}", report) for i, report in enumerate(reports) if report]
        return values(pool.of(snapshot(lanes=(lane(*present),))))["tokenlane_tokens_total", "gpu0", "output"]

    pool = PoolSamples()
    assert tokens(100) == 0
    assert tokens(130) == 30
    assert tokens(130, 7) == 37, "a new worker's count is new"
    assert tokens(None, 9) == 39
    assert tokens(140, 9) == 49, "a worker that was cut off comes back with its count"


def count(value: int, worker: str = "w", counted: str = "a", label: str = "a") -> Count:
    """A worker's count of `counted`, which is reported as `label`."""
    return Count(worker, "n", (counted,), (label,), value)


def test_counters_without_workers() -> None:
    """A lane whose workers are gone keeps its counters."""
    increases = Increases()
    increases.add([count(1)])
    assert increases.add([count(3)]) == {("n", ("a",)): 2}
    assert increases.add([]) == {("n", ("a",)): 2}


def test_a_name_that_moves_to_a_label_of_its_own() -> None:
    """What it was counted as `other` stays there, and is not counted again under its own label."""
    increases = Increases()
    increases.add([count(5, label="other"), count(2, counted="b", label="other")])
    assert increases.add([count(8, label="other"), count(2, counted="b", label="other")]) == {("n", ("other",)): 3}
    moved = increases.add([count(9), count(4, counted="b", label="other")])
    assert moved == {("n", ("other",)): 5, ("n", ("a",)): 1}


def test_error_codes_that_share_a_label() -> None:
    """The counts of all omitted codes are added up, of each worker too."""
    pool = PoolSamples(most_names=1)

    def errors(**codes: int) -> dict[tuple[str, ...], float]:
        report = WorkerReport(attempts=AttemptsReport(errors=codes))
        return values(pool.of(snapshot(lanes=(lane(worker(report=report)),))))

    errors(a=1, b=1, c=1)
    found = errors(a=2, b=4, c=6)
    assert found["tokenlane_attempt_errors_total", "gpu0", "a"] == 1
    assert found["tokenlane_attempt_errors_total", "gpu0", "other"] == 8


def test_counters_of_names_that_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counters of lanes that are long gone end, so that the exporter's memory and answers stay small."""
    monkeypatch.setattr(increases_module, "_MOST_AWAY", 3)
    increases = Increases()
    counters = increases.add([])
    for number in range(10):
        counters = increases.add([count(1, f"w{number}", f"lane{number}", f"lane{number}")])
    assert counters == {("n", (f"lane{number}",)): 1 for number in (6, 7, 8, 9)}


def test_ended_attempts_of_unknown_kinds_and_outcomes() -> None:
    """They share one label, so a report cannot make series at will, and its counts are not lost."""
    pool = PoolSamples()
    unknown = {"chat:odd": 1, "odd:completed": 2, "odder:completed": 4, "nonsense": 8}
    pool.of(snapshot(lanes=(lane(worker()),)))
    found = values(
        pool.of(snapshot(lanes=(lane(worker(report=WorkerReport(attempts=AttemptsReport(ended=unknown)))),)))
    )
    assert {key[1:]: value for key, value in found.items() if key[0] == "tokenlane_attempts_total"} == {
        ("gpu0", "chat", "other"): 1,
        ("gpu0", "other", "completed"): 6,
        ("gpu0", "other", "other"): 8,
    }


@pytest.mark.parametrize("names", [[f"code{number}" for number in range(5_000)], ["x" * 5_000]])
@pytest.mark.parametrize("field", ["ended", "errors", "failing"])
def test_a_report_with_more_names_than_workers_have(field: str, names: list[str]) -> None:
    """It is not a report, and `status` names its worker among what it could not parse."""
    with pytest.raises(ValidationError):
        AttemptsReport.model_validate({field: dict.fromkeys(names, 1)})


def test_the_cache_s_counters() -> None:
    """Lookups and hits are counted apart, so that a panel can divide them."""
    pool = PoolSamples()
    pool.of(snapshot(lanes=(lane(worker()),)))
    found = values(pool.of(snapshot(lanes=(lane(worker(report=WorkerReport(cache=Hits(found=2, asked=5)))),))))
    assert found["tokenlane_cache_lookups_total", "gpu0"] == 5
    assert found["tokenlane_cache_hits_total", "gpu0"] == 2


@pytest.mark.parametrize(("value", "bucket"), [(0.0, "1"), (1.0, "1"), (1.5, "2"), (3.0, "+Inf")])
def test_buckets_include_their_bounds(value: float, bucket: str) -> None:
    """A value is in the first bucket whose bound is not less."""
    histogram = Histogram((1, 2))
    histogram.observe(value)
    assert next(name for name, count in histogram.buckets() if count) == bucket
    assert (histogram.count, histogram.sum) == (1, value)


def test_names_have_a_limit() -> None:
    """The first names stand for themselves."""
    names = Names(2)
    assert [names.of(name) for name in ("a", "b", "c", "a")] == ["a", "b", "other", "a"]

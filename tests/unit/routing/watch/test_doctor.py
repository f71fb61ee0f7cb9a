from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.routing.watch.test_pool_health import LANE, WELL

from tokenlane.routing.decide.lanes.state import LaneState
from tokenlane.routing.watch.doctor import (
    examine_endpoint,
    examine_environment,
    examine_key_and_policy,
    examine_unreadable,
    examine_versions,
    own_versions,
)
from tokenlane.routing.watch.finding import Code
from tokenlane.routing.watch.reach_endpoint import Reached
from tokenlane.routing.watch.snapshot import WorkerStatus

WORKER = WorkerStatus("w1", "gpu0", LaneState.UP, "gpuhost", own_versions(), 0, 100, 0, None)


def test_key_and_policy() -> None:
    """A missing key and a policy that some processes have not read are warnings."""
    well = replace(WELL, key_id="0123")
    assert [(it.code, it.severity) for it in examine_key_and_policy(well)] == [(Code.KEY, "ok"), (Code.POLICY, "ok")]
    ill = replace(WELL, lagging=("w1",))
    assert [(it.code, it.severity) for it in examine_key_and_policy(ill)] == [
        (Code.KEY, "warn"),
        (Code.POLICY, "warn"),
    ]


def test_unreadable_data() -> None:
    """Data that this version cannot read is a warning."""
    assert list(examine_unreadable(WELL)) == []
    (finding,) = examine_unreadable(replace(WELL, unknown=("a queue",)))
    assert (finding.code, finding.severity) == (Code.NOT_UNDERSTOOD, "warn")


@pytest.mark.parametrize(
    ("reached", "host", "severity"),
    [
        ("accepts", "here", "ok"),
        ("refuses", "here", "ok"),
        ("refuses", "gpuhost", "fail"),
        ("unreachable", "gpuhost", "ok"),
        ("not a URL", "here", "warn"),
    ],
)
def test_endpoints(reached: Reached, host: str, severity: str) -> None:
    """An endpoint is a failure if nothing answers on its own worker's host; not for being elsewhere."""
    endpoint = examine_endpoint(replace(LANE, workers=(WORKER,)), reached, host)
    assert (endpoint.code, endpoint.severity, endpoint.subject) == (Code.ENDPOINT, severity, LANE.name)
    assert bool(endpoint.advice) == endpoint.is_problem


def test_versions() -> None:
    """A worker of another version is a warning, one that has not told its versions is unknown."""
    old = replace(WORKER, name="w2", versions={"tokenlane": "0.0.1"})
    new = replace(WORKER, name="w3", versions={})
    gone = replace(WORKER, name="w4", state="silent", versions={})
    lane = replace(LANE, workers=(WORKER, old, new, gone))
    found = [finding.severity for finding in examine_versions(replace(WELL, lanes=(lane,)))]
    assert found == ["ok", "ok", "warn", "unknown"]


def test_variables_that_nothing_reads() -> None:
    """They are a warning that names each."""
    assert examine_environment({}).severity == "ok"
    finding = examine_environment({"TOKENLANE_REDIS": " Did you mean 'TOKENLANE_REDIS_URL'?", "TOKENLANE_X": ""})
    assert finding.severity == "warn"
    assert finding.observed == (
        "TOKENLANE_REDIS is unknown. Did you mean 'TOKENLANE_REDIS_URL'? TOKENLANE_X is unknown."
    )

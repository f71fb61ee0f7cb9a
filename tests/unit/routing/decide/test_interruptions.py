from __future__ import annotations

import pytest

from tokenlane.routing.contract.errors import BadRequest, Interrupted, LlmError, ProviderDown, RequestLost, Timeout
from tokenlane.routing.decide.interruptions import answer_lost, as_interruption


@pytest.mark.parametrize("error", [Timeout(), ProviderDown(retryable=False), RequestLost(), LlmError()])
def test_an_agent_with_part_of_the_answer_gets_an_interruption(error: LlmError) -> None:
    """An error that the request did not cause becomes an interruption with that error as its cause."""
    error.at(lane="lane1")
    seen = as_interruption(error)
    assert isinstance(seen, Interrupted)
    assert seen.__cause__ is error
    assert seen.lane == "lane1"


@pytest.mark.parametrize("error", [BadRequest(), answer_lost("end")])
def test_an_error_that_the_request_caused_stays_itself(error: LlmError) -> None:
    """So does an error that is an interruption already."""
    assert as_interruption(error) is error

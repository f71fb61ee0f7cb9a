from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlane.routing.contract import errors
from tokenlane.routing.contract.errors import ErrorReport, Interrupted, LlmError, Timeout

KINDS = [it for it in vars(errors).values() if isinstance(it, type) and issubclass(it, LlmError)]
MARK = "PROMPT-MARK"


@pytest.mark.parametrize("kind", KINDS)
@given(
    message=st.text(st.characters(codec="utf-8"), min_size=1),
    retryable=st.none() | st.booleans(),
    pause=st.none() | st.floats(0, 1e6),
    place=st.none() | st.text(st.characters(codec="utf-8"), min_size=1),
)
def test_an_error_survives_the_wire(
    kind: type[LlmError], message: str, retryable: bool | None, pause: float | None, place: str | None
) -> None:
    """The agent raises an error of the same class, with the same fields."""
    sent = kind(message, retryable=retryable, retry_after_s=pause, provider=place, lane=place, model=place, detail="d")
    arrived = LlmError.from_report(ErrorReport.model_validate_json(sent.report().model_dump_json()))
    assert type(arrived) is kind
    assert str(arrived) == str(sent)
    assert vars(arrived) == vars(sent)


def test_which_errors_are_retryable_by_default() -> None:
    """An error is retryable by default if the same request may succeed later."""
    assert {kind.code for kind in KINDS if kind().retryable} == {
        "timeout",
        "provider_down",
        "rate_limited",
        "queue_full",
    }


def test_an_error_with_an_unknown_code_is_a_plain_llm_error() -> None:
    """The error of a newer peer keeps its message. Its unknown fields are ignored."""
    report = ErrorReport.model_validate_json('{"code": "of tomorrow", "message": "text", "new": 1, "retryable": true}')
    error = LlmError.from_report(report)
    assert type(error) is LlmError
    assert (error.message, error.retryable) == ("text", True)


def test_a_bug_report_can_quote_an_error() -> None:
    """The text of an error ends with its code, where it happened, and the request's id, if they are known."""
    error = Interrupted("broke off", lane="gpu0").at(lane="other", provider="vllm", model="m", request_id="4f")
    assert str(error) == "broke off [interrupted, provider 'vllm', lane 'gpu0', model 'm', request 4f]"
    assert str(Timeout("too slow")) == "too slow [timeout]"


def test_the_first_known_place_stays() -> None:
    """`at` fills in only what is still unknown."""
    error = Interrupted("broke off", lane="gpu0").at(request_id="4f").at(lane="other", request_id="50")
    assert (error.lane, error.request_id) == ("gpu0", "4f")


@pytest.mark.parametrize("kind", KINDS)
def test_the_detail_is_in_no_text(kind: type[LlmError]) -> None:
    """No `str` or `repr` of an error or its report quotes the model server. Every class has a default message."""
    error = kind(detail=MARK)
    assert MARK not in f"{error} {error!r} {error.report()} {error.report()!r} {error.args}"
    assert error.report().detail == MARK
    assert len(error.message) > 10


def test_a_timeout_is_a_timeout_error() -> None:
    """`except TimeoutError` catches `Timeout`."""
    with pytest.raises(TimeoutError):
        raise Timeout

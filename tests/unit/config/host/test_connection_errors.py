"""Why a server was not reached: each cause has its own words, for Redis and for model servers."""

from __future__ import annotations

import errno
from socket import gaierror

import pytest
from redis import exceptions as redis_errors

from tokenlane.config.host.connection_errors import why_unreached
from tokenlane.routing.store.server.errors import translate_error

CAUSES = [
    gaierror(-2, "Name or service not known"),
    OSError(errno.ECONNREFUSED, "refused"),
    OSError(errno.EHOSTUNREACH, "no route"),
    OSError(errno.EMFILE, "too many"),
    FileNotFoundError(errno.ENOENT, "no socket"),
    OSError(errno.ETIMEDOUT, "late"),
    ConnectionResetError(errno.ECONNRESET, "reset"),
]


def test_each_cause_has_its_own_words() -> None:
    """No two are told alike, each in a whole sentence; what is not known is not guessed at."""
    told = [why_unreached(cause) for cause in CAUSES]
    assert len(set(told)) == len(CAUSES)
    assert all(words.endswith((".", "?")) for words in told)
    assert why_unreached(OSError(errno.EINVAL, "odd")) == ""
    assert why_unreached(ValueError()) == ""


@pytest.mark.parametrize("number", [errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN])
def test_no_way_there_is_one_cause(number: int) -> None:
    """Whichever of the kernel's words it has."""
    assert why_unreached(OSError(number, "x")) == why_unreached(CAUSES[2])


@pytest.mark.parametrize("cause", CAUSES[:5])
def test_a_redis_server_that_is_not_reached_is_told_by_its_cause(cause: OSError) -> None:
    """As redis-py raises it: from the transport's error, or while that is handled."""
    for chained in ("__cause__", "__context__"):
        error = redis_errors.ConnectionError("Error connecting")
        setattr(error, chained, cause)
        text = str(translate_error(error, "redis://h:6379"))
        assert why_unreached(cause) in text
        assert "URL" not in text  # the cause names what to check


def test_without_a_cause_none_is_told() -> None:
    """A connection may be lost for reasons that are not known."""
    assert str(translate_error(redis_errors.ConnectionError("lost"), "redis://h:6379"))

"""The addresses at which verbs listen, and why listening fails."""

from __future__ import annotations

import errno
import re

import pytest

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.listen_address import bind_address, cannot_listen, host_and_port, known_as


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1", ("127.0.0.1", 6379)),
        ("127.0.0.1:7000", ("127.0.0.1", 7000)),
        ("0.0.0.0:7000", ("0.0.0.0", 7000)),
    ],
)
def test_addresses_to_listen_at(text: str, address: tuple[str, int]) -> None:
    """An address stands for itself; the port is Redis's own unless it is given."""
    assert bind_address(text, "--listen", 6379) == address


@pytest.mark.parametrize("text", ["", ":7000", "192.0.2.7", "127.0.0.1:port", "127.0.0.1:99999", "http://127.0.0.1"])
def test_addresses_that_are_none(text: str) -> None:
    """What is no address of this machine is told before anything is started."""
    with pytest.raises(ConfigError, match=rf"--listen {re.escape(text)}: .*HOST:PORT"):
        bind_address(text, "--listen", 6379)


@pytest.mark.parametrize("text", ["*", "*:7000", "0.0.0.0:0", "127.0.0.1:0", "[::]:0"])
def test_addresses_that_would_mean_another(text: str) -> None:
    """A star, which is a name for loopback, and port 0, which Redis takes for none: refused, with what to give."""
    with pytest.raises(ConfigError, match=r"0\.0\.0\.0" if "*" in text else r"\b65535\b"):
        bind_address(text, "--listen", 6379)


def test_what_other_machines_call_this_one() -> None:
    """An address is known as itself; everywhere is known as something one can connect to."""
    assert known_as("127.0.0.1") == "127.0.0.1"
    assert known_as("0.0.0.0") not in ("0.0.0.0", "")


def test_any_free_port_for_verbs_that_print_it() -> None:
    """Port 0 is for verbs that say which port they got."""
    assert bind_address("127.0.0.1:0", "--metrics", 9465, any_port=True) == ("127.0.0.1", 0)


@pytest.mark.parametrize(
    ("number", "advice"), [(errno.EADDRINUSE, "another port"), (errno.EACCES, "1024"), (errno.ENOBUFS, "address")]
)
def test_why_a_process_cannot_listen(number: int, advice: str) -> None:
    """The error names the option and the address, and says what to choose instead."""
    error = cannot_listen(("::1", 80), "--metrics", OSError(number, "refused"))
    assert "--metrics [::1]:80" in str(error)
    assert advice in str(error)


def test_addresses_in_urls() -> None:
    """An IPv6 address stands in brackets."""
    assert host_and_port("::1", 80) == "[::1]:80"
    assert host_and_port("127.0.0.1", 80) == "127.0.0.1:80"

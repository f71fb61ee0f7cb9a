"""Explains why a connection to a server failed, with advice for each cause."""

from __future__ import annotations

import errno
import socket

_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL)
_NO_MORE = (errno.EMFILE, errno.ENFILE)


def why_unreached(error: BaseException) -> str:
    """Return the cause as the end of a sentence about the server; empty if it is not clear."""
    match error:
        case socket.gaierror():
            return "this host does not know its name; check its spelling, and DNS."
        case ConnectionRefusedError():
            return "it refused the connection, so nothing listens at that port; is it running, and is the port right?"
        case FileNotFoundError():
            return "its socket is not there; is it running, and is the path right?"
        case TimeoutError():
            return "it did not take the connection in time; is it overloaded, or behind a firewall?"
        case ConnectionResetError():
            return "it broke the connection off at once; does something else listen at that port?"
        case OSError(errno=number) if number in _NO_WAY:
            return "no network leads there from this host; check the address, and the network."
        case OSError(errno=number) if number in _NO_MORE:
            return "this process may open no more connections; raise its limit (ulimit -n)."
    return ""

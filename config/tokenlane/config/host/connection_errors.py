"""Explains why a connection to a server failed, and what to do about it."""

from __future__ import annotations

import errno
import socket

_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL)
_NO_MORE = (errno.EMFILE, errno.ENFILE)


def why_unreached(error: BaseException) -> str:
    """Return the cause and advice as the end of a sentence about the server; empty if the cause is unknown."""
    match error:
        case socket.gaierror():
            return "its host name cannot be resolved; check the spelling and DNS."
        case ConnectionRefusedError():
            return "nothing listens there; check that it is running and that the port is right."
        case FileNotFoundError():
            return "its socket does not exist; check that it is running and that the path is right."
        case TimeoutError():
            return "it did not accept the connection in time; check whether it is overloaded or behind a firewall."
        case ConnectionResetError():
            return "it closed the connection at once; check that no other program listens on that port."
        case OSError(errno=number) if number in _NO_WAY:
            return "there is no network route to it from this host; check the address and the network."
        case OSError(errno=number) if number in _NO_MORE:
            return "this process cannot open more connections; raise its limit of open files (ulimit -n)."
    return ""

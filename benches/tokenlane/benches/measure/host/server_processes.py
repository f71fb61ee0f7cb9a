"""Finds the processes of a model server on this host, and reads their memory and CPU time, from Linux's /proc."""

from __future__ import annotations

import os
import socket
from collections import defaultdict
from collections.abc import Iterable, Iterator, Set
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from tokenlane.config.host.socket_urls import socket_of

_PROC = Path("/proc")
_LISTENING = "0A"
_NO_SERVERS = {"systemd", "docker-proxy", "rootlessport", "slirp4netns", "pasta", "conmon", "ssh", "kubectl"}
"""Names of processes that hold a socket for a server which runs elsewhere or is started by them."""
_DEFAULT_PORTS = {"http": 80, "https": 443}


def server_processes(endpoint: str) -> frozenset[int]:
    """The ids of the processes that listen at the endpoint, and of all their descendants.

    Empty if they cannot be seen: they run on another host, in a container or as another user, or this is not Linux.
    """
    sockets = _listening_sockets(endpoint)
    children, holders = defaultdict[int, list[int]](list), []
    for process in _processes() if sockets else ():
        with suppress(OSError, ValueError):  # it has ended, or belongs to another user
            name, fields = _stat(process)
            children[int(fields[1])].append(process)
            if name not in _NO_SERVERS and sockets & set(_sockets_of(process)):
                holders.append(process)
    found: set[int] = set()
    while holders:
        process = holders.pop()
        if process not in found:
            found.add(process)
            holders += children[process]
    return frozenset(found)


def resident_mb(processes: Iterable[int]) -> float:
    """The sum of the resident memory of the processes. Pages that they share count once for each."""
    pages = 0
    for process in processes:
        with suppress(OSError):
            pages += int((_PROC / str(process) / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def used_cpu_s(processes: Iterable[int]) -> float:
    """The CPU seconds that the processes have used so far."""
    ticks = 0
    for process in processes:
        with suppress(OSError):
            ticks += sum(map(int, _stat(process)[1][11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def machine_cpu_s() -> float:
    """The CPU seconds that all processes of this machine have used so far, with those that a hypervisor took away."""
    first = (_PROC / "stat").read_text().partition("\n")[0]
    user, nice, system, _, _, irq, softirq, steal, *_ = map(int, first.split()[1:])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _processes() -> list[int]:
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal()]


def _stat(process: int) -> tuple[str, list[str]]:
    """The name of a process, and the fields of its `stat` from the state on."""
    name, _, fields = (_PROC / str(process) / "stat").read_text().partition("(")[2].rpartition(")")
    return name, fields.split()


def _sockets_of(process: int) -> Iterator[str]:
    """The inodes of the sockets that a process has open."""
    for entry in (_PROC / str(process) / "fd").iterdir():
        with suppress(FileNotFoundError):  # closed in the meantime
            link = os.readlink(entry)
            if link.startswith("socket:["):
                yield link.removeprefix("socket:[").removesuffix("]")


def _listening_sockets(endpoint: str) -> Set[str]:
    """The inodes of the sockets that listen at an endpoint of this host."""
    path, url = socket_of(endpoint), urlsplit(endpoint)
    if path is not None:
        rows = (line.split(maxsplit=7) for line in _net_table("unix"))
        return {row[6] for row in rows if row[7:] == [str(path)]}
    port = url.port or _DEFAULT_PORTS.get(url.scheme)
    if port is None or not _is_this_host(url.hostname or ""):
        return set()
    rows = (line.split() for table in ("tcp", "tcp6") for line in _net_table(table))
    return {row[9] for row in rows if row[3] == _LISTENING and int(row[1].rpartition(":")[2], 16) == port}


def _net_table(name: str) -> list[str]:
    try:
        return (_PROC / "net" / name).read_text().splitlines()[1:]
    except OSError:
        return []


def _is_this_host(name: str) -> bool:
    """Whether this host has one of the addresses of `name`: only then can a socket be bound to it."""
    try:
        addresses = socket.getaddrinfo(name, 0, type=socket.SOCK_DGRAM)
    except OSError:
        return False
    for family, kind, _, _, address in addresses:
        with suppress(OSError), socket.socket(family, kind) as bound:
            bound.bind(address)
            return True
    return False

"""The main program of an asker: `python -m …asker MODULE`. It reads tasks from standard input, one in a line of JSON.

The module has an async context manager `asking` that yields a function of the kind `rounds.Ask`. The program speaks the
protocol of `child_process.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from importlib import import_module
from threading import Thread

import uvloop

from .rounds import load, watch

_GOODBYE = b"null\n"


def _read(loop: asyncio.AbstractEventLoop, orders: asyncio.Queue[bytes]) -> None:
    """Read the orders in a thread. Exit if they end without a goodbye: the measurement is over."""
    for line in sys.stdin.buffer:
        loop.call_soon_threadsafe(orders.put_nowait, line)
        if line == _GOODBYE:
            return
    os._exit(1)


def _take_output() -> int:
    """Return a copy of standard output for the replies, and send what libraries print there to standard error."""
    replies = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return replies


async def _serve(name: str) -> None:
    replies = _take_output()
    orders = asyncio.Queue[bytes]()
    Thread(target=_read, args=(asyncio.get_running_loop(), orders), daemon=True).start()
    async with import_module(f".{name}", __package__).asking() as ask:
        while (line := await orders.get()) != _GOODBYE:
            task, arguments = json.loads(line)
            result = await (load if task == "load" else watch)(ask, **arguments)
            os.write(replies, json.dumps(result).encode() + b"\n")


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1]))

"""The program of an agent: it asks the questions in the lines of its standard input, and writes every event as a line.

Lines are JSON: the fields of `plan.Question`, and `prompt`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

from tokenlane.producer import Client, Interrupted, LlmError, PoolUnavailable

_FORMAT: dict[str, Any] = {"type": "json_schema", "json_schema": {"name": "any", "schema": {"type": "object"}}}
_NOT_ACCEPTED = ("queue_full", "pool_unavailable")


def write(event: str, **fields: Any) -> None:
    """Write an event. The clock is the same for all processes of a machine."""
    print(json.dumps({"event": event, "time": time.monotonic(), **fields}), flush=True)  # noqa: T201  # its only output


async def ask(client: Client, question: dict[str, Any]) -> None:
    """Ask a question, again and again until the pool accepts it, and write what comes of it."""
    await asyncio.sleep(question["after_s"])
    while await ask_once(client, question) in _NOT_ACCEPTED:
        await asyncio.sleep(0.2)
    write("answered", key=question["key"])


async def ask_once(client: Client, question: dict[str, Any]) -> str:
    """Ask a question, and return how it ended: `completed`, or the error's code."""
    stream = client.chat(
        question["prompt"],
        role=question["role"],
        extra={"simulate": question["simulate"]},
        response_format=_FORMAT if question["has_schema"] else None,
        on_interrupt="restart" if question["restarts"] else "error",
    )
    request, deltas, partial = stream.request_id, 0, None
    write("sent", key=question["key"], request=request)
    try:
        async with stream:
            write("accepted", request=request)
            if question["cancel_at"] == 0:
                await cancel(stream)
            async for delta in stream:
                fields = {"attempt": delta.attempt, "position": delta.position, "lane": delta.lane, "text": delta.text}
                write("got", request=request, restarted=delta.restarted, **fields)
                if question["read_ms"]:
                    await asyncio.sleep(question["read_ms"] / 1000)
                deltas += 1
                if deltas == question["cancel_at"]:
                    await cancel(stream)
        how, message = "completed", ""
    except LlmError as error:
        how, message = error.code, str(error)
        partial = error.partial if isinstance(error, Interrupted) else None
    usage = stream.usage.model_dump() if stream.usage is not None else None
    write("ended", request=request, how=how, message=message, partial=partial, usage=usage)
    return how


async def cancel(stream: Any) -> None:
    """Cancel a request."""
    write("cancel", request=stream.request_id)
    await stream.cancel()


async def connect(stack: AsyncExitStack, url: str, name: str) -> Client:
    """Connect, again if Redis does not answer."""
    while True:
        try:
            return await stack.enter_async_context(Client(url, agent=name, key=os.environ["TOKENLANE_POOL_KEY"]))
        except PoolUnavailable:
            await asyncio.sleep(0.2)


async def main() -> None:
    """Ask all questions until the standard input ends."""
    url, name = sys.argv[1:]
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        client = await connect(stack, url, name)
        write("ready")
        while line := await lines.readline():
            tasks.create_task(ask(client, json.loads(line)))


if __name__ == "__main__":
    if sys.argv.pop(1) == "uvloop":
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())

"""A durable workflow with DBOS and SQLite: a step that is tried again does not ask the model again.

python durable_dbos.py MODEL     # the pool is found as `tokenlane chat` finds it
"""

from __future__ import annotations

import asyncio
import sys

from dbos import DBOS

from tokenlane.producer import ChatStream, Client, Duplicate

client = Client()
tries = 0


async def answer_once(question: str, *, key: str, model: str) -> str:
    """Ask, or join the answer to the same key: while it is written, and for a minute after its end."""
    try:
        return await _read(client.chat(question, role="planner", model=model, idempotency_key=key))
    except Duplicate as ended:
        return await _read(client.attach(ended.request_id))


async def _read(stream: ChatStream) -> str:
    async with stream:
        try:
            async for delta in stream:
                print(delta.text, end="", flush=True)  # tokens are streamed, in each try
        except BaseException:
            stream.let_go()  # without cancelling the request: the next try joins it
            raise
        return stream.text


@DBOS.step(retries_allowed=True, max_attempts=10, interval_seconds=0.01, backoff_rate=1)
async def ask(question: str, model: str) -> str:
    global tries
    tries += 1
    text = await answer_once(question, key=f"{DBOS.workflow_id}:{DBOS.step_id}", model=model)
    if tries < 10:
        raise ConnectionError("what the step does with the answer fails")
    return text


@DBOS.workflow()
async def plan(model: str) -> str:
    return await ask("Name three primes.", model)


async def main() -> None:
    DBOS(config={"name": "example", "system_database_url": "sqlite:///example.sqlite"})
    DBOS.launch()
    async with client:
        print(f"\n{await plan(sys.argv[1])} after {tries} tries")
    DBOS.destroy()


asyncio.run(main())

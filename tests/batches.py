"""Gateways with files and batches for tests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI
from openai.types import Batch
from starlette.requests import Request
from tests.gateways import door_of

from tokenlane.config.host.pool_key_files import KeyRing, PoolKey
from tokenlane.producer import Client
from tokenlane.producer.gateway.access.caller import Caller
from tokenlane.producer.gateway.app import batch_keeper, gateway_app
from tokenlane.producer.gateway.door import Door
from tokenlane.producer.gateway.files.shelf import Shelf
from tokenlane.producer.gateway.http.server import serve_asgi
from tokenlane.routing.contract.envelope import Quota
from tokenlane.routing.store.keychain import Keychain
from tokenlane.routing.support.tasks import background

ENDED = ("completed", "failed", "expired", "cancelled")
CHAT = "/v1/chat/completions"
KEY = PoolKey(bytes(range(32)))


@asynccontextmanager
async def batch_gateway(
    client: Client, directory: Path, *keys: PoolKey, quota: Quota | None = None
) -> AsyncIterator[AsyncOpenAI]:
    """A gateway with files in this directory, and OpenAI's SDK. The header `x-agent` names the caller.

    Args:
        quota: the limit of all callers.
    """

    async def caller_of(request: Request) -> Caller:
        return Caller(request.headers.get("x-agent", "gateway"), quota=quota)

    async def why_not_ready() -> str:
        return ""

    door = Door(client, caller_of, door_of(client).policy)
    keeper = batch_keeper(door, Shelf(directory, Keychain(KeyRing(keys or (KEY,)), "pool")))
    async with background() as tasks:
        tasks.create_task(keeper.keep())
        app = gateway_app(door, why_not_ready, keeper)
        async with serve_asgi(app, ("127.0.0.1", 0), option="--listen") as url:
            async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as sdk:
                yield sdk


def chat_lines(texts: Iterable[str], **options: object) -> bytes:
    """The input of a batch that asks these texts; the custom ids are the texts."""
    lines = []
    for text in texts:
        body = {"model": "m", "messages": [{"role": "user", "content": text}], **options}
        lines.append(json.dumps({"custom_id": text, "method": "POST", "url": CHAT, "body": body}))
    return "\n".join(lines).encode()


async def begun(sdk: AsyncOpenAI, content: bytes, window: str = "24h", endpoint: str = CHAT) -> Batch:
    """Upload an input and create its batch."""
    file = await sdk.files.create(file=("input.jsonl", content), purpose="batch")
    create: Any = sdk.batches.create  # its types name OpenAI's only window
    batch = await create(input_file_id=file.id, endpoint=endpoint, completion_window=window)
    assert isinstance(batch, Batch)
    return batch


async def ended(sdk: AsyncOpenAI, batch_id: str, timeout_s: float = 20) -> Batch:
    """The batch once it has ended."""
    async with asyncio.timeout(timeout_s):
        while (batch := await sdk.batches.retrieve(batch_id)).status not in ENDED:
            await asyncio.sleep(0.02)
    return batch


async def lines_of(sdk: AsyncOpenAI, file_id: str | None) -> list[Any]:
    """The lines of a file of results; none if there is no file."""
    if file_id is None:
        return []
    content = await sdk.files.content(file_id)
    return [json.loads(line) for line in content.text.splitlines()]

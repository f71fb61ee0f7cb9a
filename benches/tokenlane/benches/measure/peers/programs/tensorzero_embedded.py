"""TensorZero's gateway within the asker's process, without its database."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tensorzero import AsyncTensorZeroGateway

from .environment import DIRECTORY, MODEL, MODEL_URL, body
from .rounds import Arrivals, Ask

_CONFIGURATION = f"""\
[gateway]
observability.enabled = false

[models.{MODEL}]
routing = ["server"]

[models.{MODEL}.providers.server]
type = "vllm"
model_name = "{MODEL}"
api_base = "{MODEL_URL}/v1/"
api_key_location = "none"
"""


def _write_configuration() -> str:
    path = Path(DIRECTORY, "tensorzero.toml")
    path.write_text(_CONFIGURATION, encoding="utf-8")
    return str(path)


@asynccontextmanager
async def asking() -> AsyncIterator[Ask]:
    """Yield the asker."""
    gateway = await AsyncTensorZeroGateway.build_embedded(config_file=_write_configuration())

    async def ask(tokens: int, arrivals: Arrivals) -> None:
        stream = await gateway.inference(
            model_name=MODEL,
            input={"messages": body(tokens)["messages"]},
            params={"chat_completion": {"max_tokens": tokens}},
            stream=True,
        )
        async for chunk in stream:
            arrivals.extend((time.monotonic_ns(), part.text) for part in chunk.content if part.text)

    async with gateway:
        yield ask

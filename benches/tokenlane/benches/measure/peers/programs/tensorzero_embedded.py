"""TensorZero's gateway within the asker's process, without its database."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from tempfile import NamedTemporaryFile

from tensorzero import AsyncTensorZeroGateway

from .environment import MODEL, MODEL_URL, body
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


@asynccontextmanager
async def asking() -> AsyncIterator[Ask]:
    """Yield the asker."""
    with NamedTemporaryFile("w", prefix="tokenlane-", suffix=".toml") as configuration:
        configuration.write(_CONFIGURATION)
        configuration.flush()
        gateway = await AsyncTensorZeroGateway.build_embedded(config_file=configuration.name)

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

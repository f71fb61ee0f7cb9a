"""What the measurement hands to a program through environment variables: a directory, URLs, and the model."""

from __future__ import annotations

import os

DIRECTORY = os.environ.get("PEER_DIRECTORY", "")
REDIS_URL = os.environ.get("PEER_REDIS_URL", "")
MODEL_URL = os.environ.get("PEER_MODEL_URL", "")
MODEL = os.environ.get("PEER_MODEL", "")
MOST_STREAMS = int(os.environ.get("PEER_MOST_STREAMS", "1"))


def body(tokens: int) -> dict[str, object]:
    """Return the body of a chat with a streamed answer of so many tokens."""
    messages = [{"role": "user", "content": "How long does a token take?"}]
    return {"model": MODEL, "messages": messages, "max_tokens": tokens, "stream": True}

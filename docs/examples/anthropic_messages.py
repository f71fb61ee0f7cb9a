"""Anthropic's client asks a pool: `pip install anthropic`. ANTHROPIC_BASE_URL is the gateway's, without /v1."""

from __future__ import annotations

import sys

from anthropic import Anthropic

client = Anthropic()  # ANTHROPIC_API_KEY is a key of the gateway; any, if it has none
with client.messages.stream(
    model=sys.argv[1],
    max_tokens=1000,
    messages=[{"role": "user", "content": "Name three primes."}],
) as stream:
    for text in stream.text_stream:
        print(text, end="", flush=True)
print()

"""OpenAI's client asks a pool: `pip install openai`. OPENAI_BASE_URL is the gateway's, such as http://127.0.0.1:4000/v1."""

from __future__ import annotations

import sys

from openai import OpenAI

client = OpenAI()  # OPENAI_API_KEY is a key of the gateway; any, if it has none
stream = client.chat.completions.create(
    model=sys.argv[1],  # a model of the pool, or a role such as role:planner
    messages=[{"role": "user", "content": "Name three primes."}],
    stream=True,
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()

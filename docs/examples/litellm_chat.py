"""LiteLLM's SDK asks a pool: `pip install litellm`. OPENAI_BASE_URL is the gateway's, and ends with /v1."""

from __future__ import annotations

import sys

import litellm

answer = litellm.completion(
    model=f"openai/{sys.argv[1]}",  # `openai/` names the API, not who serves it
    messages=[{"role": "user", "content": "Name three primes."}],
)
print(answer.choices[0].message.content)

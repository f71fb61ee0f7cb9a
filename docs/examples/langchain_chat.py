"""LangChain asks a pool: `pip install langchain-openai`. OPENAI_BASE_URL is the gateway's, and ends with /v1."""

from __future__ import annotations

import sys

from langchain_openai import ChatOpenAI

for chunk in ChatOpenAI(model=sys.argv[1]).stream("Name three primes."):
    print(chunk.text, end="", flush=True)
print()

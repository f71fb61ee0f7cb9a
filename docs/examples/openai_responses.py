"""OpenAI's client and its Responses: `pip install openai`. OPENAI_BASE_URL is the gateway's, and ends with /v1."""

from __future__ import annotations

import sys

from openai import OpenAI

client = OpenAI()
with client.responses.stream(model=sys.argv[1], input="Name three primes.", store=False) as stream:
    for event in stream:
        if event.type == "response.output_text.delta":
            print(event.delta, end="", flush=True)
    print(f"\n{stream.get_final_response().usage}")

"""Instructor gets an object from a pool: `pip install instructor`. OPENAI_BASE_URL ends with /v1."""

from __future__ import annotations

import sys

import instructor
from openai import OpenAI
from pydantic import BaseModel


class City(BaseModel):
    """A city."""

    name: str
    inhabitants: int


client = instructor.from_openai(OpenAI(), mode=instructor.Mode.JSON_SCHEMA)
print(
    client.chat.completions.create(
        model=sys.argv[1],
        messages=[{"role": "user", "content": "Which is the capital of France?"}],
        response_model=City,
    )
)

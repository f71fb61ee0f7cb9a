"""An agent of Pydantic AI with a tool: `pip install 'pydantic-ai-slim[openai]'`. OPENAI_BASE_URL ends with /v1."""

from __future__ import annotations

import sys

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel

agent = Agent(OpenAIChatModel(sys.argv[1]), system_prompt="Use the tool.")


@agent.tool_plain
def is_prime(number: int) -> bool:
    """Whether a number is prime."""
    return number > 1 and all(number % divisor for divisor in range(2, number))


print(agent.run_sync("Is 7 a prime?").output)

"""What each server says of a prompt that is too long, and the numbers that are read out of it."""

from __future__ import annotations

import re

import pytest

from tokenlane.routing.contract.errors import ContextTooLong
from tokenlane.worker.providers.errors.http_errors import refusal

SAID = {
    "vLLM": (
        "This model's maximum context length is 4096 tokens. However, you requested 100 output tokens and your prompt "
        "contains at least 3997 input tokens, for a total of at least 4097 tokens.",
        4096,
        4097,
        True,
    ),
    "vLLM, no output asked for": (
        "This model's maximum context length is 4096 tokens. However, your prompt contains at least 4097 input tokens.",
        4096,
        4097,
        True,
    ),
    "vLLM, before": (
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (4900 in the messages, "
        "100 in the completion).",
        4096,
        5000,
        False,
    ),
    "vLLM, max_tokens": (
        "'max_tokens' or 'max_completion_tokens' is too large: 100. This model's maximum context length is 4096 tokens "
        "and your request has 4090 input tokens (100 > 4096 - 4090).",
        4096,
        4190,
        False,
    ),
    "llama.cpp": (
        "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it",
        4096,
        5000,
        False,
    ),
    "LM Studio": (
        "Input does not fit in context length. The input has 5000 tokens, but the context length only supports 4096 "
        "tokens.",
        4096,
        5000,
        False,
    ),
    "TGI": (
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 `inputs` tokens and "
        "200 `max_new_tokens`",
        4096,
        4200,
        False,
    ),
    "TGI, inputs": (
        "Input validation error: `inputs` must have less than 4096 tokens. Given: 5000",
        4096,
        5000,
        False,
    ),
    "OpenAI": (
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
        8192,
        9000,
        False,
    ),
    "OpenAI, newer": (
        "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 300000 tokens. "
        "context_length_exceeded",
        272000,
        300000,
        False,
    ),
    "SGLang": ("The input (5000 tokens) is longer than the model's context length (4096 tokens).", 4096, 5000, False),
    "Mistral": (
        "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
        32768,
        40000,
        False,
    ),
    "Anthropic": ("prompt is too long: 210000 tokens > 200000 maximum", 200000, 210000, False),
    "Gemini": (
        "The input token count (1100000) exceeds the maximum number of tokens allowed (1048576).",
        1048576,
        1100000,
        False,
    ),
    "Ollama": ("prompt is longer than the context length currently available", None, None, False),
}


@pytest.mark.parametrize("server", SAID)
def test_the_numbers_are_the_servers(server: str) -> None:
    """Limit and tokens are told as the server counts them, all of the request; a count that was broken off is told to
    be one, since who cuts to it would ask for ever."""
    words, limit, tokens, at_least = SAID[server]
    error = refusal(400, words.encode())
    assert type(error) is ContextTooLong
    assert [int(number) for number in re.findall(r"\d+", error.message)] == [
        number for number in (tokens, limit) if number is not None
    ]
    assert ("at least" in error.message) is at_least
    assert not error.retryable

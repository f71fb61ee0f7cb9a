"""What each provider does with each option: found by asking, and a table of it for the agents' documentation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests import pages
from tests.documents import GeneratedPart
from tests.fake_server import answer_of, ask, driven, ndjson, sse
from tests.repository import ROOT

from tokenlane.routing.contract.errors import BadRequest

__all__ = ["MEANINGS", "OURS", "PROVIDERS", "SAMPLES", "TABLE", "fate", "table"]

PROVIDERS = ("openai", "vllm", "llamacpp", "lmstudio", "tgi", "ollama")
TABLE = GeneratedPart(ROOT / "docs" / "options.md", "options")
"""The table of the agents' documentation."""

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
NAMED = {"type": "function", "function": {"name": "f"}}
SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}}
FORM = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
PICTURE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}]

MEANINGS = {
    "model": "the model; by default the role's route decides",
    "provider": "only lanes of this provider",
    "temperature": "randomness, from 0",
    "top_p": "sample from the most likely tokens with this total probability, up to 1",
    "top_k": "sample from this many of the most likely tokens",
    "min_p": "sample from tokens at least this likely, relative to the most likely",
    "frequency_penalty": "penalty for tokens by how often they occurred",
    "presence_penalty": "penalty for tokens that occurred",
    "repetition_penalty": "the same, as a factor",
    "max_tokens": "the longest answer",
    "stop": "a string, or several, at which the answer ends",
    "seed": "the same seed gives the same answer, as far as the server can",
    "logit_bias": "an amount to add, by token id",
    "logprobs": "return log probabilities of the answer's tokens",
    "top_logprobs": "and of this many alternatives at each position",
    "tools": "functions the model may call, in OpenAI's format",
    "tool_choice": "`auto`, `none`, `required`, or a tool by name",
    "parallel_tool_calls": "False: one call at a time",
    "response_format": "the answer's format: a pydantic model, or OpenAI's format",
    "reasoning_effort": "`none`, `minimal`, `low`, `medium`, `high`, …",
    "continue_final": "continue the last message instead of answering it",
    "on_interrupt": "`restart` begins an answer anew that broke off and that no lane can continue; `error` ends it",
    "conversation": "the id of the conversation, which is a name; traces show it",
    "extra": "fields to add to the server's request body, unchanged",
    "priority": "`high`, `normal`, `low`",
    "time_to_live_ms": "how long the request may take in all; 10 minutes by default",
    "idempotency_key": "asking again joins the first request",
    "metadata": "returned with the answer; no server sees it, unless a prompt plugin uses it",
}
"""By option, in the table's order."""

OURS = (
    "model",
    "provider",
    "continue_final",
    "on_interrupt",
    "conversation",
    "extra",
    "priority",
    "time_to_live_ms",
    "idempotency_key",
    "metadata",
)
"""Options of the pool's, or that go to each server in a way of its own."""

SAMPLES: Mapping[str, tuple[dict[str, Any], object]] = {
    "temperature": ({"temperature": 0.123}, 0.123),
    "top_p": ({"top_p": 0.123}, 0.123),
    "top_k": ({"top_k": 123}, 123),
    "min_p": ({"min_p": 0.123}, 0.123),
    "frequency_penalty": ({"frequency_penalty": 0.123}, 0.123),
    "presence_penalty": ({"presence_penalty": 0.123}, 0.123),
    "repetition_penalty": ({"repetition_penalty": 1.23}, 1.23),
    "max_tokens": ({"max_tokens": 123}, 123),
    "stop": ({"stop": ["END"]}, ["END"]),
    "seed": ({"seed": 123}, 123),
    "logit_bias": ({"logit_bias": {"7": 1.5}}, {"7": 1.5}),
    "logprobs": ({"logprobs": True}, True),
    "top_logprobs": ({"logprobs": True, "top_logprobs": 3}, 3),
    "tools": ({"tools": [TOOL]}, [TOOL]),
    "tool_choice: `none`": ({"tools": [TOOL], "tool_choice": "none"}, "none"),
    "tool_choice: `required`": ({"tools": [TOOL], "tool_choice": "required"}, "required"),
    "tool_choice: a tool": ({"tools": [TOOL], "tool_choice": NAMED}, NAMED),
    "parallel_tool_calls": ({"parallel_tool_calls": False}, False),
    "response_format: JSON": ({"response_format": {"type": "json_object"}}, {"type": "json_object"}),
    "response_format: a schema": ({"response_format": FORM}, SCHEMA),
    "reasoning_effort": ({"reasoning_effort": "high"}, "high"),
    "pictures": ({"messages": [{"role": "user", "content": PICTURE}]}, "QUJD"),
}
"""What is asked for, and what of it is looked for in what the server is sent."""

EMULATED: Mapping[tuple[str, str], tuple[str, dict[str, object]]] = {
    ("llamacpp", "tool_choice: a tool"): ("only that tool, `required`", {"tools": [TOOL], "tool_choice": "required"}),
    ("llamacpp", "response_format: JSON"): (
        "a schema of any object",
        {"response_format": {"type": "json_object", "schema": {"type": "object"}}},
    ),
    ("ollama", "tool_choice: `none`"): ("no tools are sent", {"tools": None, "tool_choice": None}),
    ("ollama", "response_format: JSON"): ("`format`", {"format": "json"}),
}
"""What a server is told in other words, and how."""

LIKELY = {"token": "a", "logprob": -0.5, "top_logprobs": []}
CHOICE = {"delta": {"content": "a"}, "logprobs": {"content": [LIKELY]}, "finish_reason": "stop"}
SERVER: dict[str, Any] = {
    "POST /v1/chat/completions": sse({"model": "m", "choices": [CHOICE]}),
    "POST /api/chat": ndjson({"model": "m", "message": {"content": "a"}, "logprobs": [LIKELY], "done": True}),
    "POST /api/show": {"capabilities": ["completion", "vision"]},
    "GET /api/version": {"version": "0.33.0"},
    "GET /info": {**pages.TGI["/info"], "model_id": "m", "model_pipeline_tag": "image-text-to-text"},
}


async def fate(provider: str, sample: str) -> str:
    """What the provider makes of it: `sent`, the field it is sent as, `refused`, or in which other words it is sent.

    Raises:
        AssertionError: it is left out without a word.
    """
    options, sentinel = SAMPLES[sample]
    request = ask(**options)
    async with driven(provider, SERVER) as (driver, server):
        try:
            await answer_of(driver, request)
        except BadRequest:
            assert not [path for path, _ in server.asked if "chat" in path]
            return "refused"
        sent = next(body for path, body in server.asked if "chat" in path)
    if emulated := EMULATED.get((provider, sample)):
        words, told = emulated
        assert {name: sent.get(name) for name in told} == told
        return words
    places = list(found(sent, sentinel))
    assert places, f"{provider} leaves out {sample}"
    return "sent" if sample.partition(":")[0] in (places[0], "pictures") else f"`{places[0]}`"


def found(body: object, wanted: object, place: str = "") -> Iterator[str]:
    """Where in the body that is; of a form, where its schema is."""
    if type(body) is type(wanted) and (body == wanted or (wanted == "QUJD" and str(body).endswith("QUJD"))):
        yield place.removesuffix(".json_schema.schema")
    children = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for name, child in children:
        if name not in ("stream", "truncate", "shift"):
            yield from found(child, wanted, f"{place}.{name}" if place else str(name))


async def table() -> str:
    """The table, as Markdown."""
    rows = [["option", "meaning", *(f"`{name}`" for name in PROVIDERS)]]
    for option, meaning in MEANINGS.items():
        samples = [sample for sample in SAMPLES if sample.partition(":")[0] == option]
        for sample in samples or [option]:
            _, _, which = sample.partition(": ")
            cells = [await fate(name, sample) for name in PROVIDERS] if samples else [""] * len(PROVIDERS)
            rows.append([f"`{option}`{f', {which}' if which else ''}", meaning, *cells])
    rows.append(["pictures", "parts of a message", *[await fate(name, "pictures") for name in PROVIDERS]])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"

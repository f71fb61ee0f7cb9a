"""The fields of a Chat Completions request that are no options: hints, what a pool cannot do, and other servers'."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import JsonValue

from tokenlane.config.settings.validation_messages import did_you_mean
from tokenlane.producer.gateway.failures import Refused

_HINTS = frozenset({"prediction", "prompt_cache_options", "prompt_cache_retention"})
"""Fields that make some servers faster and change no answer."""

_CANNOT: Mapping[str, tuple[Iterable[JsonValue], str]] = {
    "audio": ((), "A pool answers with text: leave it out."),
    "best_of": ((1,), "A request has one answer: send several requests."),
    "function_call": (("auto",), "Pass `tool_choice`, which took its place."),
    "functions": (([],), "Pass `tools`, which took their place."),
    "modalities": ((["text"],), "A pool answers with text: leave it out."),
    "moderation": ((), "A pool does not moderate: leave it out, and check the text before and after."),
    "n": ((1,), "A request has one answer: send several requests."),
    "prompt_logprobs": ((0,), "Only tokens of the answer have probabilities: leave it out."),
    "store": ((False,), "Nothing is stored: leave it out, or pass false."),
    "verbosity": (("medium",), "No model server of a pool has it: say in the prompt how long the answer should be."),
    "web_search_options": ((), "A pool does not search the web: pass a tool that does."),
}
"""Fields that a pool cannot follow: the values that change nothing, and what to do instead of others."""

_MODEL_SERVERS = frozenset(
    {
        "allowed_token_ids",
        "bad_words",
        "cache_prompt",
        "chat_template_kwargs",
        "dry_allowed_length",
        "dry_base",
        "dry_multiplier",
        "dynatemp_range",
        "grammar",
        "guided_choice",
        "guided_grammar",
        "guided_json",
        "guided_regex",
        "ignore_eos",
        "include_stop_str_in_output",
        "json_schema",
        "keep_alive",
        "length_penalty",
        "min_tokens",
        "mirostat",
        "mirostat_eta",
        "mirostat_tau",
        "mm_processor_kwargs",
        "reasoning_format",
        "repeat_last_n",
        "repeat_penalty",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "stop_token_ids",
        "structured_outputs",
        "think",
        "thinking_budget",
        "typical_p",
        "xtc_probability",
        "xtc_threshold",
    }
)
"""Fields of vLLM, llama.cpp and others, which go to the model server as they are."""


def extras(more: Mapping[str, JsonValue], known: Iterable[str]) -> dict[str, JsonValue]:
    """The fields that go to the model server as they are.

    Args:
        more: the fields of the body that the pool has no option for.
        known: the names of the other fields, to guess what was meant.

    Raises:
        Refused: a field cannot be followed, or nobody knows it.
    """
    given = {name: value for name, value in more.items() if value is not None and name not in _HINTS}
    for name, value in given.items():
        if name in _CANNOT:
            harmless, instead = _CANNOT[name]
            if value not in harmless:
                raise Refused(400, "unsupported_parameter", f"`{name}` cannot be followed. {instead}", param=name)
        elif name not in _MODEL_SERVERS:
            shown = name[:64] if name.isidentifier() else "A field"
            hint = did_you_mean(name, [*known, *_MODEL_SERVERS, *_CANNOT])
            raise Refused(400, "unknown_parameter", f"`{shown}` is not known here.{hint} Leave it out.", param=shown)
    return {name: value for name, value in given.items() if name in _MODEL_SERVERS}

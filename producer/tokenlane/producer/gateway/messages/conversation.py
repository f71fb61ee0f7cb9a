"""Translates Anthropic's conversations: a system prompt, and turns whose blocks call tools and hold their results."""

from __future__ import annotations

import json

from pydantic import JsonValue

from tokenlane.producer.gateway.failures import Refused

from .blocks import Block, Part, blocks_of, content_of, part_of, string, text_of, text_part, unsupported

_BILLING = "x-anthropic-billing-header:"
"""Claude Code begins its system prompt with a block for Anthropic's accounting. It differs from request to request, so
that no model server could use its cache of the prompt, and it is not meant for the model."""

_REMINDER = "<system-reminder>\n%s\n</system-reminder>"
"""How Claude Code marks what the system says to the model in mid-conversation, in turns of the user. It also has turns
of the role system, which the templates of many models refuse after the first message."""


def conversation_of(system: JsonValue, turns: list[JsonValue]) -> list[Part]:
    """The conversation in the format of `Message`. As in Anthropic's API, turns of the user that follow
    each other become one.

    Raises:
        Refused: it is not valid, or has a block that the pool cannot pass on.
    """
    messages: list[Part] = []
    if system is not None and (text := _system(system)):
        messages.append({"role": "system", "content": text})
    said: list[Part] = []  # by the user, since the last message

    def end_turn() -> None:
        if said:
            messages.append({"role": "user", "content": content_of(said)})
            said.clear()

    for number, turn in enumerate(turns):
        where = f"messages.{number}"
        match turn:
            case {"role": "user", "content": content}:
                results, parts = _user(content, f"{where}.content")
                if results:
                    end_turn()
                    messages += results
                said += parts
            case {"role": "system", "content": content}:
                said.append(text_part(_REMINDER % text_of(content, f"{where}.content")))
            case {"role": "assistant", "content": content}:
                end_turn()
                messages.append(_assistant(content, f"{where}.content"))
            case _:
                message = f"`{where}` must have a `role`, user or assistant, and a `content`."
                raise Refused(400, "bad_request", message, param=where)
    end_turn()
    return messages


def _system(system: JsonValue) -> str:
    if isinstance(system, list):
        system = [block for block in system if not _is_for_billing(block)]
    return text_of(system, "system")


def _is_for_billing(block: JsonValue) -> bool:
    text = block.get("text") if isinstance(block, dict) else None
    return isinstance(text, str) and text.startswith(_BILLING)


def _user(content: JsonValue, where: str) -> tuple[list[Part], list[Part]]:
    """The results of tools in a user's turn, as messages, and the parts that the user says after them.

    Servers take no images as a tool's result, so these are among the user's parts.
    """
    results: list[Part] = []
    parts: list[Part] = []
    for place, kind, block in blocks_of(content, where):
        if kind == "tool_result":
            shown = _result(block, place)
            texts = [part for part in shown if part["type"] == "text"]
            text = f"{'Error: ' if block.get('is_error') is True else ''}{content_of(texts)}"
            results.append({"role": "tool", "tool_call_id": string(block, "tool_use_id", place), "content": text})
            parts += [part for part in shown if part["type"] != "text"]
        else:
            parts.append(part_of(kind, block, place))
    return results, parts


def _result(block: Block, where: str) -> list[Part]:
    content = block.get("content")
    if content is None:
        return []
    return [part_of(kind, inner, place) for place, kind, inner in blocks_of(content, f"{where}.content")]


def _assistant(content: JsonValue, where: str) -> Part:
    text, thought = "", ""
    calls: list[Part] = []
    for place, kind, block in blocks_of(content, where):
        match kind:
            case "text":
                text += string(block, "text", place)
            case "thinking":
                thought += string(block, "thinking", place)
            case "redacted_thinking":
                pass  # only Anthropic's own models can read it
            case "tool_use":
                calls.append(_call(block, place))
            case _:
                raise unsupported(kind, place)
    message: Part = {"role": "assistant", "content": text}
    if thought:
        message["reasoning_content"] = thought
    if calls:
        message |= {"content": text or None, "tool_calls": calls}
    return message


def _call(block: Block, where: str) -> Part:
    given = block.get("input")
    if not isinstance(given, dict):
        raise Refused(400, "bad_request", f"`{where}.input` must be an object.", param=f"{where}.input")
    function = {"name": string(block, "name", where), "arguments": json.dumps(given, ensure_ascii=False)}
    return {"id": string(block, "id", where), "type": "function", "function": function}

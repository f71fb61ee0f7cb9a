"""OpenAI's older completions: the client sends a rendered prompt, and gets the text that follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pydantic import JsonValue

from tokenlane.benches.simulator.model.answer import BEGIN, Ask, Part, SimulatedAnswer
from tokenlane.benches.simulator.model.refusals import Refused

from .encoder import OpenAiEncoder, event


class CompletionEncoder(OpenAiEncoder):
    """`/v1/completions`. A prompt that holds a begun answer is continued there.

    Args:
        chat: how the same server chats: its limits and errors are these.
    """

    def __init__(self, chat: OpenAiEncoder) -> None:
        self._chat = chat
        self.failing = chat.failing  # type: ignore[method-assign] # what goes wrong is told as in chats
        self.refused = chat.refused  # type: ignore[method-assign] # the same

    def read(self, body: Mapping[str, JsonValue]) -> Ask:
        """The prompt as one text."""
        prompt = body.get("prompt")
        if not isinstance(prompt, str):
            raise Refused("bad_request", "prompt must be a string", parameter="prompt")
        plain = {name: value for name, value in body.items() if name not in ("tools", "tool_choice", "messages")}
        ask = self._chat.read({**plain, "messages": []})
        before, begun, after = prompt.rpartition(BEGIN)
        rendered, prefill = (before, after) if begun else (prompt, "")
        return replace(ask, rendered=rendered, prefill=prefill, think=False)

    def opening(self, answer: SimulatedAnswer) -> bytes:
        """Nothing: there are no roles."""
        return b""

    def frame(self, answer: SimulatedAnswer, part: Part) -> bytes:
        """A piece of text."""
        return self._event(answer, part.text, None)

    def chunk(self, answer: SimulatedAnswer, delta: JsonValue, finish: str | None = None) -> bytes:
        """The last chunk."""
        return self._event(answer, "", finish)

    def _event(self, answer: SimulatedAnswer, text: str, finish: str | None) -> bytes:
        choice: JsonValue = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        return event({**self.envelope(answer), "choices": [choice]})

    def identity(self, answer: SimulatedAnswer) -> str:
        """The id, with another prefix."""
        return f"cmpl-{answer.index}"

    def envelope(self, answer: SimulatedAnswer) -> dict[str, JsonValue]:
        """With another `object`."""
        return {**super().envelope(answer), "object": "text_completion"}

    def whole(self, answer: SimulatedAnswer) -> JsonValue:
        """The text that follows."""
        reason = self.finish(answer)
        choice: JsonValue = {"index": 0, "text": answer.text, "logprobs": None, "finish_reason": reason}
        return {**self.envelope(answer), "choices": [choice], "usage": self.usage(answer)}

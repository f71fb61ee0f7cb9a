"""OpenAI's older completions API, in which the client sends a rendered prompt and gets the text that follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pydantic import JsonValue

from tokenlane.benches.simulator.model.answer import BEGIN, Ask, Part, SimulatedAnswer
from tokenlane.benches.simulator.model.refusals import Refused

from .encoder import OpenAiEncoder, event


class CompletionEncoder(OpenAiEncoder):
    """The encoding of `/v1/completions`. If the prompt ends with the beginning of an answer, the model continues it.

    Args:
        chat: the encoder of the same server's chats, which has the same limits and errors.
    """

    def __init__(self, chat: OpenAiEncoder) -> None:
        self._chat = chat
        self.error_bytes = chat.error_bytes  # type: ignore[method-assign] # errors look as in chats
        self.refusal_bytes = chat.refusal_bytes  # type: ignore[method-assign] # as above

    def read(self, body: Mapping[str, JsonValue]) -> Ask:
        """Read the prompt, and the same options as for chats."""
        prompt = body.get("prompt")
        if not isinstance(prompt, str):
            raise Refused("bad_request", "prompt must be a string", parameter="prompt")
        plain = {name: value for name, value in body.items() if name not in ("tools", "tool_choice", "messages")}
        ask = self._chat.read({**plain, "messages": []})
        before, begun, after = prompt.rpartition(BEGIN)
        rendered, prefill = (before, after) if begun else (prompt, "")
        return replace(ask, rendered=rendered, prefill=prefill, think=False)

    def opening(self, answer: SimulatedAnswer) -> bytes:
        """Return no bytes, since completions have no roles."""
        return b""

    def frame(self, answer: SimulatedAnswer, part: Part) -> bytes:
        """Return a chunk with text."""
        return self._event(answer, part.text, None)

    def chunk(self, answer: SimulatedAnswer, delta: JsonValue, finish: str | None = None) -> bytes:
        """Return a chunk without text. The base class uses it for the finish reason."""
        return self._event(answer, "", finish)

    def _event(self, answer: SimulatedAnswer, text: str, finish: str | None) -> bytes:
        choice: JsonValue = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        return event({**self.envelope(answer), "choices": [choice]})

    def answer_id(self, answer: SimulatedAnswer) -> str:
        """Return the id, whose prefix differs from that of chats."""
        return f"cmpl-{answer.index}"

    def envelope(self, answer: SimulatedAnswer) -> dict[str, JsonValue]:
        """Return the fields of every chunk, in which `object` differs from chats."""
        return {**super().envelope(answer), "object": "text_completion"}

    def unstreamed_body(self, answer: SimulatedAnswer) -> JsonValue:
        """Return the answer with the text that follows the prompt."""
        reason = self.finish_reason(answer)
        choice: JsonValue = {"index": 0, "text": answer.text, "logprobs": None, "finish_reason": reason}
        return {**self.envelope(answer), "choices": [choice], "usage": self.usage(answer)}

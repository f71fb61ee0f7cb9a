"""Makes the handover of an answer: what another lane needs to continue it."""

from __future__ import annotations

from tokenlane.routing.contract.messages import Handover, Obstacle

from .answer_builder import AnswerBuilder

PIECE_SIZE = 128 * 1024
"""The longest text, in characters, that one message carries."""


def make_handover(
    request_id: str, attempt: int, answer: AnswerBuilder, *, model: str, position: int, joined_at: int, begun_by: int
) -> list[Handover]:
    """Make the handover of an unfinished answer to an attempt: one message for each piece of its text and reasoning.

    Args:
        model: the lane's own name of the model that wrote the latest part.
        position: the position of the first missing delta.
        joined_at: the position of the first delta that the agent asked for.
        begun_by: the attempt that began the answer anew; 0 if none did.
    """
    text, reasoning = answer.text, answer.reasoning
    starts = range(0, max(1, len(text) + len(reasoning)), PIECE_SIZE)
    return [
        Handover(
            id=request_id,
            attempt=attempt,
            state="open",
            position=position,
            lane=answer.lane,
            model=model,
            text=text[start : start + PIECE_SIZE],
            reasoning=reasoning[max(0, start - len(text)) : max(0, start + PIECE_SIZE - len(text))],
            piece=number,
            pieces=len(starts),
            tokens=answer.tokens,
            finish_reason=answer.finish_reason,
            obstacle=_obstacle(answer, joined_at),
            begun_by=begun_by,
        )
        for number, start in enumerate(starts)
    ]


def _obstacle(answer: AnswerBuilder, joined_at: int) -> Obstacle:
    """Why no lane can continue the answer; empty if one can. A tool call is named even if only the end of the request
    is missing, since its worker checks whether the answer has a required call."""
    if answer.has_tool_calls:
        return "tool_call"
    if answer.finish_reason is not None:
        return ""
    if joined_at > 0:
        return "part"
    return "reasoning" if answer.has_reasoning and not answer.has_text else ""

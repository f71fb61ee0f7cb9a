"""What earlier requests asked and got, for requests that name a previous response. Kept in memory only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic_core import to_json

from tokenlane.producer.gateway.failures import Refused
from tokenlane.routing.contract.answers import Answer

from .input_items import answer_message
from .shelf import Shelf
from .snapshot import PREFIX

_Messages = Sequence[Mapping[str, object]]


class Conversations:
    """The conversations of the last minutes, by the id of the request that came last."""

    def __init__(self, shelf: Shelf[tuple[str, _Messages]] | None = None) -> None:
        self._shelf = Shelf[tuple[str, _Messages]]() if shelf is None else shelf

    def keep(self, request_id: str, agent: str, asked: _Messages, answer: Answer) -> None:
        """Keep a conversation with the answer to it. `asked`: its messages, without instructions."""
        calls = [call.as_openai() for call in answer.tool_calls]
        messages = [*asked, answer_message(answer.text, answer.reasoning, calls)]
        self._shelf.put(request_id, (agent, messages), len(to_json(messages)))

    def of(self, response_id: str, agent: str) -> _Messages:
        """The conversation up to and with a response.

        Raises:
            Refused: this gateway does not have it, or it is another agent's.
        """
        kept = self._shelf.get(response_id.removeprefix(PREFIX))
        if kept is None or kept[0] != agent:
            raise Refused(
                400,
                "previous_response_not_found",
                "This gateway does not have the previous response: answers are kept in memory for some minutes, by the "
                "gateway that gave them, unless `store` is false. Send the whole conversation as `input`.",
                param="previous_response_id",
            )
        return kept[1]

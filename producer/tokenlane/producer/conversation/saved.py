"""A conversation as JSON, for `save` and `load`."""

from __future__ import annotations

from pydantic import Field, ValidationError

from tokenlane.routing.contract.requests import Message
from tokenlane.routing.contract.wire import WIRE_VERSION, Versioned

from .history import check_order, system_size


class SavedConversation(Versioned):
    """The messages of a conversation, and how many of the oldest, the system's not counted, are no longer sent."""

    messages: list[Message] = Field(default=[], repr=False)
    left_out: int = Field(default=0, ge=0)


def read_saved(text: str | bytes) -> SavedConversation:
    """Parse a saved conversation.

    Raises:
        ValueError: the text is no saved conversation, its messages are not in the order of a conversation, or a newer
            version saved it. The error does not quote the text.
    """
    try:
        saved = SavedConversation.model_validate_json(text)
    except ValidationError as error:
        places = sorted({".".join(map(str, wrong["loc"][:3])) or "the text" for wrong in error.errors()})
        raise ValueError(f"this is no saved conversation, since these parts are wrong: {', '.join(places)}") from None
    if saved.v > WIRE_VERSION:
        raise ValueError(f"the conversation was saved in format {saved.v} by a newer tokenlane: update tokenlane here")
    check_saved(saved)
    calls = [call for message in saved.messages for call in message.tool_calls or ()]
    if not all(isinstance(call_id := call.get("id"), str) and call_id for call in calls):
        raise ValueError("a tool call of the saved conversation has no id, so no result can be given to it")
    return saved


def check_saved(saved: SavedConversation) -> None:
    """Check the order of the messages, and how many of them are left out.

    Raises:
        ValueError: they are not those of a conversation. The error does not quote them.
    """
    check_order(saved.messages)
    if saved.left_out > len(saved.messages) - system_size(saved.messages):
        raise ValueError("the saved conversation leaves out more messages than it has")

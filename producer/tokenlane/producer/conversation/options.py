"""The options of a conversation, as agents give them and as they are in force."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TypedDict, get_args

from tokenlane.config.settings.values import NAME_RULE, is_name
from tokenlane.producer.compose import refuse_unknown

from .one_at_a_time import OnBusy


class ConversationOptions(TypedDict, total=False):
    """The options of a conversation.

    `id`: its name, which routers and traces see, and under which a file keeps it; by default a random one. `system`:
    the system message with which a new conversation begins. `file`: a SQLite file of the agent's, in which the
    conversation is kept; by default it is in memory only. `max_input_tokens`: the oldest turns are no longer sent if
    the prompt has more tokens. `on_busy`: whether a question that comes while another one is answered waits ("queue",
    the default), is refused ("reject"), or interrupts the answer ("interrupt"). `keep_partial`: whether the text of an
    answer that broke off or was cancelled stays in the conversation; by default the question is taken back.
    """

    id: str | None
    system: str | None
    file: str | os.PathLike[str] | None
    max_input_tokens: int | None
    on_busy: OnBusy
    keep_partial: bool


@dataclass(frozen=True)
class Settings:
    """What a conversation and its forks have in common."""

    role: str
    agent: str
    max_input_tokens: int | None
    on_busy: OnBusy
    keep_partial: bool

    @staticmethod
    def of(options: ConversationOptions, *, role: str, agent: str) -> Settings:
        """Check the options.

        Raises:
            TypeError: an option does not exist, or `max_input_tokens` is not a whole number.
            ValueError: an option has a wrong value.
        """
        refuse_unknown(options, ConversationOptions, "agent")
        limit, on_busy = options.get("max_input_tokens"), options.get("on_busy", "queue")
        if limit is not None and type(limit) is not int:
            raise TypeError(f"`max_input_tokens` must be a whole number, but is of type {type(limit).__name__}")
        if limit is not None and limit < 1:
            raise ValueError(f"`max_input_tokens` must be at least 1, but is {limit}")
        if on_busy not in get_args(OnBusy):
            raise ValueError(f"`on_busy` must be one of {', '.join(get_args(OnBusy))}, but is {on_busy!r}")
        return Settings(role, agent, limit, on_busy, options.get("keep_partial", False))


def checked_id(name: object) -> str:
    """Return the id of a conversation.

    Raises:
        ValueError: it is not a name.
    """
    if not (isinstance(name, str) and is_name(name)):
        raise ValueError(f"the `id` of a conversation is not a name: {NAME_RULE}")
    return name

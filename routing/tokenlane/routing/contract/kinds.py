"""The table of the kinds of work: chat, embed and command. To add a kind, add a row here and the worker's code for it.

Each kind has separate slots on every lane, so one kind of work never blocks another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .requests import ChatRequest, EmbedRequest, ModelCommand, Request
from .results import ModelReport, Result, Vectors
from .wire import Kind


@dataclass(frozen=True)
class KindOfWork:
    """The properties of one kind of work.

    Args:
        request: the class of its requests.
        result: the class of its results; None if the answer is a stream of deltas.
        operation: the value of `gen_ai.operation.name` in its spans.
        slots: how many requests of this kind a lane serves at once; None: as many as its model server can.
        follows_routes: whether the role's route and the model determine the lane. If False, the request names the
            lane, or any lane that accepts this kind may serve it.
        falls_back: whether the fallback lane serves requests that no other lane can serve.
        is_long: whether the work may take hours. Long work reports its progress, and a request that must run alone
            does not wait for long work to end.
        recommended_model: the model that error messages recommend for this kind of work; empty for none.
    """

    request: type[Request]
    result: type[Result] | None
    operation: str
    slots: int | None
    follows_routes: bool = True
    falls_back: bool = False
    is_long: bool = False
    recommended_model: str = ""


KINDS: dict[Kind, KindOfWork] = {
    "chat": KindOfWork(ChatRequest, None, "chat", slots=None),
    "embed": KindOfWork(
        EmbedRequest, Vectors, "embeddings", slots=32, falls_back=True, recommended_model="nomic-embed-text"
    ),
    "command": KindOfWork(ModelCommand, ModelReport, "command", slots=1, follows_routes=False, is_long=True),
}
"""Keyed by name: lower-case letters, since the name is part of Redis keys and of messages."""


def kind_of(request: Request) -> Kind:
    """The kind of a request."""
    return next(name for name, kind in KINDS.items() if kind.request is type(request))


def known_kind(name: Kind) -> Kind:
    """Return the name if this version knows that kind of work.

    Raises:
        ValueError: this version does not know it.
    """
    if name not in KINDS:
        raise ValueError("not a kind of work that this version knows")
    return name


def queue_suffix(name: Kind) -> str:
    """The suffix for this kind in the names of a lane's queue and doorbell. It is empty for chats, because earlier
    versions, whose names had no suffix, knew only chats."""
    return "" if name == "chat" else f":{name}"


def read_result(document: object) -> object:
    """Parse a result as the class that its `type` names.

    Raises:
        ValueError: no kind of work has a result of that type.
    """
    if not isinstance(document, Mapping):
        return document
    for kind in KINDS.values():
        if kind.result is not None and kind.result.model_fields["type"].default == document.get("type"):
            return kind.result.model_validate(document)
    raise ValueError("not a result that this version knows")

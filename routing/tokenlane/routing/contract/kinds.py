"""The kinds of work, in one table: a new kind is a new row, and what the worker does for it.

A kind has slots of its own on every lane that serves it, so one kind's work never holds another's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .requests import ChatRequest, EmbedRequest, ModelCommand, Request
from .results import ModelReport, Result, Vectors
from .wire import Kind


@dataclass(frozen=True)
class KindOfWork:
    """What distinguishes a kind of work from the others.

    Args:
        request: what an agent asks for; the payload of its requests.
        result: what comes of it as one; None: the answer is a stream of deltas.
        operation: `gen_ai.operation.name` of its spans.
        slots: requests that a lane serves at once; None: as many as its back end can.
        follows_routes: lanes are chosen by the role's route and by model. Otherwise any lane that takes this kind will
            do, or the one that the request names.
        falls_back: the fallback lane serves it where no other lane can.
        is_long: it may take hours. It reports progress, and a request that must run alone does not wait for its end.
        to_pull: a model that a lane can pull to serve it, as advice to people; "" where there is none to recommend.
    """

    request: type[Request]
    result: type[Result] | None
    operation: str
    slots: int | None
    follows_routes: bool = True
    falls_back: bool = False
    is_long: bool = False
    to_pull: str = ""


KINDS: dict[Kind, KindOfWork] = {
    "chat": KindOfWork(ChatRequest, None, "chat", slots=None),
    "embed": KindOfWork(EmbedRequest, Vectors, "embeddings", slots=32, falls_back=True, to_pull="nomic-embed-text"),
    "command": KindOfWork(ModelCommand, ModelReport, "command", slots=1, follows_routes=False, is_long=True),
}
"""By name. A name is part of key names and of the wire: lower-case letters."""


def kind_of(request: Request) -> Kind:
    """The kind that a request is of."""
    return next(name for name, kind in KINDS.items() if kind.request is type(request))


def known_kind(name: Kind) -> Kind:
    """The name, if it is one of a kind.

    Raises:
        ValueError: this version knows no such kind.
    """
    if name not in KINDS:
        raise ValueError("not a kind of work that this version knows")
    return name


def queue_suffix(name: Kind) -> str:
    """The end of the names of a lane's queue and doorbell for this kind. Chats have none: workers of an earlier version
    look there."""
    return "" if name == "chat" else f":{name}"


def read_result(document: object) -> object:
    """A result as its own class, told apart by its `type`.

    Raises:
        ValueError: no kind has such a result.
    """
    if not isinstance(document, Mapping):
        return document
    for kind in KINDS.values():
        if kind.result is not None and kind.result.model_fields["type"].default == document.get("type"):
            return kind.result.model_validate(document)
    raise ValueError("not a result that this version knows")

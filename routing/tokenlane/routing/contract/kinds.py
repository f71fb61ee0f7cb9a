"""The kinds of work, in one table. A new kind is a new row here and the code in the worker that does the work.

On every lane each kind has its separate slots, so work of one kind never blocks another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .requests import ChatRequest, EmbedRequest, ModelCommand, Request
from .results import ModelReport, Result, Vectors
from .wire import Kind


@dataclass(frozen=True)
class KindOfWork:
    """What distinguishes one kind of work.

    Args:
        request: the class of its requests.
        result: the class of its result; None: the answer is a stream of deltas.
        operation: `gen_ai.operation.name` of its spans.
        slots: requests that a lane serves at once; None: as many as its back end can.
        follows_routes: the role's route and the model choose the lane. Otherwise it is the lane that the request names,
            or any lane that takes this kind.
        falls_back: the fallback lane serves it if no other lane can.
        is_long: it may take hours. It reports progress, and a request that must run alone does not wait for it to end.
        to_pull: a model to recommend for this kind; "" for none.
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
"""By name, which is part of key names and of the wire: lower-case letters."""


def kind_of(request: Request) -> Kind:
    """The kind of a request."""
    return next(name for name, kind in KINDS.items() if kind.request is type(request))


def known_kind(name: Kind) -> Kind:
    """Return the name if this version knows that kind of work.

    Raises:
        ValueError: it does not.
    """
    if name not in KINDS:
        raise ValueError("not a kind of work that this version knows")
    return name


def queue_suffix(name: Kind) -> str:
    """The end of the names of a lane's queue and doorbell for this kind. Chats have none: workers of an earlier version
    look there."""
    return "" if name == "chat" else f":{name}"


def read_result(document: object) -> object:
    """Parse a result as the class that its `type` names.

    Raises:
        ValueError: no kind of work has such a result.
    """
    if not isinstance(document, Mapping):
        return document
    for kind in KINDS.values():
        if kind.result is not None and kind.result.model_fields["type"].default == document.get("type"):
            return kind.result.model_validate(document)
    raise ValueError("not a result that this version knows")

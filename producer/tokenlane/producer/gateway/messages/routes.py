"""The paths of Messages."""

from __future__ import annotations

from functools import partial

from starlette.routing import Route

from tokenlane.producer.gateway.answering import answer
from tokenlane.producer.gateway.door import Door

from .count_tokens import count_tokens
from .dialect import Messages


def message_routes(door: Door) -> list[Route]:
    """The routes of this dialect."""
    return [
        Route("/v1/messages", partial(answer, door, Messages()), methods=["POST"]),
        Route("/v1/messages/count_tokens", partial(count_tokens, door), methods=["POST"]),
    ]

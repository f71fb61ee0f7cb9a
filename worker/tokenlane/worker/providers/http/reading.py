"""What the HTTP side has to know of the reader of an answer, to bound every wait for more of it."""

from __future__ import annotations

from typing import Protocol

from tokenlane.routing.contract.answers import FinishReason


class Reading(Protocol):
    """How far the reader of an answer has come."""

    @property
    def events(self) -> int:
        """Events taken in, which excludes what only keeps a connection open."""
        ...

    @property
    def begun(self) -> bool:
        """A first word has come, which framing and empty pieces are not."""
        ...

    @property
    def finish_reason(self) -> FinishReason | None:
        """Set once the back end has said that the answer is whole."""
        ...

    @property
    def ending(self) -> bool:
        """It has, and has said no more since."""
        ...

    @property
    def stopped(self) -> bool:
        """It is whole for us, whatever the back end still says."""
        ...

    @property
    def done(self) -> bool:
        """Nothing more is to come."""
        ...

"""What scripts and agents tell a worker, on its control channel."""

from __future__ import annotations

import logging
from typing import assert_never

from pydantic import ValidationError

from tokenlane.routing.contract.messages import Cancel, Handover, Replay, control_message

from .publisher import Publisher
from .running_attempts import Runs

logger = logging.getLogger(__name__)


class Control:
    """Hands each message to the run it is about. `malformed` counts those that are none."""

    def __init__(self, runs: Runs, publisher: Publisher) -> None:
        self.malformed = 0
        self._runs = runs
        self._publisher = publisher

    def receive(self, data: bytes) -> None:
        """Take one message as it came in; never raises, for anybody may write to the channel."""
        try:
            message = control_message(data)
        except ValidationError:
            self.malformed += 1
            logger.warning("a control message of %d bytes could not be read (%d so far)", len(data), self.malformed)
            return
        match message:
            case Cancel():
                self._runs.stop(message.id, message.attempt, message.reason)
            case Replay():
                self._publisher.replay(message.id, message.attempt, message.after)
            case Handover():
                self._hand_over(message)
            case _:
                assert_never(message)

    def _hand_over(self, message: Handover) -> None:
        run = self._runs.get(message.id, message.attempt)
        if run is not None and not run.handover.done():
            run.handover.set_result(message)

"""Obeys what scripts and agents send to a worker's control channel: stop an attempt, replay its output, resume."""

from __future__ import annotations

import logging
from typing import assert_never

from pydantic import ValidationError

from tokenlane.routing.contract.messages import Cancel, Handover, Replay, control_message

from .publisher import Publisher
from .running_attempts import Runs

logger = logging.getLogger(__name__)


def handle_control_message(data: bytes, runs: Runs, publisher: Publisher) -> None:
    """Pass a message to the attempt that it names. Never raises: anybody may write to the channel."""
    try:
        message = control_message(data)
    except ValidationError:
        logger.warning("a control message of %d bytes could not be read", len(data))
        return
    match message:
        case Cancel():
            runs.stop(message.id, message.attempt, message.reason)
        case Replay():
            publisher.replay(message.id, message.attempt, message.after)
        case Handover():
            run = runs.get(message.id, message.attempt)
            if run is not None and not run.handover.done():
                run.handover.set_result(message)
        case _:
            assert_never(message)

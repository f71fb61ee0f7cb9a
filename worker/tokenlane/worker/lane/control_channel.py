"""Handles control messages from scripts and agents: stop an attempt, replay its output, resume an answer."""

from __future__ import annotations

import logging
from typing import assert_never

from pydantic import ValidationError

from tokenlane.routing.contract.messages import Cancel, Handover, Replay, control_message

from .publisher import Publisher
from .running_attempts import Runs

logger = logging.getLogger(__name__)


def handle_control_message(data: bytes, runs: Runs, publisher: Publisher) -> None:
    """Pass a message to the attempt that it names. Invalid messages are logged: any client may write to the channel."""
    try:
        message = control_message(data)
    except ValidationError:
        logger.warning("ignored an invalid control message of %d bytes", len(data))
        return
    match message:
        case Cancel():
            runs.stop(message.id, message.attempt, message.reason)
        case Replay():
            publisher.replay(message.id, message.attempt, message.after)
        case Handover():
            run = runs.get(message.id, message.attempt)
            if run is not None:
                run.receive_handover(message)
        case _:
            assert_never(message)

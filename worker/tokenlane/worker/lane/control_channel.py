"""Handles control messages from scripts and agents: stop an attempt, replay its output, resume an answer.

Scripts send plain messages. The agent of a sealed request seals its handovers, and sends each with the request's id.
"""

from __future__ import annotations

import logging
from typing import assert_never

from pydantic import ValidationError

from tokenlane.routing.contract.messages import Cancel, Handover, Replay, control_message
from tokenlane.routing.contract.sealing.messages import split_address

from .publisher import Publisher
from .running_attempts import Runs

logger = logging.getLogger(__name__)


def handle_control_message(data: bytes, runs: Runs, publisher: Publisher) -> None:
    """Pass a message to the attempt that it names. A message that cannot be read is logged and counted: any client may
    write to the channel."""
    request_id, sealed = split_address(data)
    receivers = [run for run in runs if run.id == request_id]
    if request_id is None:
        opened: bytes | None = data
    elif receivers:
        opened = next(filter(None, (run.open(sealed) for run in receivers)), None)
    else:
        return  # the attempt has ended
    try:
        message = control_message(opened or b"")
    except ValidationError:
        _drop(data, publisher, "cannot be parsed" if opened else "cannot be opened with the key of its request")
        return
    match message:
        case Cancel():
            runs.stop(message.id, message.attempt, message.reason)
        case Replay():
            publisher.replay(message.id, message.attempt, message.after)
        case Handover():
            run = runs.get(message.id, message.attempt)
            if run is not None and run.is_sealed and request_id != run.id:
                _drop(data, publisher, "is not sealed, although its request is")
            elif run is not None:
                run.receive_handover(message)
        case _:
            assert_never(message)


def _drop(data: bytes, publisher: Publisher, why: str) -> None:
    publisher.dropped_messages += 1
    logger.warning("ignored a control message of %d bytes that %s", len(data), why)

"""How long a server is waited for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timings:
    """In seconds; tests have shorter ones.

    Attributes:
        connect_s: for a connection to be made.
        command_s: for the answer to a command, from its sending.
        pubsub_connect_s: for a pub/sub connection to be made and its first channel confirmed, and for what is sent on
            it to go.
        silence_s: on a pub/sub connection, after which it is asked whether it lives.
        silences: so many times in a row without an answer, and it does not.
    """

    connect_s: float = 5.0
    command_s: float = 5.0
    pubsub_connect_s: float = 5.0
    silence_s: float = 2.0
    silences: int = 3

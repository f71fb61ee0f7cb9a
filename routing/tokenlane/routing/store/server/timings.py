"""How long to wait for a Redis server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timings:
    """In seconds; tests have shorter ones.

    Attributes:
        connect_s: to make a connection.
        command_s: from sending a command to its reply.
        pubsub_connect_s: to make a pub/sub connection and confirm its first channel, and to send a command on it.
        silence_s: of a pub/sub connection, after which the hub sends PING.
        silences: in a row, after which the connection is lost.
    """

    connect_s: float = 5.0
    command_s: float = 5.0
    pubsub_connect_s: float = 5.0
    silence_s: float = 2.0
    silences: int = 3

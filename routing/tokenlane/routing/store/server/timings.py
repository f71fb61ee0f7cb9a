"""Time-outs for connections and commands to a Redis server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timings:
    """Time-outs in seconds. Tests use shorter ones.

    Attributes:
        connect_s: for opening a connection.
        command_s: from sending a command to receiving its reply.
        pubsub_connect_s: for opening a pub/sub connection and confirming its first channel, and for sending a command
            on it.
        silence_s: how long a pub/sub connection may be silent before the hub sends PING.
        silences: after how many silences in a row the connection counts as lost.
    """

    connect_s: float = 5.0
    command_s: float = 5.0
    pubsub_connect_s: float = 5.0
    silence_s: float = 2.0
    silences: int = 3

"""Time-outs for connections and commands to a Redis server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timings:
    """Time-outs in seconds. Tests use shorter ones.

    Attributes:
        connect_s: how long opening a connection may take.
        command_s: how long a command may take, from sending it to receiving its reply.
        sentinel_s: how long a Sentinel may take to answer, including connecting to it.
        pubsub_connect_s: how long it may take to open a pub/sub connection and subscribe to its first channel, and to
            send a command on it.
        silence_s: after how long without a message the hub sends PING on a pub/sub connection.
        silences: after how many such silences in a row the connection counts as lost.
    """

    connect_s: float = 5.0
    command_s: float = 5.0
    sentinel_s: float = 1.0
    pubsub_connect_s: float = 5.0
    silence_s: float = 2.0
    silences: int = 3

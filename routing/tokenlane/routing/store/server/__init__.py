"""The Redis server a pool lives on: the one object that knows where it is, and all that redis-py is used for."""

from __future__ import annotations

from .command_turns import Urgency
from .commands import Commands, Script
from .pubsub import Lost, PubSub
from .server import Server
from .timings import Timings

__all__ = ["Commands", "Lost", "PubSub", "Script", "Server", "Timings", "Urgency"]

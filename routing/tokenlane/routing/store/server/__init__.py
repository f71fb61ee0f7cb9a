"""The connection to a pool's Redis server. Only this package uses redis-py."""

from __future__ import annotations

from .command_turns import Urgency
from .commands import Commands, Script
from .pubsub import Lost, PubSub
from .server import Server
from .timings import Timings

__all__ = ["Commands", "Lost", "PubSub", "Script", "Server", "Timings", "Urgency"]

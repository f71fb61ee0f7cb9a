"""The connection to a pool's Redis server. Only this package uses redis-py."""

from __future__ import annotations

from .command_limits import Urgency
from .commands import Commands, Script
from .pubsub import PubSub, PubSubLost
from .server import Server
from .timings import Timings

__all__ = ["Commands", "PubSub", "PubSubLost", "Script", "Server", "Timings", "Urgency"]

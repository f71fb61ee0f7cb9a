"""What is done with a lane's models: list, pull, verify, load, unload."""

from __future__ import annotations

from .lane_models import LaneModels, Tell

__all__ = ["LaneModels", "Tell"]

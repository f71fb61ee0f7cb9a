"""What is done with a lane's models: list, pull, verify, load, unload."""

from __future__ import annotations

from .command import Tell, carry_out

__all__ = ["Tell", "carry_out"]

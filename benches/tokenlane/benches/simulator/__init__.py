"""A simulated model server: a real server's dialect, deterministic text instead of a model, and faults on demand.

Used by tests, benchmarks and agents' authors, in process (`async with Simulator(api="ollama") as simulator`) or as
`tokenlane simulate`.
"""

from __future__ import annotations

from .faults import Fault, read_faults
from .log import Received
from .model.models import Model
from .server import Simulator

__all__ = ["Fault", "Model", "Received", "Simulator", "read_faults"]

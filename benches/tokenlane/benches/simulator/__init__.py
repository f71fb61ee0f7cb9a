"""A simulated model server with the dialect of a real server, deterministic text and faults on demand.

Tests, benchmarks and authors of agents run it in their process, `async with Simulator(api="ollama")`, or as
`tokenlane simulate`.
"""

from __future__ import annotations

from .faults import Fault, read_faults
from .model.models import Model
from .request_log import Received
from .server import Simulator

__all__ = ["Fault", "Model", "Received", "Simulator", "read_faults"]

"""What a seed stands for: the questions of agents, and a script of faults, all drawn before anything happens."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from typing import Final

from pydantic import JsonValue

__all__ = ["CAPACITY", "LANES", "LEASE_S", "MARK", "PLACES", "Fault", "Plan", "Question", "draw_plan"]

CAPACITY: Final = 3
LEASE_S: Final = 1.0
LANES: Final = {"gpu0": "llamacpp", "gpu1": "vllm"}
"""The lanes, and the kind of the model server of each."""
PLACES: Final = ("gpu0.first", "gpu0.second", "gpu1.only")
MARK: Final = b"confidential"
"""A word in every prompt and in every piece of an answer."""
QUESTIONS: Final = 6
"""How many questions each agent asks."""
_SPAN_S: Final = 1.5
"""Within this time all questions are asked and all faults begin."""

_FAULTS: Final = {
    "kill_worker": 3,
    "freeze_worker": 2,
    "stop_worker": 2,
    "cut_model_server": 1,
    "reset_model_server": 1,
    "half_open_model_server": 1,
    "delay_model_server": 1,
    "refuse_model_server": 1,
    "fail_model_server": 3,
    "cut_redis": 1,
    "reset_redis": 1,
    "half_open_redis": 1,
    "delay_redis": 1,
    "stall_redis": 2,
    "refuse_redis": 1,
    "restart_redis": 1,
    "wipe_redis": 1,
    "freeze_redis": 1,
    "fill_redis": 1,
    "drop_doorbells": 1,
    "freeze_agent": 1,
    "freeze_router": 1,
}
"""The faults, and how often each is drawn in relation to others."""


@dataclass(frozen=True)
class Question:
    """What an agent asks, when, and what the model server answers. `cancel_at`: cancel after this many deltas."""

    key: str
    after_s: float
    role: str
    simulate: dict[str, JsonValue]
    cancel_at: int | None

    @property
    def answer(self) -> str:
        """The text of an undisturbed answer."""
        pieces = self.simulate["pieces"]
        assert isinstance(pieces, list)
        return "".join(str(piece) for piece in pieces)

    def to_line(self) -> bytes:
        """The question as an agent's process reads it."""
        return json.dumps(asdict(self) | {"prompt": f"{MARK.decode()} question {self.key}."}).encode() + b"\n"


@dataclass(frozen=True)
class Fault:
    """What goes wrong, when, for how long, and where: `place` and `which` choose among what can be disturbed."""

    after_s: float
    name: str
    for_s: float
    place: int
    which: int

    def __str__(self) -> str:
        return f"{self.name} at {self.after_s:.2f} s for {self.for_s:.2f} s (place {self.place}, variant {self.which})"


@dataclass(frozen=True)
class Plan:
    """The questions of each agent, and the faults."""

    seed: int
    questions: tuple[tuple[Question, ...], ...]
    faults: tuple[Fault, ...]


def draw_plan(seed: int, agents: int) -> Plan:
    """Draw a plan. The same seed always gives the same plan."""
    rng = random.Random(seed)
    questions = tuple(
        tuple(_draw_question(rng, f"{seed}.{agent}.{number}") for number in range(QUESTIONS)) for agent in range(agents)
    )
    faults = sorted((_draw_fault(rng) for _ in range(rng.randint(1, 3))), key=lambda fault: fault.after_s)
    return Plan(seed, questions, tuple(faults))


def _draw_question(rng: random.Random, key: str) -> Question:
    mark = MARK.decode()
    endings = (" ", "\n", " é", ", 🙂 ", " \n\n", "")
    pieces: list[JsonValue] = [f"{mark} {key}:{place}{rng.choice(endings)}" for place in range(rng.randint(1, 40))]
    cancel_at = rng.randrange(len(pieces) + 1) if rng.random() < 0.1 else None
    script: dict[str, JsonValue] = {"pieces": pieces, "itl_ms": rng.choice((0, 10, 30)), "ttft_ms": rng.choice((0, 50))}
    return Question(key, rng.uniform(0, 0.8 * _SPAN_S), rng.choice(("planner", "coder")), script, cancel_at)


def _draw_fault(rng: random.Random) -> Fault:
    (name,) = rng.choices([*_FAULTS], [*_FAULTS.values()])
    longer_than_lease = rng.random() < 0.6
    for_s = rng.uniform(1.2, 2.0) * LEASE_S if longer_than_lease else rng.uniform(0.05, 0.8) * LEASE_S
    return Fault(rng.uniform(0.1, _SPAN_S), name, for_s, rng.randrange(1 << 16), rng.randrange(1 << 16))

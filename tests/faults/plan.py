"""What a seed stands for: the questions of agents, and a script of faults, all drawn before anything happens."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from typing import Final

from pydantic import JsonValue

__all__ = [
    "CAPACITY",
    "LANES",
    "LEASE_S",
    "MARK",
    "PLACES",
    "ROLES",
    "SEEDS_OF_A_STACK",
    "Fault",
    "Plan",
    "Question",
    "apis_of",
    "draw_plan",
]

CAPACITY: Final = 3
LEASE_S: Final = 1.0
LANES: Final = ("gpu0", "gpu1", "gpu2")
PLACES: Final = ("gpu0.first", "gpu0.second", "gpu1.only", "gpu2.only")
"""The places for workers, and their lanes."""
ROLES: Final = ("planner", "coder", "mixed", "plain")
"""The roles of questions. The only lane of `plain` cannot continue an answer."""
SEEDS_OF_A_STACK: Final = 20
"""So many seeds in a row have the same kinds of model servers, and can share a stack."""
_PAIRS: Final = (
    ("llamacpp", "vllm"),
    ("ollama", "tgi"),
    ("vllm", "lmstudio"),
    ("tgi", "llamacpp"),
    ("lmstudio", "ollama"),
)
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
    "kill_agent": 1,
    "freeze_router": 1,
    "kill_router": 1,
    "rolling_restart": 1,
    "drain_lane": 1,
    "purge_role": 1,
}
"""The faults, and how often each is drawn in relation to others."""


@dataclass(frozen=True)
class Question:
    """What an agent asks, when, and what the model server answers.

    `cancel_at`: cancel after this many deltas. `restarts`: the answer may begin anew if no lane can continue it.
    `has_schema`: the answer must match a JSON schema, so that no lane can continue it. `read_ms`: the agent pauses so
    long after each delta.
    """

    key: str
    after_s: float
    role: str
    simulate: dict[str, JsonValue]
    cancel_at: int | None
    restarts: bool
    has_schema: bool
    read_ms: float

    @property
    def answer(self) -> str:
        """The text of an undisturbed answer."""
        pieces = self.simulate["pieces"]
        assert isinstance(pieces, list)
        return "".join(str(piece) for piece in pieces)

    @property
    def may_break_off(self) -> bool:
        """Whether the answer ends as `interrupted` if its attempt breaks off after the first delta."""
        return (self.role == "plain" or self.has_schema) and not self.restarts

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

    @property
    def role(self) -> str:
        """The role that is disturbed."""
        return ROLES[self.which % len(ROLES)]

    def __str__(self) -> str:
        return f"{self.name} at {self.after_s:.2f} s for {self.for_s:.2f} s (place {self.place}, variant {self.which})"


@dataclass(frozen=True)
class Plan:
    """The questions of each agent, and the faults."""

    seed: int
    questions: tuple[tuple[Question, ...], ...]
    faults: tuple[Fault, ...]


def apis_of(seed: int) -> tuple[str, ...]:
    """Return the kind of each lane's model server. Those of the first two lanes can continue an answer."""
    return *_PAIRS[seed // SEEDS_OF_A_STACK % len(_PAIRS)], "openai"


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
    return Question(
        key=key,
        after_s=rng.uniform(0, 0.8 * _SPAN_S),
        role=rng.choices(ROLES, (2, 2, 1, 1))[0],
        simulate={"pieces": pieces, "itl_ms": rng.choice((0, 10, 30)), "ttft_ms": rng.choice((0, 50))},
        cancel_at=rng.randrange(len(pieces) + 1) if rng.random() < 0.1 else None,
        restarts=rng.random() < 0.3,
        has_schema=rng.random() < 0.1,
        read_ms=rng.choice((0, 0, 0, 40)),
    )


def _draw_fault(rng: random.Random) -> Fault:
    (name,) = rng.choices([*_FAULTS], [*_FAULTS.values()])
    longer_than_lease = rng.random() < 0.6
    for_s = rng.uniform(1.2, 2.0) * LEASE_S if longer_than_lease else rng.uniform(0.05, 0.8) * LEASE_S
    return Fault(rng.uniform(0.1, _SPAN_S), name, for_s, rng.randrange(1 << 16), rng.randrange(1 << 16))

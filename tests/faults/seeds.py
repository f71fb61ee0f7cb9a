"""Runs a seed on a stack, and checks what agents, simulators and the Redis server then show."""

from __future__ import annotations

import asyncio
import re
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from redis.exceptions import RedisError
from tests.faults.faults import carry_out
from tests.faults.history import Accepted, CancelAsked, Ended, Event, Got, Sent, check_history
from tests.faults.leftovers import find_leftovers
from tests.faults.plan import CAPACITY, LANES, MARK, Plan, Question, draw_plan
from tests.faults.stack import ModelServer, Stack
from tests.integration.farm import eventually
from tests.integration.life import ENDED, audit, dump, raw

from tokenlane.benches.simulator import Received
from tokenlane.producer import Client

__all__ = ["Run", "run_seed"]

_ANSWERED_S: Final = 45.0
_SETTLED_S: Final = 20.0
_MOST_CONNECTIONS: Final = 2 * (CAPACITY + 1)
"""As many idle connections two workers may keep to their model server."""
_ENDS: Final = {"completed": ("completed",), "cancelled": ("cancelled", "completed")}
"""The states in Redis, by how a request ended for its agent. A worker may complete an answer as its agent cancels. A
wiped server may hold other states: a worker restores what it runs, and may not have learnt that it had ended."""
_ALLOWED: Final = ("completed", "cancelled", "abandoned", "queue_full", "pool_unavailable")


@dataclass
class Run:
    """One run of a seed. `problems`: what is wrong; none if every promise was kept."""

    plan: Plan
    stack: Stack
    began: float = field(default_factory=time.monotonic)
    notes: list[tuple[float, str]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    first_logged: dict[str, int] = field(default_factory=dict)
    answered_s: float = 0.0
    took_s: float = 0.0

    def note(self, text: str) -> None:
        """Add a line to the history."""
        self.notes.append((time.monotonic(), text))

    def abandon(self, agent: int) -> None:
        """Record that an agent was killed, and with it its open requests."""
        own = [event for event in self.events if event["agent"] == agent]
        ended = {event["request"] for event in own if event["event"] == "ended"}
        for event in own:
            if event["event"] == "sent" and event["request"] not in ended:
                how = {"how": "abandoned", "message": "", "partial": None, "usage": None}
                end = {"event": "ended", "request": event["request"], "agent": agent, "time": time.monotonic(), **how}
                self.events.append(end)

    def received(self) -> Iterator[tuple[str, ModelServer, Received]]:
        """What the simulators received for this seed, with the question's key."""
        for lane, server in self.stack.model_servers.items():
            for place, received in enumerate(server.log):
                if place >= self.first_logged[lane]:
                    found = re.search(rb"question ([0-9.]+)\.", received.body)
                    yield found[1].decode() if found else "?", server, received

    def history(self) -> str:
        """Everything that happened, in order."""
        keys = {event["request"]: event["key"] for event in self.events if event["event"] == "sent"}
        lines = [*self.notes, *_lines(self.events, keys)]
        for key, server, received in self.received():
            at = server.times[received.index] if received.index < len(server.times) else self.began
            lines.append(
                (
                    at,
                    f"{key}: {server.api} was asked, continued after {len(received.prefill)} characters, sent "
                    f"{received.sent} tokens, {received.ended}",
                )
            )
        lines.sort(key=lambda line: line[0])
        listed = "\n".join(f"{at - self.began:7.3f} s  {text}" for at, text in lines)
        return f"seed {self.plan.seed}\n{listed}\nproblems:\n" + "\n".join(self.problems)


async def run_seed(stack: Stack, seed: int) -> Run:
    """Have agents ask while the faults of the seed happen, wait for the end of everything, and check it all."""
    run = Run(draw_plan(seed, len(stack.agents)), stack)
    run.first_logged = {lane: len(server.log) for lane, server in stack.model_servers.items()}
    for server in stack.model_servers.values():
        server.times[:] = [run.began] * (server.log[-1].index + 1 if server.log else 0)
    stack.wiped = False
    for agent, questions in zip(stack.agents, run.plan.questions, strict=True):
        for question in questions:
            agent.ask(question)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(carry_out(run.plan, stack, run.note))
            tasks.create_task(_watch(run))
            tasks.create_task(_answers(run))
    except* Exception as error:  # the history explains it
        run.problems += traceback.format_exception(error)
    _check_answers(run)
    run.note("all questions are answered")
    run.answered_s = time.monotonic() - run.began
    if not run.problems:
        await _check_settled(run)
        run.note("settled")
    _check_secrecy(run)
    run.took_s = time.monotonic() - run.began
    return run


async def _answers(run: Run) -> None:
    """Read what the agents write until all questions are answered, except those of killed agents."""
    wanted = [{question.key for question in questions} for questions in run.plan.questions]

    async def answered() -> bool:
        for number, agent in enumerate(run.stack.agents):
            assert agent.lock.locked() or agent.child.running, agent.child.error
            for event in agent.new_events():
                if event["event"] == "answered":
                    wanted[number].discard(str(event["key"]))
                elif event["event"] == "killed":
                    wanted[number].clear()
                    run.abandon(number)
                run.events.append(event | {"agent": number})
        return not any(wanted)

    await eventually(answered, _ANSWERED_S)


async def _watch(run: Run) -> None:
    """Look several times, as faults happen, whether the Redis server holds anything readable."""
    for _ in range(5):
        await asyncio.sleep(0.4)
        try:
            async with asyncio.timeout(1):
                held = await dump(raw(run.stack.pool))
        except (RedisError, TimeoutError, OSError):
            continue
        if MARK.decode() in str(held):
            run.problems.append("a prompt or an answer is readable in Redis while faults happen")


def _check_answers(run: Run) -> None:
    """Check what agents saw, and what simulators were asked to continue."""
    asked = {question.key: question for questions in run.plan.questions for question in questions}
    run.events.sort(key=lambda event: float(event["time"]))
    run.problems += check_history([*_history(run, asked)])
    keys = {event["request"]: event["key"] for event in run.events if event["event"] == "sent"}
    for event in run.events:
        if event["event"] == "ended" and event["how"] not in _allowed_ends(asked[keys[event["request"]]]):
            run.problems.append(f"{event['request']}: {event['how']}: {event['message']}")
    for key, server, received in run.received():
        begun = received.prefill + received.text
        if key in asked and not asked[key].answer.startswith(begun):
            run.problems.append(f"{key}: {server.api} continued {received.prefill!r} with {received.text!r}")


def _allowed_ends(question: Question) -> set[str]:
    return {*_ALLOWED, "interrupted"} if question.may_break_off else {*_ALLOWED}


def _history(run: Run, asked: Mapping[str, Question]) -> Iterator[Event]:
    purged = {fault.role for fault in run.plan.faults if fault.name == "purge_role"}
    roles = dict[str, str]()
    for event in run.events:
        request = event.get("request", "")
        match event["event"]:
            case "sent":
                question = asked[event["key"]]
                roles[request] = question.role
                yield Sent(request, question.answer, question.restarts)
            case "accepted":
                yield Accepted(request)
            case "got":
                fields = (event["attempt"], event["position"], event["text"], event["restarted"])
                yield Got(request, *fields)
            case "cancel":
                yield CancelAsked(request)
            case "ended":
                if event["how"] == "cancelled" and roles[request] in purged:
                    yield CancelAsked(request)
                yield Ended(request, event["how"], event["partial"])


async def _check_settled(run: Run) -> None:
    """Check that nothing runs or is left in Redis, and that every slot of every lane can be used."""
    stack = run.stack
    for server in stack.model_servers.values():
        server.scripts.clear()
    try:
        async with asyncio.timeout(_SETTLED_S):
            await asyncio.gather(*(_nothing_runs(server) for server in stack.model_servers.values()))
            await _use_every_slot(stack)
    except TimeoutError:
        running = {lane: server.running for lane, server in stack.model_servers.items()}
        run.problems.append(f"a slot is left over, or a request runs on: {running} run")
    await _check_left_over(run)
    run.problems += await find_leftovers(stack.children, stack.idle, _SETTLED_S)
    run.problems += [f"a file is left over: {path}" for path in stack.files()]
    for lane, connections in stack.connections().items():
        if connections > _MOST_CONNECTIONS:
            run.problems.append(f"{connections} connections to the model server of {lane} are open")


async def _nothing_runs(server: ModelServer) -> None:
    await server.wait_for(lambda: server.running == 0 and server.engine.waiting == 0, _SETTLED_S)


async def _use_every_slot(stack: Stack) -> None:
    """Run as many requests at once as each lane has slots."""
    url = f"redis://127.0.0.1:{stack.agents_redis.port}/0"
    async with Client(url, agent="last", key=stack.key) as client:
        for lane in LANES:
            server = stack.model_servers[lane]
            extra: dict[str, Any] = {"simulate": {"pieces": ["a", "b"], "hold_after": 1}}
            tasks = [asyncio.create_task(client.complete("all slots", role=lane, extra=extra)) for _ in range(CAPACITY)]
            while not all(task.done() for task in tasks):
                if server.running == CAPACITY:
                    server.release()
                await asyncio.sleep(0.01)
            assert [task.result().text for task in tasks] == ["ab"] * CAPACITY


async def _check_left_over(run: Run) -> None:
    """Check the whole key space, and that each request ended there as it did for its agent."""
    redis, deadline, states = raw(run.stack.pool), time.monotonic() + _SETTLED_S, dict[str, str]()
    while True:
        try:
            states = await audit(redis)
            live = {request: state for request, state in states.items() if state not in ENDED}
            left = [key.decode() for key in await redis.keys("{main}:role:*") + await redis.keys("{main}:arq:*")]
            assert not live, f"not ended: {live}"
            assert not left, f"keys left over: {left}"
            break
        except AssertionError as error:
            if time.monotonic() > deadline:
                run.problems.append(f"left over in Redis: {error}")
                break
            await asyncio.sleep(0.05)
    if MARK.decode() in str(await dump(redis)):
        run.problems.append("a prompt or an answer is readable in Redis afterwards")
    for event in run.events:
        if event["event"] == "ended" and event["how"] in _ENDS:
            state = states.get(event["request"])
            if state not in _ENDS[event["how"]] and not run.stack.wiped:
                run.problems.append(f"{event['request']}: {event['how']} for its agent, {state} in Redis")


def _check_secrecy(run: Run) -> None:
    for proxy in run.stack.proxies:
        if proxy.leaks:
            run.problems.append(f"a prompt or an answer was readable on the wire, {proxy.leaks} times")
    if run.stack.readable_on_disk():
        run.problems.append("a prompt or an answer is readable in the files of the Redis server")


def _lines(events: list[dict[str, Any]], keys: dict[str, str]) -> Iterator[tuple[float, str]]:
    """The agents' events as lines; deltas of one attempt in a row are one line."""
    runs: dict[str, dict[str, Any]] = {}
    for event in events:
        request = event.get("request", "")
        name = f"{keys.get(request, event.get('key', ''))} ({request})"
        run = runs.get(request)
        if event["event"] == "got":
            if run is not None and run["attempt"] == event["attempt"]:
                run["last"], run["until"] = event["position"], event["time"]
                continue
            if run is not None:
                yield _delta_line(name, run)
            runs[request] = event | {"last": event["position"], "until": event["time"]}
            continue
        if run is not None:
            yield _delta_line(name, runs.pop(request))
        details = {field: value for field, value in event.items() if field in ("how", "message", "usage") and value}
        if event["event"] not in ("answered", "ready"):
            yield event["time"], f"{name}: {event['event']} {details or ''}"
    for request, run in runs.items():
        yield _delta_line(f"{keys.get(request, '')} ({request})", run)


def _delta_line(name: str, run: dict[str, Any]) -> tuple[float, str]:
    took = run["until"] - run["time"]
    return run[
        "time"
    ], f"{name}: got {run['position']} to {run['last']} of {run['attempt']} on {run['lane']} in {took:.3f} s"

"""Measures models, one after another: asks each for the same answers, one at a time, through tokenlane's provider.

No pool takes part. The prompts are short, and each begins with another number, so that a server which keeps prompts
cannot use one again. All models get the same prompts.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import JsonValue

from tokenlane.benches.measure.host.gpus import gpu_memory_mb, gpu_names
from tokenlane.benches.measure.host.machine import describe_machine, describe_versions
from tokenlane.benches.measure.host.server_processes import machine_cpu_s, resident_mb, server_processes, used_cpu_s
from tokenlane.config.cli.sentences import counted
from tokenlane.config.settings.values import TOY_PROVIDER
from tokenlane.routing.contract.answers import Usage
from tokenlane.routing.contract.errors import LlmError, Timeout, UnreadableAnswer
from tokenlane.routing.contract.requests import ChatRequest, Message
from tokenlane.worker.builtin.server import is_installed, with_builtin_server
from tokenlane.worker.providers import LlmProvider, ReportsVersion, default_registry

from .find import Subject
from .report import LlmReport, Measured, Run

TOKENS = 256
_STORY = "Write a long story of at least a thousand words about the traveller with this number."
"""A task whose answer seldom ends before `TOKENS`, not even that of a small model."""
_FORCED: Mapping[str, dict[str, JsonValue]] = {
    "vllm": {"ignore_eos": True, "min_tokens": TOKENS},
    "llamacpp": {"ignore_eos": True},
    "builtin": {"ignore_eos": True},
}
"""By provider, the options that make a server generate all tokens. Other servers may end an answer early."""


@dataclass(frozen=True)
class LlmPlan:
    """How often each model answers, and how long an answer may take. `seed` draws the prompts, and servers get it."""

    runs: int = 10
    warm_up: int = 1
    seed: int = 0
    limit_s: float = 300.0

    def prompts(self) -> list[str]:
        """The prompts of the warm-up and of the runs, all different."""
        numbers = random.Random(self.seed).sample(range(1000, 10_000), self.warm_up + self.runs)
        return [f"{number}: {_STORY}" for number in numbers]


async def measure(subjects: Sequence[Subject], plan: LlmPlan, progress: Callable[[str], None]) -> LlmReport:
    """Measure all models. A model that cannot be measured is in the report, with the reason.

    Args:
        progress: called with a line of text before each model and after each run.
    """
    load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    measured = [await _measure(subject, plan, progress) for subject in subjects]
    return LlmReport(
        measured_at=datetime.now(UTC).isoformat(timespec="minutes"),
        machine=describe_machine(),
        gpus=gpu_names(),
        versions=describe_versions(("tokenlane", "aiohttp", *(["xllamacpp"] if is_installed() else []))),
        cores=os.cpu_count() or 1,
        load_average=load_average,
        runs=plan.runs,
        warm_up=plan.warm_up,
        seed=plan.seed,
        limit_s=plan.limit_s,
        tokens=TOKENS,
        measured=measured,
    )


async def _measure(subject: Subject, plan: LlmPlan, progress: Callable[[str], None]) -> Measured:
    measured = Measured(
        provider=subject.provider, endpoint=subject.endpoint, model=subject.model, problem=subject.problem
    )
    named = " ".join(filter(None, (subject.provider, subject.model, subject.endpoint)))
    progress(f"{named}: {subject.problem or 'starts'}")
    if subject.problem:
        return measured
    try:
        async with with_builtin_server(subject.lane) as lane, default_registry().create(lane) as provider:
            measured.is_forced = subject.provider in _FORCED
            await _describe(provider, measured)
            await _run(provider, measured, plan, progress)
    except LlmError as error:
        measured.problem = f"{error.code}: {error.message}"
    return measured


async def _describe(provider: LlmProvider, measured: Measured) -> None:
    """Add the server's version and the model's quantisation, as far as the server reports them."""
    with suppress(LlmError):
        if isinstance(provider, ReportsVersion) and measured.provider != TOY_PROVIDER:  # whose server does not know it
            measured.version = await provider.version() or ""
        info = next((model for model in await provider.models() if model.name == measured.model), None)
        measured.quantisation = (info.quantisation if info else None) or ""


async def _run(provider: LlmProvider, measured: Measured, plan: LlmPlan, progress: Callable[[str], None]) -> None:
    """Ask for all answers, and add the runs to `measured`, and after the last run what the server holds."""
    requests = list(_requests(plan, measured.provider))
    for request in requests[: plan.warm_up]:
        await _answer(provider, request, measured.model, plan.limit_s)
    before = await asyncio.to_thread(_look, provider.endpoint)
    for request in requests[plan.warm_up :]:
        run = await _answer(provider, request, measured.model, plan.limit_s)
        measured.runs.append(run)
        progress(f"run {len(measured.runs)} of {plan.runs}: {run.tokens} tokens in {run.total_ms / 1000:.1f} s")
    after = await asyncio.to_thread(_look, provider.endpoint)
    if before is not None and after is not None:
        measured.others_cores = (after.others_cpu_s - before.others_cpu_s) / (after.at_s - before.at_s)
        measured.memory_mb, measured.gpu_memory_mb = after.memory_mb, after.gpu_memory_mb


def _requests(plan: LlmPlan, provider: str) -> Iterator[ChatRequest]:
    for prompt in plan.prompts():
        yield ChatRequest(
            role="bench",
            messages=[Message(role="user", content=prompt)],
            max_tokens=TOKENS,
            temperature=0,
            seed=plan.seed,
            extra=_FORCED.get(provider),
        )


async def _answer(provider: LlmProvider, request: ChatRequest, model: str, limit_s: float) -> Run:
    """Ask once.

    Raises:
        LlmError: the answer failed, took longer than `limit_s`, or is too short to measure.
    """
    start_s = time.perf_counter()
    arrivals: list[float] = []
    usage = Usage()
    limit = asyncio.timeout(limit_s)
    try:
        async with limit, aclosing(provider.chat(request, model)) as deltas:
            async for delta in deltas:
                if delta.text or delta.reasoning or delta.tool_calls:
                    arrivals.append(time.perf_counter())
                usage = delta.usage or usage
    except TimeoutError:
        if not limit.expired():  # a limit of the lane
            raise
        came = counted(len(arrivals), "piece", "pieces")
        raise Timeout(f"An answer was not complete within {limit_s:g} s, {came} had come: raise --limit.") from None
    if len(arrivals) < 2:
        raise UnreadableAnswer(f"The answer came in {len(arrivals)} pieces, and at least 2 are needed to measure it.")
    return Run(
        first_token_ms=1000 * (arrivals[0] - start_s),
        total_ms=1000 * (arrivals[-1] - start_s),
        tokens=usage.completion_tokens or len(arrivals),
        is_counted=usage.completion_tokens > 0,
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
    )


@dataclass(frozen=True)
class _Look:
    """What the processes of a server hold at a time, and the CPU seconds that all other programs had used by then."""

    at_s: float
    others_cpu_s: float
    memory_mb: float
    gpu_memory_mb: float | None


def _look(endpoint: str) -> _Look | None:
    """Look at the server's processes; None if they cannot be seen."""
    processes = server_processes(endpoint)
    if not processes:
        return None
    used_s = used_cpu_s(processes) + (0 if os.getpid() in processes else time.process_time())
    return _Look(time.monotonic(), machine_cpu_s() - used_s, resident_mb(processes), gpu_memory_mb(processes))

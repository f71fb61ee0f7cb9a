"""The compared peers: what each is, its packages with their versions, and the commands that run it."""

from __future__ import annotations

import shlex
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from tokenlane.benches.measure import clients
from tokenlane.benches.measure.child_process import ChildProcess, child_process, child_program
from tokenlane.benches.measure.metronome import MODEL

from . import programs

_ROOM = programs.__name__
_ASKER = ("uvloop==0.23.0", "redis==8.1.0")
_HTTP = "httpx==0.28.1"


@dataclass(frozen=True)
class Place:
    """Where a peer runs.

    Args:
        python: the interpreter of the peer's environment. Its programs are in the same directory.
        directory: for the files of the peer's configuration and output.
        port: where the peer serves HTTP, if it does.
        streams: how many answers it moves at once, at most.
    """

    python: Path
    directory: Path
    redis_url: str
    model_url: str
    port: int
    streams: int

    def program(self, name: str) -> str:
        """Return the path of a program of the environment."""
        return str(self.python.with_name(name))

    @property
    def variables(self) -> dict[str, str]:
        """What the programs of `programs/` read from their environment."""
        return {
            "PEER_DIRECTORY": str(self.directory),
            "PEER_REDIS_URL": self.redis_url,
            "PEER_MODEL_URL": self.model_url,
            "PEER_MODEL": MODEL,
            "PEER_MOST_STREAMS": str(self.streams),
        }


CommandBetween: TypeAlias = Callable[[Place], Sequence[str]]
Asker: TypeAlias = Callable[[Place, dict[str, str]], AbstractAsyncContextManager[ChildProcess]]


@dataclass(frozen=True)
class Peer:
    """One way to bring a model server's answers to their reader.

    Args:
        name: its name in options and tables.
        asker: opens the process that asks, given its place and its environment variables.
        between: returns the command that runs between asker and model server; None: nothing does.
        packages: what its virtual environment holds; empty: it runs in the environment of tokenlane.
        through_redis: whether its answers pass through the Redis server.
        is_killed: whether to measure what a kill of all its processes costs. Gateway and worker of tokenlane keep an
            answer for each other, on different hosts.
    """

    name: str
    asker: Asker
    between: CommandBetween | None = None
    packages: tuple[str, ...] = ()
    through_redis: bool = False
    is_killed: bool = True


def free_port() -> int:
    """Return a port that is free at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _program(module: str, place: Place, variables: dict[str, str]) -> AbstractAsyncContextManager[ChildProcess]:
    return child_program(module, place.python, "-m", f"{_ROOM}.asker", module, environment=variables)


def _agent(place: Place, variables: dict[str, str]) -> AbstractAsyncContextManager[ChildProcess]:
    return child_process(clients.agent, redis=place.redis_url, measures_floor=False)


def _bare(place: Place, variables: dict[str, str]) -> AbstractAsyncContextManager[ChildProcess]:
    return child_process(clients.bare, endpoint=place.model_url)


def _http(place: Place, variables: dict[str, str]) -> AbstractAsyncContextManager[ChildProcess]:
    return child_process(clients.bare, endpoint=f"http://127.0.0.1:{place.port}")


def _tokenlane(place: Place) -> Sequence[str]:
    lane = ("--lane", clients.LANE, "--provider", "vllm", "--endpoint", place.model_url)
    limits = ("--capacity", str(place.streams), "--drain", "0")
    return (sys.executable, "-m", "tokenlane.config", "worker", *lane, *limits, "--redis", place.redis_url)


def _tokenlane_gateway(place: Place) -> Sequence[str]:
    address = ("--port", str(place.port), "--redis", place.redis_url)
    gateway = shlex.join((sys.executable, "-m", "tokenlane.config", "serve", *address))
    return ("sh", "-c", f"{shlex.join(_tokenlane(place))} & exec {gateway}")


def _arq(place: Place) -> Sequence[str]:
    return (place.program("arq"), f"{_ROOM}.arq_queue.WorkerSettings")


def _taskiq(place: Place) -> Sequence[str]:
    limits = ("--workers", "1", "--max-async-tasks", str(place.streams), "--log-level", "WARNING")
    return (place.program("taskiq"), "worker", f"{_ROOM}.taskiq_queue:broker", *limits)


def _streaq(place: Place) -> Sequence[str]:
    return (place.program("streaq"), "run", f"{_ROOM}.streaq_queue:worker")


def _celery(place: Place) -> Sequence[str]:
    pool = ("--pool", "gevent", "--concurrency", str(place.streams), "--loglevel", "WARNING")
    return (place.program("celery"), "-A", f"{_ROOM}.celery_queue", "worker", *pool)


def _litellm(place: Place) -> Sequence[str]:
    configuration = place.directory / "litellm.yaml"
    parameters = f"{{model: openai/{MODEL}, api_base: '{place.model_url}/v1', api_key: none}}"
    without_key = "general_settings: {dangerously_permit_weak_or_unset_master_key: true}"
    configuration.write_text(f"model_list:\n  - model_name: {MODEL}\n    litellm_params: {parameters}\n{without_key}\n")
    address = ("--host", "127.0.0.1", "--port", str(place.port))
    return (place.program("litellm"), "--config", str(configuration), *address, "--telemetry", "False")


def _sglang_router(place: Place) -> Sequence[str]:
    address = ("--host", "127.0.0.1", "--port", str(place.port), "--prometheus-port", str(free_port()))
    return (str(place.python), "-m", "sglang_router.launch_router", *address, "--worker-urls", place.model_url)


def _vllm_router(place: Place) -> Sequence[str]:
    address = ("--host", "127.0.0.1", "--port", str(place.port), "--prometheus-port", str(free_port()))
    return (place.program("vllm-router"), *address, "--worker-urls", place.model_url)


def _queue(name: str, between: CommandBetween, *packages: str) -> Peer:
    return Peer(name, partial(_program, f"{name}_queue"), between, packages, through_redis=True)


PEERS = {
    peer.name: peer
    for peer in (
        Peer("bare", _bare),
        Peer("tokenlane", _agent, _tokenlane, through_redis=True),
        Peer("tokenlane-gateway", _http, _tokenlane_gateway, through_redis=True, is_killed=False),
        _queue("arq", _arq),
        _queue("taskiq", _taskiq, "taskiq==0.13.0", "taskiq-redis==1.2.4", _HTTP, *_ASKER),
        _queue("streaq", _streaq, "streaq==7.2.0", _HTTP, *_ASKER),
        _queue("celery", _celery, "celery[redis,gevent]==5.7.0", _HTTP, *_ASKER),
        Peer("litellm", _http, _litellm, ("litellm[proxy]==1.106.12",)),
        Peer("tensorzero", partial(_program, "tensorzero_embedded"), packages=("tensorzero==2026.6.0", _ASKER[0])),
        Peer("sglang-router", _http, _sglang_router, ("sglang-router==0.3.2",)),
        Peer("vllm-router", _http, _vllm_router, ("vllm-router==0.1.17",)),
    )
}
"""All peers by name, in the order of the table."""

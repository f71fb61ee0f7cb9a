"""The child process: serves the model until its standard input ends.

It says one line of JSON on standard output, `endpoint` or `error`; whatever the C++ server prints goes nowhere.
"""

from __future__ import annotations

import json
import os
import signal
import sys

from . import MODEL_NAME
from .server import SLOT_TOKENS

# What ends this process is the end of its input: who started it drains first. Before the import, which takes a while.
for _number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):  # Windows has no SIGHUP
    signal.signal(_number, signal.SIG_IGN)

import xllamacpp  # noqa: E402 - see above

MOST_THREADS = 4
"""A model this small gains nothing from more."""
PROMPT_CACHE_MIB = 64
MOST_TOKENS = 512
"""Of an answer, where the request does not say: a model this small rambles."""


def main(model_path: str, capacity: int, port: int) -> None:
    told = os.dup(sys.stdout.fileno())
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.dup2(nowhere, sys.stderr.fileno())
    try:
        server = xllamacpp.Server(
            _parameters(model_path, capacity, port)
        )  # serves from now on, as long as it is referred to
        said = {"endpoint": str(server.listening_address)}
    except Exception as error:
        said = {"error": f"{type(error).__name__}: {error}"[:500]}
    os.write(told, json.dumps(said).encode() + b"\n")
    os.close(told)
    if "endpoint" in said:
        while os.read(sys.stdin.fileno(), 4096):
            pass
    # At once: an orderly end would wait for the answers that are still running.
    os._exit(0)


def _parameters(model_path: str, capacity: int, port: int) -> xllamacpp.CommonParams:
    params = xllamacpp.CommonParams()
    params.model.path = model_path
    params.model_alias = {MODEL_NAME}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel = capacity
    params.n_predict = MOST_TOKENS
    params.n_ctx = capacity * SLOT_TOKENS
    params.cache_ram_mib = PROMPT_CACHE_MIB
    params.cpuparams.n_threads = min(MOST_THREADS, os.cpu_count() or 1)
    params.endpoint_slots = True
    params.endpoint_metrics = True
    params.ui = False
    params.verbosity = -1
    return params


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))

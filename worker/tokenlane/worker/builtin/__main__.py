"""The child process that serves the built-in model until its standard input ends.

It prints one line of JSON, with `endpoint` or `error`. The output of the C++ server is discarded.
"""

from __future__ import annotations

import json
import os
import signal
import sys

from . import MODEL_NAME
from .server import SLOT_TOKENS

# The worker closes this process's input after it has drained, so signals are ignored. This stands before the import
# because the import takes a while.
for _number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):  # Windows has no SIGHUP
    signal.signal(_number, signal.SIG_IGN)

import xllamacpp  # noqa: E402 - see above

MOST_THREADS = 4
"""The largest number of threads. More threads do not make so small a model faster."""
PROMPT_CACHE_MIB = 64
MOST_TOKENS = 512
"""The longest answer, in tokens, if the request sets no limit: so small a model may never stop."""


def main(model_path: str, capacity: int, port: int) -> None:
    """Start the server, report its endpoint, and wait for the end of standard input."""
    report_to = os.dup(sys.stdout.fileno())
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.dup2(nowhere, sys.stderr.fileno())
    try:
        server = xllamacpp.Server(_parameters(model_path, capacity, port))  # serves as long as the object lives
        report = {"endpoint": str(server.listening_address)}
    except Exception as error:
        report = {"error": f"{type(error).__name__}: {error}"[:500]}
    os.write(report_to, json.dumps(report).encode() + b"\n")
    os.close(report_to)
    if "endpoint" in report:
        while os.read(sys.stdin.fileno(), 4096):
            pass
    # Exit at once: an orderly exit would wait for the running answers.
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

"""The processes of a server on this host, what they hold, and what they hold on GPUs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest

from tokenlane.benches.measure.host import gpus
from tokenlane.benches.measure.host.server_processes import (
    machine_cpu_s,
    resident_mb,
    server_processes,
    used_cpu_s,
)

# A server that says at which port it listens, and starts a child, which says that it runs.
SERVER = """
import socket, subprocess, sys
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    subprocess.run([sys.executable, "-c", "import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"])
"""


def test_a_server_is_all_its_processes() -> None:
    """The process that listens, and its child, which does not; not the one that started them."""
    with subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        port, child = int(server.stdout.readline()), int(server.stdout.readline())
        for host in ("127.0.0.1", "localhost"):
            assert server_processes(f"http://{host}:{port}/v1") == {server.pid, child}
        both = resident_mb({server.pid, child})
        assert both == pytest.approx(resident_mb({server.pid}) + resident_mb({child}), rel=0.1)
        assert 1 < both < 1000
        server.stdin.close()
    assert server_processes(f"http://127.0.0.1:{port}") == frozenset()
    assert resident_mb({server.pid}) == 0


def test_a_server_at_a_unix_socket(tmp_path: Path) -> None:
    """Its path may contain blanks."""
    path = tmp_path / "a server.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        assert os.getpid() in server_processes(f"unix://{quote(str(path))}")
        assert server_processes(f"unix://{quote(str(tmp_path))}/other.sock") == frozenset()


@pytest.mark.parametrize(
    "endpoint", ["http://192.0.2.1:{port}", "http://no-host.invalid:{port}", "unix:///", "nonsense"]
)
def test_another_host_has_no_processes_here(endpoint: str) -> None:
    """Although a process of this host listens at the same port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert server_processes(endpoint.format(port=server.getsockname()[1])) == frozenset()


def test_cpu_time() -> None:
    """A process's share is part of the machine's."""
    assert 0 < used_cpu_s({os.getpid()}) < machine_cpu_s()


class Nvml(SimpleNamespace):
    """A host with two GPUs. Process 1 runs on both, process 2 on the second, and process 3 hides its memory."""

    NVMLError = RuntimeError
    running = ({1: 2e9}, {1: 1e9, 2: 4e9, 3: None})

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...
    def nvmlDeviceGetCount(self) -> int:
        return len(self.running)

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:
        return number

    def nvmlDeviceGetName(self, gpu: int) -> str:
        return f"GPU {gpu}"

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self.running[gpu].items()]


def test_memory_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum over all GPUs and processes; nothing where NVML does not know it."""
    monkeypatch.setitem(sys.modules, "pynvml", Nvml())
    assert gpus.gpu_names() == ["GPU 0", "GPU 1"]
    held = [gpus.gpu_memory_mb(set(processes)) for processes in ((1,), (1, 2), (4,), (2, 3))]
    assert held == [3000, 7000, None, None]


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a missing package nor a missing driver is an error."""

    class NoDriver(Nvml):
        def nvmlInit(self) -> None:
            raise self.NVMLError("no driver")

    for module in (None, NoDriver()):
        monkeypatch.setitem(sys.modules, "pynvml", module)
        assert (gpus.gpu_names(), gpus.gpu_memory_mb({1})) == ([], None)

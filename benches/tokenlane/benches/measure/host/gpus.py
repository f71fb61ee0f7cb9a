"""The GPUs of this host and the memory of processes on them, from NVML if the package `nvidia-ml-py` is installed."""

from __future__ import annotations

from collections.abc import Callable, Set
from importlib import import_module
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")


def gpu_names() -> list[str]:
    """The names of the GPUs; empty if there are none, or if NVML cannot be asked."""
    return _ask_nvml(lambda nvml: [str(nvml.nvmlDeviceGetName(gpu)) for gpu in _gpus(nvml)]) or []


def gpu_memory_mb(processes: Set[int]) -> float | None:
    """The memory of the processes on all GPUs together; None if NVML does not know it."""

    def used(nvml: ModuleType) -> float | None:
        uses = [use for gpu in _gpus(nvml) for use in nvml.nvmlDeviceGetComputeRunningProcesses(gpu)]
        held = [use.usedGpuMemory for use in uses if use.pid in processes]
        # In a container, NVML may know other process ids, or no process's memory.
        return None if not held or None in held else sum(held) / 1e6

    return _ask_nvml(used)


def _gpus(nvml: ModuleType) -> list[object]:
    return [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(nvml.nvmlDeviceGetCount())]


def _ask_nvml(question: Callable[[ModuleType], T]) -> T | None:
    """The answer to a question; None without the package, the driver or this driver's support of the question."""
    try:
        nvml = import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
        try:
            return question(nvml)
        finally:
            nvml.nvmlShutdown()
    except nvml.NVMLError:
        return None

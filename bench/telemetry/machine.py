"""The machine and the software a number was made with."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import bench

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "datasets", "lm-eval", "safetensors")


def describe_environment() -> dict[str, Any]:
    """What to record beside every number: software versions, processor, memory, GPUs, commit."""
    return {
        "steelyard": bench.__version__,
        "python": platform.python_version(),
        **{name.replace("-", "_"): package_version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "num_cpus": num_cores(),
        "memory_bytes": memory_bytes(),
        **describe_gpus(),
        **_commit(),
    }


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_threads(num_processes: int = 1) -> int:
    """Threads for each of so many processes: what `OMP_NUM_THREADS` says, else an equal share of the cores."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdecimal() and int(said) else max(1, num_cores() // num_processes)


def package_version(name: str) -> str | None:
    """Installed version of a package, None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def memory_bytes() -> int:
    """Physical memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def available_memory_bytes() -> int:
    """Memory that this process can still get, of the machine and of what its control groups allow it."""
    info = Path("/proc/meminfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    found = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    return min([memory_bytes() // 2 if found is None else found, *_allowed_memory_bytes(Path("/sys/fs/cgroup"))])


def _allowed_memory_bytes(root: Path) -> Iterator[int]:
    """What is left of each limit set on this process's control groups (version 2): containers and batch systems do."""
    with contextlib.suppress(OSError, ValueError):
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        own = root / next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
        for group in {root, own, *own.parents}:
            limit = group / "memory.max"
            if group.is_relative_to(root) and limit.is_file() and (text := limit.read_text().strip()) != "max":
                counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                used = int((group / "memory.current").read_text()) - int(counts.get("inactive_file", 0))
                yield max(0, int(text) - used)


def reset_peak_rss() -> None:
    """Forget what this process held before, where the system allows it, so that a model's peak is its own."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_rss_bytes() -> int:
    """Most memory this process has held since `reset_peak_rss`, or else since it began."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def describe_gpus() -> dict[str, Any]:
    """Names of the GPUs and the driver's version, through NVML; empty without."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {"gpu": None, "driver": None}
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        names = [pynvml.nvmlDeviceGetName(handle) for handle in handles]
        return {"gpu": ", ".join(names) or None, "driver": pynvml.nvmlSystemGetDriverVersion()}
    finally:
        pynvml.nvmlShutdown()


def _commit() -> dict[str, Any]:
    """Commit of the checkout the package runs from, and whether files other than studies' results differ from it.

    Both are None where it is not a checkout.
    """
    root = Path(bench.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return {"commit": None, "is_dirty": None}

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", ".", ":(exclude)studies/results")
        return {"commit": git("rev-parse", "HEAD"), "is_dirty": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "is_dirty": None}

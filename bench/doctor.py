"""What `bench doctor` says: what is on this machine, and what that means for a run."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.telemetry.machine import available_memory_bytes, describe_environment
from bench.telemetry.rapl import open_zones


def examine() -> Iterator[tuple[str, str]]:
    """Yield (subject, finding) lines."""
    machine = describe_environment()
    commit = f", commit {machine['commit'][:12]}" if machine["commit"] else ""
    yield "steelyard", f"{machine['steelyard']}{commit}{_dirty(machine)}"
    yield "python", platform.python_version()
    yield (
        "packages",
        ", ".join(f"{name} {machine[name] or 'missing'}" for name in ("torch", "transformers", "tokenizers")),
    )
    yield "processor", f"{machine['cpu']}, {machine['num_cpus']} cores{_bf16()}"
    yield "memory", f"{machine['memory_bytes'] / 2**30:.1f} GiB, {available_memory_bytes() / 2**30:.1f} GiB available"
    yield from _gpu(machine)
    zones, reason = open_zones()
    yield "energy", f"processors: {reason or ', '.join(zone.name for zone in zones)}; GPUs by NVML, when they are used"
    yield "embedded", _embedded()
    yield "MMLU", _mmlu()
    yield "hub token", "set" if os.environ.get("HF_TOKEN") else "none (HF_TOKEN is not set; gated models need it)"


def _dirty(machine: dict[str, Any]) -> str:
    return ", with uncommitted changes" if machine["is_dirty"] else ""


def _bf16() -> str:
    import torch

    from bench.engine.device import lacks_instructions

    if not lacks_instructions(torch.bfloat16, torch.device("cpu")):
        return ""
    return "; no bfloat16 instructions, so float32 is the fast dtype here"


def _gpu(machine: dict[str, Any]) -> Iterator[tuple[str, str]]:
    import torch

    if machine["gpu"] is None:
        yield "GPU", "none found (NVML); plans with device auto run on CPU"
    elif not torch.cuda.is_available():
        yield "GPU", f"{machine['gpu']}, but torch {torch.__version__} cannot use it: install a CUDA build"
    else:
        yield "GPU", f"{machine['gpu']}, driver {machine['driver']}, CUDA {torch.version.cuda}"


def _embedded() -> str:
    from bench.models.files import EMBEDDED_INSTALL, embedded_file
    from bench.models.gguf import converted_folder, is_converted

    file = embedded_file()
    if file is None:
        return f"not installed: {EMBEDDED_INSTALL}"
    if is_converted(file):
        return f"ready in {converted_folder(file)}"
    return "installed; the first run converts it (about half a minute)"


def _mmlu() -> str:
    folder = os.environ.get("MMLU_DIR")
    if not folder:
        return "MMLU_DIR is not set; a networked machine downloads it from the hub"
    missing = [name for name in ("dev", "test") if not (Path(folder) / name).is_dir()]
    return f"{folder} lacks {' and '.join(missing)}/" if missing else folder

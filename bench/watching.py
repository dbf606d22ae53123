"""A session's telemetry: which devices its model uses, and how much of their memory."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch

from bench.session import Session
from bench.telemetry.machine import peak_rss_bytes
from bench.telemetry.recorder import Recorder, open_devices

T = TypeVar("T")


def start_recorder(session: Session) -> Recorder:
    """Watch the devices of a session; their idle power is taken once, before the model is loaded.

    Of several processes each watches its own GPUs, and the first the processors, so that nothing counts twice.
    """
    devices, reasons = open_devices(gpu_names(session.devices), with_cpu=session.team.is_first)
    recorder = Recorder(devices, reasons, session.idle_w)
    session.idle_w = recorder.idle_w
    return recorder


def describe_telemetry(session: Session, recorder: Recorder) -> dict[str, Any]:
    """What was recorded so far, and the most memory that this process held."""
    gpus = [device for device in session.devices if device.type == "cuda"]
    on_gpus = {
        "allocated_bytes": sum(map(torch.cuda.max_memory_allocated, gpus)),
        "reserved_bytes": sum(map(torch.cuda.max_memory_reserved, gpus)),
    }
    return {**recorder.describe(), "memory": {**(on_gpus if gpus else {}), "rss_bytes": peak_rss_bytes()}}


class Sitting:
    """A session's model at work on one run by questions: loaded, its devices watched, and what to record of that."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._recorder: Recorder | None = None
        self._before: Mapping[str, Any] = {}
        self._timing_before = (session.timing.load_s, session.timing.self_check_s)  # another task's

    @contextlib.contextmanager
    def working(self, info: Mapping[str, Any], load: Callable[[], object]) -> Iterator[None]:
        """Watch the devices, load the model, and go on within this context; `info` is run.json as it stands."""
        self._before = info.get("timing", {})
        self._recorder = recorder = start_recorder(self.session)
        with contextlib.closing(recorder):
            load()
            recorder.restart()
            yield

    def timed(self, results: Iterator[T]) -> Iterator[T]:
        """Results as they come; the time between them is the model's, and what its devices used in it counts."""
        clock = time.perf_counter()
        for result in results:
            if self._recorder is not None:
                self._recorder.count(clock, time.perf_counter())
            yield result
            clock = time.perf_counter()

    def measured(self) -> dict[str, Any]:
        """What to record of it, but for the engine."""
        session, (load_s, check_s) = self.session, self._timing_before
        spent = {"load_s": session.timing.load_s - load_s, "self_check_s": session.timing.self_check_s - check_s}
        sums = {name: round(seconds + self._before.get(name, 0.0), 4) for name, seconds in spent.items()}
        return {
            "timing": {name: seconds for name, seconds in sums.items() if seconds or name == "load_s"},
            "peak_memory_bytes": session.peak_memory_bytes(),
            "notes": list(session.notes),
            "telemetry": describe_telemetry(session, self._recorder) if self._recorder else {},
        }


def gpu_names(devices: list[torch.device]) -> list[str]:
    """The UUIDs of CUDA devices; of MIG instances, which torch may name by their board, as the user gave them."""
    visible = [entry.strip() for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    names = []
    for device in devices:
        if device.type != "cuda":
            continue
        index = torch.cuda.current_device() if device.index is None else device.index
        entry = visible[index] if index < len(visible) else ""
        names.append(entry if entry.startswith("MIG-") else _uuid(index))
    return names


def _uuid(index: int) -> str:
    uuid = str(torch.cuda.get_device_properties(index).uuid)
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"

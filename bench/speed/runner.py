"""`bench speed`: every model of a plan at every point of its sweep, each model in a run folder of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from bench.api.presets import split_source
from bench.config import ModelSpec, RunPlan
from bench.errors import ModelInputError, SteelyardError, one_line
from bench.local_model import LocalModel, check_model, open_model, preparation
from bench.runner import Listener, Outcome
from bench.session import Session
from bench.speed.folder import append_point, drop_damaged_lines, read_points
from bench.speed.measure import Meter
from bench.speed.points import Point, plan_points
from bench.speed.spec import SpeedSpec
from bench.store import LANE_SPEED, RunFolder, identity, run_name
from bench.telemetry.machine import describe_environment

log = logging.getLogger(__name__)

_OF_THE_MACHINE = ("cpu", "num_cpus", "gpu", "driver", "torch", "transformers")
_SWEEP = {"prompt_lengths", "batch_sizes", "contexts", "decode_tokens"}


def run_speed(plan: RunPlan, listener: Listener) -> list[Outcome]:
    """Measure every model of a plan; a model that fails does not stop the others.

    Raises:
        InputError: something in the plan or a model is wrong; nothing was measured.
    """
    for spec in plan.models:
        if split_source(spec.source) is not None:
            raise ModelInputError(f"model {spec.name}: bench speed measures models on this machine only")
        if spec.backend != "transformers":
            raise ModelInputError(f"model {spec.name}: bench speed measures transformers' models; leave backend out")
        if spec.parallel == "tensor":
            raise ModelInputError(f"model {spec.name}: bench speed is one process; parallel may be none or layers")
        check_model(spec, plan.engine)
    return [_run_model(spec, plan, listener) for spec in plan.models]


def _run_model(spec: ModelSpec, plan: RunPlan, listener: Listener) -> Outcome:
    path: Path | None = None
    try:
        if work := preparation(spec):
            listener.say(work)
        with closing(open_model(spec, plan.engine)) as model:
            points = list(plan_points(plan.speed))
            check_points(model.session, points)
            header = _header(model, plan)
            key = _identity(model, plan.speed, header["environment"])
            path = plan.out / run_name(spec.name, LANE_SPEED, model.session.dtype_name, None, key)
            with RunFolder.open(path.parent, path.name, key, {**header, "started_at": _now()}) as folder:
                _measure_missing(model, points, header, folder, listener)
    except SteelyardError as error:
        listener.fail(f"{spec.name} · speed: {error}")
        return Outcome(spec.name, LANE_SPEED, path, error.bare())
    return Outcome(spec.name, LANE_SPEED, path)


def _header(model: LocalModel, plan: RunPlan) -> dict[str, Any]:
    """What run.json holds from the start of a sitting: the sweep may be another one than the last sitting's."""
    config = {
        "models": [model.spec.model_dump(mode="json")],
        "engine": plan.engine.model_dump(mode="json"),
        "speed": plan.speed.model_dump(mode="json"),
    }
    return {"lane": LANE_SPEED, "model": model.describe(), "config": config, "environment": describe_environment()}


def _identity(model: LocalModel, spec: SpeedSpec, environment: Mapping[str, Any]) -> str:
    """Hash of what a point's figures depend on; which points there are is not part of it, so a sweep can grow."""
    parts = {
        "lane": LANE_SPEED,
        "model": model.describe(),
        "place": [str(model.session.device), model.spec.parallel],
        "machine": [environment[name] for name in _OF_THE_MACHINE],
        "speed": spec.model_dump(mode="json", exclude=_SWEEP),
    }
    return identity(parts)


def check_points(session: Session, points: Sequence[Point]) -> None:
    """Refuse a sweep with a sequence that is longer than the model reads.

    Raises:
        ModelInputError: there is one.
    """
    if session.kind.name != "causal":
        raise ModelInputError(
            f"model {session.spec.name}: bench speed measures causal language models; this is {session.kind.name}"
        )
    longest = max(points, key=lambda point: point.num_positions)
    if longest.num_positions > session.max_length:
        raise ModelInputError(
            f"model {session.spec.name}: speed: {longest.key} is {longest.num_positions} tokens, "
            f"and the model reads {session.max_length}"
        )


def _measure_missing(
    model: LocalModel, points: Sequence[Point], header: Mapping[str, Any], folder: RunFolder, listener: Listener
) -> None:
    """Measure what the folder does not hold yet, and finish it."""
    spec = SpeedSpec.model_validate(header["config"]["speed"])
    drop_damaged_lines(folder.path)
    done = read_points(folder.path)
    missing = [point for point in points if point.key not in done]
    title = f"{model.spec.name} · speed"
    if folder.is_finished and not missing:
        listener.say(f"{title}: finished before, nothing to measure")
        return
    folder.go_on()
    folder.update(header)
    listener.start(title, "points")
    listener.plan(len(points), is_all=True)
    listener.advance(len(points) - len(missing))
    try:
        failed = list(_measure(model.session, missing, spec, folder.path, listener)) if missing else []
    except SteelyardError as error:
        folder.fail(str(error))
        raise
    except Exception as problem:  # a defect, or a model's own code: it must not take the other models along
        log.exception("failed")
        folder.fail(one_line(problem))
        raise SteelyardError(one_line(problem)) from problem
    finally:
        listener.stop()
    session = model.session
    if missing:
        timing = {"load_s": round(session.timing.load_s, 4)}
        folder.update({"timing": timing, "engine": session.describe_place(), "notes": list(session.notes)})
    if failed:
        folder.fail(f"not measured: {'; '.join(failed)}")
        raise SteelyardError(f"{len(failed)} of {len(points)} points were not measured: {failed[0]}")
    folder.finish([], {"num_points": len(read_points(folder.path)), "finished_at": _now()})


def _measure(
    session: Session, points: Sequence[Point], spec: SpeedSpec, path: Path, listener: Listener
) -> Iterator[str]:
    """Measure points, each on the disk before the next; yield why one could not be."""
    meter = Meter(session, spec)
    for point in points:
        began = time.perf_counter()
        try:
            record = meter.measure(point)
        except torch.OutOfMemoryError:
            if session.device.type == "cuda":
                torch.cuda.empty_cache()
            yield f"{point.key}: out of memory"
        else:
            append_point(path, {**record, "measured_at": _now(), "took_s": time.perf_counter() - began})
        listener.advance(1)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

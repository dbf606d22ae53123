"""`bench speed`: every model of a plan at every point of its sweep, each model in a run folder of its own.

A sweep is of reading and writing, or, with `--scoring`, of the plan's tasks; both go into the same folder.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from bench.api.presets import split_source
from bench.config import ModelSpec, RunPlan
from bench.errors import ModelInputError, PlanError, ScoringError, SteelyardError, one_line
from bench.local_model import LocalModel, check_model, open_model, preparation
from bench.runner import Listener, Outcome, prepare_jobs
from bench.runs.folder import RunFolder
from bench.runs.names import LANE_SPEED, identity, run_name
from bench.session import Session
from bench.speed.folder import append_point, drop_damaged_lines, read_points
from bench.speed.measure import Meter
from bench.speed.points import Point, plan_points
from bench.speed.scoring import Scoring, ScoringMeter, plan_scorings
from bench.speed.spec import SpeedSpec
from bench.tasks.job import Job
from bench.telemetry.machine import describe_environment

log = logging.getLogger(__name__)

_OF_THE_MACHINE = ("cpu", "num_cpus", "gpu", "driver", "torch", "transformers")
_SWEEP = {"prompt_lengths", "batch_sizes", "contexts", "decode_tokens"}


@dataclass(frozen=True, slots=True)
class _Sweep:
    """What is measured of a model.

    Attributes:
        start: loads the model; what it returns measures one of the points.
    """

    points: Sequence[Point | Scoring]
    start: Callable[[], Callable[[Any], dict[str, Any]]]


def run_speed(plan: RunPlan, listener: Listener, *, is_scoring: bool = False) -> list[Outcome]:
    """Measure every model of a plan; a model that fails does not stop the others.

    Args:
        plan: the plan.
        listener: hears how it goes.
        is_scoring: measure how fast its tasks are scored, not how fast is read and written.

    Raises:
        InputError: something in the plan or a model is wrong; nothing was measured.
    """
    for spec in plan.models:
        if split_source(spec.source) is not None:
            raise ModelInputError(f"model {spec.name}: bench speed measures models on this machine only")
        if spec.parallel == "tensor":
            raise ModelInputError(f"model {spec.name}: bench speed is one process; parallel may be none or layers")
        check_model(spec, plan.engine)
    jobs = _scored_jobs(plan, listener) if is_scoring else None
    return [_run_model(spec, plan, jobs, listener) for spec in plan.models]


def _scored_jobs(plan: RunPlan, listener: Listener) -> list[Job]:
    """The plan's tasks that are scored by likelihoods."""
    jobs = prepare_jobs(plan, listener)
    for job in jobs:
        if job.lane != "likelihood":
            listener.say(f"left out {job.title}, which is answered in writing: scoring is measured of likelihoods")
    scored = [job for job in jobs if job.lane == "likelihood"]
    if not scored:
        raise PlanError("bench speed --scoring: no task of the plan is scored by likelihoods")
    return scored


def _plan_sweep(model: LocalModel, plan: RunPlan, jobs: Sequence[Job] | None) -> _Sweep:
    if jobs is not None:
        return _Sweep(plan_scorings(jobs, plan.engine), lambda: ScoringMeter(model, plan.speed).measure)
    points = list(plan_points(plan.speed))
    check_points(model.session, points)
    return _Sweep(points, lambda: Meter(model.session, plan.speed).measure)


def _run_model(spec: ModelSpec, plan: RunPlan, jobs: Sequence[Job] | None, listener: Listener) -> Outcome:
    path: Path | None = None
    try:
        if work := preparation(spec):
            listener.say(work)
        with closing(open_model(spec, plan.engine)) as model:
            sweep = _plan_sweep(model, plan, jobs)
            header = _header(model, plan)
            key = _identity(model, plan.speed, header["environment"])
            path = plan.out / run_name(spec.name, LANE_SPEED, model.session.dtype_name, None, key)
            with RunFolder.open(path.parent, path.name, key, {**header, "started_at": _now()}) as folder:
                _measure_missing(model, sweep, header, folder, listener)
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
        "costs": plan.costs.model_dump(mode="json"),
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
    model: LocalModel, sweep: _Sweep, header: Mapping[str, Any], folder: RunFolder, listener: Listener
) -> None:
    """Measure what the folder does not hold yet, and finish it."""
    drop_damaged_lines(folder.path)
    done = read_points(folder.path)
    missing = [point for point in sweep.points if point.key not in done]
    title = f"{model.spec.name} · speed"
    if folder.is_finished and not missing:
        listener.say(f"{title}: finished before, nothing to measure")
        return
    folder.go_on()
    folder.update(header)
    listener.start(title, "points")
    listener.plan(len(sweep.points), is_all=True)
    listener.advance(len(sweep.points) - len(missing))
    try:
        failed = list(_measure(model.session, sweep, missing, folder.path, listener)) if missing else []
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
        raise SteelyardError(f"{len(failed)} of {len(sweep.points)} points were not measured: {failed[0]}")
    folder.finish([], {"num_points": len(read_points(folder.path)), "finished_at": _now()})


def _measure(
    session: Session, sweep: _Sweep, points: Sequence[Point | Scoring], path: Path, listener: Listener
) -> Iterator[str]:
    """Measure points, each on the disk before the next; yield why one could not be."""
    measure = sweep.start()
    for point in points:
        began = time.perf_counter()
        try:
            record = measure(point)
        except torch.OutOfMemoryError:
            if session.device.type == "cuda":
                torch.cuda.empty_cache()
            yield f"{point.key}: out of memory"
        except ScoringError as error:
            yield f"{point.key}: {error}"
        else:
            append_point(path, {**record, "measured_at": _now(), "took_s": time.perf_counter() - began})
        listener.advance(1)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

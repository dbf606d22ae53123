"""`bench speed`: every model of a plan at every point of its sweep, each model in a run folder of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from bench.api.presets import split_source
from bench.config import ModelSpec, RunPlan
from bench.errors import ModelInputError, PlanError, SteelyardError, one_line
from bench.runner import Listener, Outcome, prepare_jobs
from bench.runs.folder import RunFolder
from bench.runs.names import LANE_SPEED, identity, run_name
from bench.sources import source_of
from bench.speed.folder import NotMeasured, append_point, drop_damaged_lines, read_points
from bench.tasks.job import Job
from bench.telemetry.machine import describe_environment

log = logging.getLogger(__name__)


class Point(Protocol):
    """One point of a sweep; `key` is its name in the journal."""

    @property
    def key(self) -> str:
        """Its name."""


class Sweep(Protocol):
    """A model's points and how they are measured, be it in this machine's memory or behind an API."""

    @property
    def points(self) -> Sequence[Any]:
        """In their order."""

    @property
    def label(self) -> str:
        """What the run is of, beside the model's name."""

    def describe(self) -> dict[str, Any]:
        """The part `model` of run.json."""

    def identity(self, environment: Mapping[str, Any]) -> Mapping[str, Any]:
        """What figures depend on; which points there are is not part of it, so a sweep can grow."""

    def estimate(self, num_points: int) -> str | None:
        """What so many points may cost in money, and what that goes by; None if nothing."""

    def measuring(self, folder: RunFolder) -> AbstractContextManager[Callable[[Any], dict[str, Any]]]:
        """What measures a point: returns what the journal is to hold of it, or raises NotMeasured."""

    def close(self) -> None:
        """Give memory back."""


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
        if spec.backend != "transformers":
            raise ModelInputError(f"model {spec.name}: bench speed measures transformers' models; leave `backend` out")
        if spec.parallel == "tensor":
            raise ModelInputError(f"model {spec.name}: bench speed is one process; parallel may be none or layers")
        if spec.api.batch:
            raise ModelInputError(f"model {spec.name}: api.batch: batches are not streamed, so they have no speed")
        if is_scoring and split_source(spec.source) is not None:
            raise ModelInputError(f"model {spec.name}: bench speed --scoring measures models on this machine only")
        source_of(spec).check_model(spec, plan.engine)
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


def _open(spec: ModelSpec, plan: RunPlan, jobs: Sequence[Job] | None) -> Sweep:
    """A model's sweep; torch is imported only where the model is on this machine."""
    if split_source(spec.source) is not None:
        from bench.speed.served import ServedSweep

        return ServedSweep(spec, plan)
    from bench.speed.local import open_scoring, open_sweep

    return open_sweep(spec, plan) if jobs is None else open_scoring(spec, plan, jobs)


def _run_model(spec: ModelSpec, plan: RunPlan, jobs: Sequence[Job] | None, listener: Listener) -> Outcome:
    path: Path | None = None
    try:
        if work := source_of(spec).preparation(spec):
            listener.say(work)
        with closing(_open(spec, plan, jobs)) as sweep:
            header = _header(spec, sweep, plan)
            key = identity({"lane": LANE_SPEED, **sweep.identity(header["environment"])})
            path = plan.out / run_name(spec.name, LANE_SPEED, sweep.label, None, key)
            with RunFolder.open(path.parent, path.name, key, {**header, "started_at": _now()}) as folder:
                _measure_missing(f"{spec.name} · speed", sweep, header, folder, listener)
    except SteelyardError as error:
        listener.fail(f"{spec.name} · speed: {error}")
        return Outcome(spec.name, LANE_SPEED, path, error.bare())
    return Outcome(spec.name, LANE_SPEED, path)


def _header(spec: ModelSpec, sweep: Sweep, plan: RunPlan) -> dict[str, Any]:
    """What run.json holds from the start of a sitting: the sweep may be another one than the last sitting's."""
    config = {
        "models": [spec.model_dump(mode="json")],
        "engine": plan.engine.model_dump(mode="json"),
        "speed": plan.speed.model_dump(mode="json"),
        "costs": plan.costs.model_dump(mode="json"),
    }
    return {"lane": LANE_SPEED, "model": sweep.describe(), "config": config, "environment": describe_environment()}


def _measure_missing(
    title: str, sweep: Sweep, header: Mapping[str, Any], folder: RunFolder, listener: Listener
) -> None:
    """Measure what the folder does not hold yet, and finish it."""
    drop_damaged_lines(folder.path)
    done = read_points(folder.path)
    missing = [point for point in sweep.points if point.key not in done]
    if folder.is_finished and not missing:
        folder.update({"config": header["config"]})  # what it is judged by may be another
        listener.say(f"{title}: finished before, nothing to measure")
        return
    folder.go_on()
    folder.update(header)
    if missing and (cost := sweep.estimate(len(missing))):
        listener.say(f"{title}: {cost}")
    listener.start(title, "points")
    listener.plan(len(sweep.points), is_all=True)
    listener.advance(len(sweep.points) - len(missing))
    try:
        failed = list(_measure(sweep, missing, folder, listener)) if missing else []
    except SteelyardError as error:
        folder.fail(str(error))
        raise
    except Exception as problem:  # a defect, or a model's own code: it must not take the other models along
        log.exception("failed")
        folder.fail(one_line(problem))
        raise SteelyardError(one_line(problem)) from problem
    finally:
        listener.stop()
    if failed:
        folder.fail(f"not measured: {'; '.join(failed)}")
        raise SteelyardError(f"{len(failed)} of {len(sweep.points)} points were not measured: {failed[0]}")
    folder.finish([], {"num_points": len(read_points(folder.path)), "finished_at": _now()})


def _measure(sweep: Sweep, points: Sequence[Point], folder: RunFolder, listener: Listener) -> Iterator[str]:
    """Measure points, each on the disk before the next; yield why one could not be."""
    with sweep.measuring(folder) as measure:
        for point in points:
            began = time.perf_counter()
            try:
                record = measure(point)
            except NotMeasured as why:
                yield f"{point.key}: {why}"
            else:
                took_s = time.perf_counter() - began
                append_point(folder.path, {**record, "measured_at": _now(), "took_s": took_s})
            listener.advance(1)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

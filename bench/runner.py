"""A run, from plan to tables: every model of the plan on every task, each in a run folder of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Protocol

from bench.api.presets import split_source
from bench.config import EngineSpec, ModelSpec, RunPlan, TaskSpec
from bench.engine.pipeline import Progress
from bench.errors import DataMissingError, ModelInputError, SteelyardError, one_line
from bench.model import Model
from bench.runs.folder import RunFolder, RunShare
from bench.runs.names import identity, run_name
from bench.sources import source_of
from bench.tasks.job import Job
from bench.tasks.prepare import prepare_job
from bench.team import ALONE, Team
from bench.telemetry.machine import describe_environment

log = logging.getLogger(__name__)

LOG_FILE = "run.log"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one model on one task.

    Attributes:
        path: its run folder; None if it never got one.
        error: why it is not finished; None if it is.
        num_failed: samples that have no score although the run is finished; the next command tries them again.
    """

    model: str
    task: str
    path: Path | None
    error: SteelyardError | None = None
    num_failed: int = 0


class Listener(Progress, Protocol):
    """What wants to know how a run goes; the command line prints it."""

    def say(self, text: str) -> None:
        """Something worth a line."""

    def fail(self, text: str) -> None:
        """Something that went wrong, and what it was."""

    def start(self, title: str, unit: str) -> None:
        """A run starts, whose progress is told in `unit`."""

    def stop(self) -> None:
        """The run has ended."""


class Silence:
    """A listener that keeps it to itself: one of several processes speaks for all."""

    def say(self, text: str) -> None:
        """Do nothing, as the others."""

    fail = say

    def start(self, title: str, unit: str) -> None:
        """Do nothing."""

    def plan(self, num_tokens: int, *, is_all: bool) -> None:
        """Do nothing."""

    def advance(self, num_tokens: int) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class _Command:
    """What a command is about, in each of its processes."""

    plan: RunPlan
    listener: Listener
    team: Team


def run_plan(plan: RunPlan, listener: Listener) -> list[Outcome]:
    """Run every model of a plan on every task; a model that fails does not stop the others.

    Args:
        plan: the plan.
        listener: hears how it goes; where several processes share the work it goes, pickled, to the first of them.

    Raises:
        InputError: something in the plan, a task, its rows or a model is wrong; nothing was run. What can only be
            told of a model once it has been fetched is an outcome.
        RankLostError: one of several processes has ended. Models that were still to come have not been run.
    """
    outcomes: list[Outcome] = []
    teams = [(source_of(spec).num_processes(spec, plan.engine), spec.parallel == "tensor") for spec in plan.models]
    for (size, is_lockstep), group in groupby(zip(teams, plan.models, strict=True), key=lambda pair: pair[0]):
        models = tuple(spec for _, spec in group)
        if size == 1:
            outcomes += _run_models(_Command(plan, listener, ALONE), models)
        else:
            from bench.launch import launch  # with torch, which a plan of APIs can do without

            outcomes += launch(size, _run_rank, plan, listener, models, is_lockstep=is_lockstep)
    return outcomes


def _run_rank(team: Team, plan: RunPlan, listener: Listener, models: Sequence[ModelSpec]) -> list[Outcome]:
    """What each of several processes does."""
    return _run_models(_Command(plan, listener if team.is_first else Silence(), team), models)


def _run_models(command: _Command, models: Sequence[ModelSpec]) -> list[Outcome]:
    """Check all of the plan, then run some of its models."""
    jobs = command.team.agree(lambda: prepare_jobs(command.plan, command.listener))
    return [outcome for spec in models for outcome in _run_model(spec, jobs, command)]


def prepare_jobs(plan: RunPlan, listener: Listener) -> list[Job]:
    """Check a plan's models as far as that can be done at once, and get its tasks ready.

    Raises:
        InputError: something in the plan, a task, its rows or a model is wrong.
    """
    for model in plan.models:
        source_of(model).check_model(model, plan.engine)
    jobs = []
    for spec in plan.tasks:
        try:
            jobs.append(prepare_job(spec))
        except DataMissingError as error:
            if not spec.skip_if_missing:
                raise
            log.info("%s", error)
            listener.say(f"skipped {spec.task}, whose rows are not at hand: {error.advice}")
    return jobs


def open_model(spec: ModelSpec, engine: EngineSpec, listener: Listener, team: Team = ALONE) -> Model:
    """Find, fetch or convert a model.

    Raises:
        SteelyardError: the model cannot be had; whatever went wrong, in one line.
    """
    source = source_of(spec)
    if work := source.preparation(spec):
        listener.say(work)
    return source.open_model(spec, engine, team)


def _run_model(spec: ModelSpec, jobs: Sequence[Job], command: _Command) -> list[Outcome]:
    """Run one model on every task; when this returns, the model's memory is free again."""
    if not jobs:
        return []
    listener, team = command.listener, command.team
    try:
        model = team.in_turn(partial(open_model, spec, command.plan.engine, listener, team))
    except SteelyardError as error:
        listener.fail(str(error))
        return [Outcome(spec.name, job.name, None, error.bare()) for job in jobs]
    try:
        return [_run_job(model, job, command) for job in jobs]
    finally:
        model.close()


def _run_job(model: Model, job: Job, command: _Command) -> Outcome:
    """Run one model on one task, continuing what an earlier command began."""
    path: Path | None = None
    listener = command.listener
    title = f"{model.spec.name} · {job.title}"
    try:
        if reason := model.refusal(job):
            raise ModelInputError(f"model {model.spec.name}: {reason}")
        key = run_identity(model, job)
        name = run_name(model.spec.name, job.name, job.spec.scoring, job.spec.num_fewshot, key)
        path = command.plan.out / name
        header = {
            "model": model.describe(),
            "task": job.describe(),
            "lane": job.lane,
            "likelihood": model.describe_likelihood(job),
            "config": _part_of_plan(command.plan, model.spec, job.spec),
            "started_at": _now(),
        }
        with command.team.in_turn(partial(_open_folder, path, key, header, command.team)) as folder:
            if folder.is_finished and not folder.failed:
                listener.say(f"{title}: finished before, nothing to score")
            else:
                if estimate := model.estimate(job):
                    listener.say(f"{title}: {estimate}")
                _score_job(model, job, folder, command)
            failed = list(folder.failed.values())
    except SteelyardError as error:
        listener.fail(f"{title}: {error}")
        return Outcome(model.spec.name, job.name, path, error.bare())
    if failed:
        listener.fail(f"{title}: {len(failed)} of {len(job.samples)} samples have no score: {failed[0].error}")
    return Outcome(model.spec.name, job.name, path, num_failed=len(failed))


def _open_folder(path: Path, key: str, header: Mapping[str, object], team: Team) -> RunShare:
    """Open the run folder, or take part in it where rank 0 has; only what a rank scores by itself is journaled."""
    if team.is_first:
        return RunFolder.open(path.parent, path.name, key, header)
    return RunShare.join(path, None if team.is_lockstep else team.rank)


def _score_job(model: Model, job: Job, folder: RunShare, command: _Command) -> None:
    """Score what a run folder does not hold yet; why that failed, if it did, is on record there."""
    listener, team = command.listener, command.team
    with _log_to(folder.path / LOG_FILE, team):
        listener.start(f"{model.spec.name} · {job.title}", _unit(model, job))
        try:
            team.agree(lambda: folder.update({"environment": describe_environment()}))
            model.score(job, folder, listener, team)
        except SteelyardError as error:
            log.error("failed: %s", error)
            folder.fail(str(error))
            raise
        except Exception as problem:  # a defect, or a model's own code: it must not take the other runs along
            log.exception("failed")
            reason = one_line(problem)
            folder.fail(reason)
            raise SteelyardError(f"{reason} (the traceback is in {folder.path / LOG_FILE})") from problem
        finally:
            listener.stop()
    for note in folder.info.get("notes", ()):
        listener.say(f"{model.spec.name} · {job.title}: {note}")


def _unit(model: Model, job: Job) -> str:
    """What a run's progress is counted in."""
    return "tokens" if job.lane == "likelihood" and split_source(model.spec.source) is None else "samples"


def run_identity(model: Model, job: Job) -> str:
    """Hash of everything that can change an answer; change one and it is another run."""
    return identity({**job.identity(), **model.identity(job)})


def _part_of_plan(plan: RunPlan, model: ModelSpec, task: TaskSpec) -> dict[str, object]:
    """The plan of this one run, as resolved: a plan file of its own."""
    return {
        "models": [model.model_dump(mode="json")],
        "tasks": [task.model_dump(mode="json")],
        "engine": plan.engine.model_dump(mode="json"),
        "costs": plan.costs.model_dump(mode="json"),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def _log_to(path: Path, team: Team) -> Iterator[None]:
    """Write the program's log into the run folder, too."""
    handler = _RunLog(path, encoding="utf-8", delay=True)
    who = f"rank {team.rank} " if team.size > 1 else ""
    handler.setFormatter(logging.Formatter(f"%(asctime)s {who}%(levelname)s %(name)s: %(message)s"))
    logging.getLogger("bench").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("bench").removeHandler(handler)
        with suppress(OSError):
            handler.close()


class _RunLog(logging.FileHandler):
    """A log file that a full disk may cut short, since the run itself says what is wrong."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # the file is opened here
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Print nothing."""

"""A run, from plan to tables: every model of the plan on every task, each in a run folder of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from bench.config import ModelSpec, RunPlan, TaskSpec
from bench.engine.pipeline import Progress
from bench.errors import DataMissingError, SteelyardError
from bench.job import Job, prepare_job
from bench.scoring import score_samples
from bench.session import Session
from bench.store import RunFolder, identity, run_name
from bench.telemetry.machine import describe_environment

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one model on one task.

    Attributes:
        path: its run folder; None if it never got one.
        error: why it is not finished; None if it is.
    """

    model: str
    task: str
    path: Path | None
    error: SteelyardError | None = None


class Listener(Progress, Protocol):
    """What wants to know how a run goes; the command line prints it."""

    def say(self, text: str) -> None:
        """Something worth a line."""

    def start(self, title: str) -> None:
        """A run starts."""

    def stop(self) -> None:
        """The run has ended."""


def run_plan(plan: RunPlan, listener: Listener) -> list[Outcome]:
    """Run every model of a plan on every task; a model that fails does not stop the others.

    Raises:
        InputError: something in the plan, a task or its rows is wrong; nothing was run.
    """
    jobs = list(_prepare(plan.tasks, listener))
    outcomes: list[Outcome] = []
    for spec in plan.models:
        try:
            session = Session(spec, plan.engine)
        except SteelyardError as error:
            listener.say(f"{error}")
            outcomes += [Outcome(spec.name, job.task.name, None, error) for job in jobs]
            continue
        outcomes += [_run_job(session, job, plan, listener) for job in jobs]
    return outcomes


def _prepare(specs: Sequence[TaskSpec], listener: Listener) -> Iterator[Job]:
    for spec in specs:
        try:
            yield prepare_job(spec)
        except DataMissingError as error:
            if not spec.skip_if_missing:
                raise
            listener.say(f"skipped: {error}")


def _run_job(session: Session, job: Job, plan: RunPlan, listener: Listener) -> Outcome:
    """Run one model on one task, continuing what an earlier command began."""
    key = run_identity(session, job)
    name = run_name(session.spec.name, job.task.name, job.spec.scoring, job.spec.num_fewshot, key)
    path = plan.out / name
    header = {
        "model": describe_model(session),
        "task": job.describe(),
        "lane": "likelihood",
        "config": _part_of_plan(plan, session.spec, job.spec),
        "started_at": _now(),
    }
    try:
        with RunFolder.open(plan.out, name, key, header) as folder, _log_to(folder.path / "run.log"):
            if folder.is_finished and not folder.failed:
                listener.say(f"{name}: finished before, nothing to score")
                return Outcome(session.spec.name, job.task.name, path)
            folder.update({"environment": describe_environment()})
            try:
                _score_job(session, job, folder, listener)
            except SteelyardError as error:
                log.error("failed: %s", error)
                folder.fail(str(error))
                raise
            except Exception as error:  # a defect, or a model's own code: it must not take the other runs along
                log.exception("failed")
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                folder.fail(reason)
                raise SteelyardError(f"{reason} (the traceback is in {folder.path / 'run.log'})") from error
    except SteelyardError as error:
        listener.say(f"{name}: {error}")
        return Outcome(session.spec.name, job.task.name, path, error)
    return Outcome(session.spec.name, job.task.name, path)


def _score_job(session: Session, job: Job, folder: RunFolder, listener: Listener) -> None:
    listener.start(folder.path.name)
    try:
        score_samples(session, job, folder, listener)
    finally:
        listener.stop()
    for note in session.notes:
        listener.say(f"{folder.path.name}: {note}")


def run_identity(session: Session, job: Job) -> str:
    """Hash of everything that can change an answer; change one and it is another run."""
    return identity(
        {
            "model": [session.spec.source, session.files.fingerprint, session.dtype_name],
            "device": session.device.type,
            "task": [job.task.name, job.task.version, job.spec.scoring, job.form.metric],
            "data": job.dataset.checksum,
            "prompts": job.prompt_hash,
            "encoding": [session.engine.bos, session.engine.overlong, session.max_length],
            "categories": {name: list(subjects) for name, subjects in job.task.categories.items()},
            "limit": job.spec.limit,
        }
    )


def describe_model(session: Session) -> dict[str, object]:
    """The part `model` of run.json."""
    return {
        "name": session.spec.name,
        "source": session.spec.source,
        "revision": session.files.revision,
        "fingerprint": session.files.fingerprint,
        "architecture": session.config.model_type,
        "dtype": session.dtype_name,
        "num_parameters": session.num_parameters,
    }


def _part_of_plan(plan: RunPlan, model: ModelSpec, task: TaskSpec) -> dict[str, object]:
    """The plan of this one run, as resolved: a plan file of its own."""
    return {
        "models": [model.model_dump(mode="json")],
        "tasks": [task.model_dump(mode="json")],
        "engine": plan.engine.model_dump(mode="json"),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Write the program's log into the run folder, too."""
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger("bench").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("bench").removeHandler(handler)
        handler.close()

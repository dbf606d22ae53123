"""A run, from plan to tables: every model of the plan on every task, each in a run folder of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from bench.config import EngineSpec, ModelSpec, RunPlan, TaskSpec
from bench.engine.pipeline import Progress
from bench.errors import DataMissingError, ModelLoadError, SteelyardError
from bench.job import Job, prepare_job
from bench.models.files import preparation
from bench.scoring import score_samples
from bench.session import Session, check_model
from bench.store import RunFolder, identity, run_name
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

    def start(self, title: str) -> None:
        """A run starts."""

    def stop(self) -> None:
        """The run has ended."""


def run_plan(plan: RunPlan, listener: Listener) -> list[Outcome]:
    """Run every model of a plan on every task; a model that fails does not stop the others.

    Raises:
        InputError: something in the plan, a task, its rows or a model is wrong; nothing was run. What can only be
            told of a model once it has been fetched is an outcome.
    """
    jobs = prepare_jobs(plan, listener)
    return [outcome for spec in plan.models for outcome in _run_model(spec, jobs, plan, listener)]


def prepare_jobs(plan: RunPlan, listener: Listener) -> list[Job]:
    """Check a plan's models as far as that can be done at once, and get its tasks ready.

    Raises:
        InputError: something in the plan, a task, its rows or a model is wrong.
    """
    for model in plan.models:
        check_model(model, plan.engine)
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


def open_session(spec: ModelSpec, engine: EngineSpec, listener: Listener) -> Session:
    """Find, fetch or convert a model's files.

    Raises:
        SteelyardError: the model cannot be had; whatever went wrong, in one line.
    """
    if work := preparation(spec):
        listener.say(work)
    try:
        session = Session(spec, engine)
        session.prepare()
        return session
    except SteelyardError:
        raise
    except Exception as problem:  # whatever a model's configuration brings about
        raise ModelLoadError(f"model {spec.name}: {_one_line(problem)}") from problem


def _run_model(spec: ModelSpec, jobs: Sequence[Job], plan: RunPlan, listener: Listener) -> list[Outcome]:
    """Run one model on every task; when this returns, the model's memory is free again."""
    if not jobs:
        return []
    try:
        session = open_session(spec, plan.engine, listener)
    except SteelyardError as error:
        listener.fail(str(error))
        return [Outcome(spec.name, job.task.name, None, _bare(error)) for job in jobs]
    try:
        return [_run_job(session, job, plan, listener) for job in jobs]
    finally:
        session.close()


def _run_job(session: Session, job: Job, plan: RunPlan, listener: Listener) -> Outcome:
    """Run one model on one task, continuing what an earlier command began."""
    path: Path | None = None
    title = f"{session.spec.name} · {job.title}"
    try:
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
        with RunFolder.open(plan.out, name, key, header) as folder:
            if folder.is_finished and not folder.failed:
                listener.say(f"{title}: finished before, nothing to score")
            else:
                _score_job(session, job, folder, listener)
            failed = list(folder.failed.values())
    except SteelyardError as error:
        listener.fail(f"{title}: {error}")
        return Outcome(session.spec.name, job.task.name, path, _bare(error))
    if failed:
        listener.fail(f"{title}: {len(failed)} of {len(job.samples)} samples have no score: {failed[0].error}")
    return Outcome(session.spec.name, job.task.name, path, num_failed=len(failed))


def _score_job(session: Session, job: Job, folder: RunFolder, listener: Listener) -> None:
    """Score what a run folder does not hold yet; why that failed, if it did, is on record there."""
    with _log_to(folder.path / LOG_FILE):
        listener.start(f"{session.spec.name} · {job.title}")
        try:
            folder.update({"environment": describe_environment()})
            score_samples(session, job, folder, listener)
        except SteelyardError as error:
            log.error("failed: %s", error)
            folder.fail(str(error))
            raise
        except Exception as problem:  # a defect, or a model's own code: it must not take the other runs along
            log.exception("failed")
            reason = _one_line(problem)
            folder.fail(reason)
            raise SteelyardError(f"{reason} (the traceback is in {folder.path / LOG_FILE})") from problem
        finally:
            listener.stop()
    for note in folder.info["notes"]:
        listener.say(f"{session.spec.name} · {job.title}: {note}")


def _one_line(problem: Exception) -> str:
    return " ".join(f"{type(problem).__name__}: {problem}".split())


def _bare(error: SteelyardError) -> SteelyardError:
    """An error without its traceback, whose frames would keep a model and its activations in memory."""
    bare = SteelyardError(str(error))
    bare.exit_code = error.exit_code
    return bare


def run_identity(session: Session, job: Job, made_with: tuple[str, str] | None = None) -> str:
    """Hash of everything that can change an answer; change one and it is another run.

    `made_with` is the dtype and the type of device that a run was made with, if it is not the session's.
    """
    dtype, device = made_with or (session.dtype_name, session.device.type)
    adapter = None if session.adapter is None else session.adapter.fingerprint
    return identity(
        {
            "model": [session.spec.source, session.files.fingerprint, dtype, session.spec.quantization, adapter],
            "device": device,
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
        "quantization": session.precision.quantization,
        "gguf": session.files.stored,
        "adapter": None if session.adapter is None else session.adapter.describe(),
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
    handler = _RunLog(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
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

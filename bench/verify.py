"""Does a finished run hold? Everything that can be recomputed is, and a sample of it is scored again the plain way.

The plain way is transformers by itself: fp32, one request at a time, the tokenizer called on whole texts, no prefix
tree, no pack, nothing of the engine that made the numbers.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bench.config import RunPlan
from bench.engine.plain import write_alone
from bench.engine.tokenwise import cut_at
from bench.errors import RunFolderError, ScoringError, VerifyError, one_of
from bench.imports import is_imported
from bench.local_model import LocalModel, MadeWith
from bench.measures import first_highest
from bench.records import PromptedSample, Score
from bench.runs.disk import lock_folder, write_json
from bench.runs.names import RUN_FILE, SAMPLES_FILE, identity
from bench.runs.reading import Run, read_run
from bench.schema import validate
from bench.session import Session
from bench.tasks.job import Job
from bench.tasks.prepare import prepare_job

TOLERANCE = {"float32": 1e-3, "float16": 0.1, "bfloat16": 1.0}
"""Largest |difference| of a loglikelihood from fp32 that rounding explains, per continuation token, by dtype."""

_REWRITTEN = "sample {}: greedy decoding in fp32, by itself, writes something else"
_NUM_SHOWN = 3  # problems in the message; all are in run.json


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found.

    Attributes:
        likelihood: what was compared: `exact` ones, or `pll`; `completions` where text was generated.
        num_rescored: samples scored again, of `num_samples`.
        dtype: in which: `float32`, or the run's own where its weights are quantised; empty where none is.
        max_difference: largest |loglikelihood - plain fp32| of a choice.
        mean_difference: their mean.
        tolerance: what rounding explains per continuation token in the run's dtype.
        num_flips: rescored samples whose prediction, or completion, is another one in plain fp32.
        flips: their ids.
        problems: what does not hold, a line each; empty for a run that does.
    """

    likelihood: str
    num_samples: int
    num_rescored: int
    dtype: str
    max_difference: float
    mean_difference: float
    tolerance: float
    num_flips: int
    flips: tuple[str, ...]
    problems: tuple[str, ...]
    verified_at: str


def verify_run(path: Path, num_rescored: int, seed: int = 0, device: str = "auto") -> Verification:
    """Verify a finished run and write what was found into its run.json.

    Args:
        path: the run folder.
        num_rescored: how many samples to score again.
        seed: which ones are drawn.
        device: where they are scored; it need not be the run's.

    Raises:
        RunFolderError: it is not a finished run, or it is in use.
        VerifyError: its numbers do not hold.
    """
    read_run(path, with_scores=False)  # a path that is no run folder gets no lock file
    lock = lock_folder(path)
    try:
        run = read_run(path)
        found = _verify(run, num_rescored, seed, device)
        write_json(path / RUN_FILE, {**run.info, "verify": asdict(found)})
    finally:
        os.close(lock)
    if found.problems:
        shown, num_more = found.problems[:_NUM_SHOWN], len(found.problems) - _NUM_SHOWN
        more = f"; and {num_more} more, see `verify` in {RUN_FILE}" if num_more > 0 else ""
        raise VerifyError(f"{path} does not hold: {'; '.join(shown)}{more}")
    return found


def _verify(run: Run, num_rescored: int, seed: int, device: str) -> Verification:
    if (status := run.info.get("status")) != "finished":
        raise RunFolderError(f"{run.path} has status {status!r}; only a finished run can be verified")
    if is_imported(run.info):
        raise RunFolderError(f"{run.path} was imported: its model was never here, so nothing can be scored again")
    plan = validate(RunPlan, _recorded(run, "config"), RunFolderError, run.path / RUN_FILE)
    if (run.info.get("model") or {}).get("kind") == "api":
        return _verify_completions(run, prepare_job(plan.tasks[0]))
    tolerance = TOLERANCE.get(dtype := _recorded(run, "model.dtype"))
    if tolerance is None:
        raise RunFolderError(f"{run.path / RUN_FILE}: model.dtype: {dtype!r} is no dtype; {one_of(dtype, TOLERANCE)}")
    job = prepare_job(plan.tasks[0])
    is_quantised = run.info["model"].get("quantization") is not None  # its kernels may know one dtype only
    was = plan.models[0]
    parallel = "none" if was.parallel == "none" or device != "auto" else "layers"  # this is one process
    changes = {"dtype": dtype if is_quantised else "float32", "device": device, "parallel": parallel}
    model = was.model_copy(update=changes)
    session = Session(model, plan.engine.model_copy(update={"attention": "auto"}))
    changes_since = list(_changes(run, job, session))
    job = LocalModel(session).put(job)
    problems = [*run.problems, *_inconsistencies(run, job), *changes_since]
    scores = {score.id: score for score in run.scores}
    scored = [sample for sample in job.samples if (score := scores.get(sample.sample.id)) and score.error is None]
    chosen = random.Random(seed).sample(scored, min(num_rescored, len(scored)))
    if job.lane == "likelihood":
        differences, flips, far = _rescore(session, chosen, scores, tolerance)
    elif job.settings.temperature:
        chosen, differences, flips, far = [], [], [], []
    else:
        flips = _rewrite(session, job, chosen, scores)
        differences, far = [], [_REWRITTEN.format(key) for key in flips if dtype == "float32"]
    return Verification(
        likelihood=session.kind.likelihood if job.lane == "likelihood" else "completions",
        num_samples=len(job.samples),
        num_rescored=len(chosen),
        dtype=session.dtype_name,
        max_difference=max(differences, default=0.0),
        mean_difference=float(np.mean(differences)) if differences else 0.0,
        tolerance=tolerance,
        num_flips=len(flips),
        flips=tuple(flips),
        problems=(*problems, *far),
        verified_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _verify_completions(run: Run, job: Job) -> Verification:
    """What follows from the completions of a model that is not here."""
    if job.lane != "generate":
        raise RunFolderError(f"{run.path} holds an API's likelihoods: nothing of them can be recomputed here")
    return Verification(
        likelihood="completions",
        num_samples=len(job.samples),
        num_rescored=0,
        dtype="",
        max_difference=0.0,
        mean_difference=0.0,
        tolerance=0.0,
        num_flips=0,
        flips=(),
        problems=(*run.problems, *_inconsistencies(run, job), *_changes_of_task(run, job)),
        verified_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _recorded(run: Run, key_path: str) -> Any:
    """What run.json holds at a dotted path; every finished run has it."""
    value: Any = run.info
    for key in key_path.split("."):
        if not isinstance(value, dict) or key not in value:
            raise RunFolderError(f"{run.path / RUN_FILE} lacks {key_path}, which every finished run has")
        value = value[key]
    return value


def _inconsistencies(run: Run, job: Job) -> Iterator[str]:
    """What in the folder contradicts itself: scores and what follows from them."""
    samples = {sample.sample.id: sample for sample in job.samples}
    if [score.id for score in run.scores] != list(samples):
        yield "its samples are not the task's, each once, in task order"
        return
    wrong = [score for score in run.scores if job.rescore(samples[score.id], score) != score]
    for score in wrong:
        source = "loglikelihoods" if job.lane == "likelihood" else "completion"
        yield f"sample {score.id}: prediction, gold or correctness do not follow from its {source}"
    if wrong:
        return
    try:
        expected = job.summarise(run.scores)
    except ScoringError as error:
        yield str(error)
        return
    for part, values in _as_json(expected).items():
        if run.info.get(part) != values:
            yield f"`{part}` in {RUN_FILE} does not follow from {SAMPLES_FILE}"


def _changes_of_task(run: Run, job: Job) -> Iterator[str]:
    """What of the task has changed since the run was made."""
    if _recorded(run, "task.data.sha256") != job.dataset.checksum:
        yield "the task's rows are not those that were scored"
    if _recorded(run, "task.prompt_hash") != job.prompt_hash:
        yield "the task's prompts are not those that were scored"


def _changes(run: Run, job: Job, session: Session) -> Iterator[str]:
    """What has changed since the run was made."""
    yield from _changes_of_task(run, job)
    device = str(_recorded(run, "engine.device")).partition(":")[0]
    made_with = MadeWith(_recorded(run, "model.dtype"), device, run.info["model"].get("backend"))
    if _recorded(run, "model.fingerprint") != session.files.fingerprint:
        yield "the model is not the one that was scored"
    elif _recorded(run, "identity") != identity({**job.identity(), **LocalModel(session).identity(job, made_with)}):
        yield "the settings are not those of the run's identity"


def _rescore(
    session: Session, samples: Sequence[PromptedSample], scores: dict[str, Score], tolerance: float
) -> tuple[list[float], list[str], list[str]]:
    """Score samples plainly; returns all differences, the ids of flips, and what lies beyond the tolerance."""
    differences: list[float] = []
    flips: list[str] = []
    far: list[str] = []
    for sample in samples:
        score = scores[sample.sample.id]
        requests, is_cut = session.tokenize_plainly(sample.without_shots(score.num_shots_dropped))
        plain = session.kind.score_alone(session.model, requests)
        num_tokens = [len(request.targets) for request in requests]
        if sample.requests[0].is_whole:
            plain, num_tokens = [sum(plain)], [sum(num_tokens)]
        if len(plain) != len(score.loglikelihoods):
            continue  # `_inconsistencies` has said so
        own = [abs(a - b) for a, b in zip(plain, score.loglikelihoods, strict=True)]
        differences += own
        if score.prediction is not None and first_highest(plain, sample.sample.order) != score.prediction:
            flips.append(score.id)
        allowed = [tolerance * num for num in num_tokens]
        if any(difference > limit for difference, limit in zip(own, allowed, strict=True)):
            far.append(f"sample {score.id}: a loglikelihood differs from plain fp32 scoring by {max(own):.4g}")
        if score.truncated != (is_cut or score.num_shots_dropped > 0):
            far.append(f"sample {score.id}: `truncated` is not true of it")
    return differences, flips, far


def _rewrite(session: Session, job: Job, samples: Sequence[PromptedSample], scores: dict[str, Score]) -> list[str]:
    """Complete samples plainly, as many tokens as were written; returns the ids of those that come out otherwise."""
    changed = []
    for sample in samples:
        score = scores[sample.sample.id]
        assert score.completion is not None  # every score of the lane has one
        text = sample.prompt.without_shots(score.num_shots_dropped).text
        room = session.max_length - job.settings.max_tokens
        num = score.completion.num_completion_tokens or 0
        written = write_alone(session.model, session.tokenizer, session.rules, text, num, room)
        if cut_at(written, job.settings.stop) != score.completion.text:
            changed.append(score.id)
    return changed


def _as_json(parts: dict[str, Any]) -> dict[str, Any]:
    """Tuples as JSON reads them back."""
    if isinstance(parts, dict):
        return {key: _as_json(value) for key, value in parts.items()}
    return list(parts) if isinstance(parts, tuple) else parts

"""Does a finished run hold? Everything that can be recomputed is, and a sample of it is scored again the plain way.

The plain way is transformers by itself: fp32, one request at a time, the tokenizer called on whole texts, no prefix
tree, no pack, nothing of the engine that made the numbers.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bench.config import RunPlan
from bench.disk import lock_folder, write_json
from bench.engine.pack import TokenRequest
from bench.engine.plain import score_alone
from bench.errors import RunFolderError, VerifyError
from bench.job import Job, prepare_job
from bench.metrics import score_sample, summarise
from bench.records import Loglikelihood, PromptedSample, Score
from bench.runner import run_identity
from bench.schema import validate
from bench.session import Session
from bench.store import RUN_FILE, Run, read_run

TOLERANCE = {"float32": 1e-3, "float16": 0.1, "bfloat16": 1.0}
"""Largest |difference| of a loglikelihood from fp32 that rounding explains, per continuation token, by dtype."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found.

    Attributes:
        num_rescored: samples scored again, of `num_samples`.
        max_difference: largest |loglikelihood - plain fp32| of a choice.
        mean_difference: their mean.
        tolerance: what rounding explains per continuation token in the run's dtype.
        num_flips: rescored samples whose prediction is another one in plain fp32.
        flips: their ids.
        problems: what does not hold, a line each; empty for a run that does.
    """

    num_samples: int
    num_rescored: int
    max_difference: float
    mean_difference: float
    tolerance: float
    num_flips: int
    flips: tuple[str, ...]
    problems: tuple[str, ...]
    verified_at: str


def verify_run(path: Path, num_rescored: int, seed: int = 0) -> Verification:
    """Verify a finished run and write what was found into its run.json.

    Args:
        path: the run folder.
        num_rescored: how many samples to score again.
        seed: which ones are drawn.

    Raises:
        RunFolderError: it is not a finished run, or it is in use.
        VerifyError: its numbers do not hold.
    """
    run = read_run(path)
    if run.info.get("status") != "finished":
        raise RunFolderError(f"{path} has status {run.info.get('status')!r}; only a finished run can be verified")
    plan = validate(RunPlan, run.info["config"], RunFolderError, path / RUN_FILE)
    job = prepare_job(plan.tasks[0])
    session = Session(replace_dtype(plan, "float32"), plan.engine)
    problems = [*run.problems, *_inconsistencies(run, job), *_changes(run, job, plan)]
    scores = {score.id: score for score in run.scores}
    scored = [sample for sample in job.samples if (score := scores.get(sample.sample.id)) and score.error is None]
    chosen = random.Random(seed).sample(scored, min(num_rescored, len(scored)))
    differences, flips, far = _rescore(session, chosen, scores, TOLERANCE[run.info["model"]["dtype"]])
    verification = Verification(
        num_samples=len(job.samples),
        num_rescored=len(chosen),
        max_difference=max(differences, default=0.0),
        mean_difference=float(np.mean(differences)) if differences else 0.0,
        tolerance=TOLERANCE[run.info["model"]["dtype"]],
        num_flips=len(flips),
        flips=tuple(flips),
        problems=(*problems, *far),
        verified_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    _record(path, run, verification)
    if verification.problems:
        raise VerifyError(f"{path} does not hold: " + "; ".join(verification.problems))
    return verification


def replace_dtype(plan: RunPlan, dtype: str) -> Any:
    """The plan's model in another dtype."""
    return plan.models[0].model_copy(update={"dtype": dtype})


def _inconsistencies(run: Run, job: Job) -> Iterator[str]:
    """What in the folder contradicts itself: scores and what follows from them."""
    samples = {sample.sample.id: sample for sample in job.samples}
    if [score.id for score in run.scores] != list(samples):
        yield "its samples are not the task's, each once, in task order"
        return
    for score in run.scores:
        if score.error is None and _derived(samples[score.id], score, job.form.delimiter) != score:
            yield f"sample {score.id}: prediction, gold or correctness do not follow from its loglikelihoods"
    expected = summarise(run.scores, job.task.categories)
    for part, values in _as_json(expected).items():
        if run.info.get(part) != values:
            yield f"`{part}` in {RUN_FILE} does not follow from samples.jsonl"


def _derived(sample: PromptedSample, score: Score, delimiter: str) -> Score:
    """The score as its loglikelihoods give it; where shots were dropped, its prompt is its own."""
    outcomes = [
        Loglikelihood(value, is_greedy, 1)
        for value, is_greedy in zip(score.loglikelihoods, score.is_greedy, strict=True)
    ]
    derived = score_sample(
        sample, outcomes, delimiter=delimiter, truncated=score.truncated, num_shots_dropped=score.num_shots_dropped
    )
    return replace(derived, prompt_hash=score.prompt_hash) if score.num_shots_dropped else derived


def _changes(run: Run, job: Job, plan: RunPlan) -> Iterator[str]:
    """What has changed since the run was made."""
    recorded = run.info["task"]
    if recorded["data"]["sha256"] != job.dataset.checksum:
        yield "the task's rows are not those that were scored"
    if recorded["prompt_hash"] != job.prompt_hash:
        yield "the task's prompts are not those that were scored"
    session = Session(plan.models[0], plan.engine)
    if run.info["model"]["fingerprint"] != session.files.fingerprint:
        yield "the model is not the one that was scored"
    elif run.info["identity"] != run_identity(session, job):
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
        requests = [
            _tokenize(session, sample, request.continuation, score.num_shots_dropped) for request in sample.requests
        ]
        plain = score_alone(session.model, requests)
        own = [abs(a - b) for a, b in zip(plain, score.loglikelihoods, strict=True)]
        differences += own
        if plain.index(max(plain)) != score.prediction:
            flips.append(score.id)
        allowed = [tolerance * len(request.targets) for request in requests]
        if any(difference > limit for difference, limit in zip(own, allowed, strict=True)):
            far.append(f"sample {score.id}: a loglikelihood differs from plain fp32 scoring by {max(own):.4g}")
    return differences, flips, far


def _tokenize(session: Session, sample: PromptedSample, continuation: str, num_shots_dropped: int) -> TokenRequest:
    """Token ids by two calls of the tokenizer, as lm-evaluation-harness makes them."""
    text = sample.requests[0].prompt.without_shots(num_shots_dropped).text
    context = text.rstrip()
    tokenizer = session.tokenizer
    starts_with_bos = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    adds = session.engine.bos != "never" and not starts_with_bos
    before = tokenizer.encode(context, add_special_tokens=adds)
    after = tokenizer.encode(text + continuation, add_special_tokens=adds)[len(before) :]
    if not context:
        before = [tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id]
        after = tokenizer.encode(text + continuation, add_special_tokens=False)
    inputs = np.array((before + after)[-(session.max_length + 1) : -1], dtype=np.uint32)
    return TokenRequest(inputs, tuple(after))


def _as_json(parts: dict[str, Any]) -> dict[str, Any]:
    """Tuples as JSON reads them back."""
    if isinstance(parts, dict):
        return {key: _as_json(value) for key, value in parts.items()}
    return list(parts) if isinstance(parts, tuple) else parts


def _record(path: Path, run: Run, verification: Verification) -> None:
    lock = lock_folder(path)
    try:
        write_json(path / RUN_FILE, {**run.info, "verify": asdict(verification)})
    finally:
        os.close(lock)

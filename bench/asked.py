"""One sample exactly as a model is asked: its prompt, its tokens with the split, its shots and hashes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.completer import GenerationSettings
from bench.config import ModelSpec, RunPlan
from bench.errors import PlanError
from bench.records import PromptedSample
from bench.tasks.job import Job
from bench.tasks.prepare import prepare_job


@dataclass(frozen=True, slots=True)
class Tokens:
    """One request in tokens, each as its id and its text.

    Attributes:
        context: what is read.
        continuation: what is scored; empty where the model writes.
    """

    context: tuple[tuple[int, str], ...]
    continuation: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a model is asked.

    Attributes:
        title: task, form and shots.
        sample: as it is put: by a chat template, where the plan says so and a model is given.
        shots: ids of the shots.
        requests: in tokens; empty without a model.
        hashes: by what they are of.
        settings: how a completion is asked for, where the model writes.
    """

    title: str
    sample: PromptedSample
    shots: tuple[str, ...]
    requests: tuple[Tokens, ...]
    hashes: Mapping[str, str]
    settings: GenerationSettings | None = None


def ask(plan: RunPlan, sample_id: str, model: ModelSpec | None) -> Asked:
    """Work out what a model is asked.

    Args:
        plan: its first task is meant.
        sample_id: of the sample.
        model: whose tokens to show, if any.

    Raises:
        InputError: the task has no such sample; something in the plan or its rows is wrong.
        ModelLoadError: the model cannot be had.
    """
    job = prepare_job(plan.tasks[0])
    known = [sample.sample.id for sample in job.samples]
    if sample_id not in known:
        near = difflib.get_close_matches(sample_id, known, n=1) or known[:1]
        raise PlanError(f"task {job.name} has no sample {sample_id!r} among {len(known):,}; did you mean {near[0]!r}?")
    place = known.index(sample_id)
    sample = job.samples[place]
    requests: tuple[Tokens, ...] = ()
    if model is not None:
        sample, requests = _in_tokens(job, place, model, plan)
    hashes = {
        "prompt hash": sample.prompt.sha256,
        "all prompts": job.prompt_hash,
        "data": job.dataset.checksum,
    }
    settings = job.settings if job.lane == "generate" else None
    return Asked(job.title, sample, _shots_of(job, job.samples[place]), requests, hashes, settings)


def _shots_of(job: Job, sample: PromptedSample) -> tuple[str, ...]:
    own = sample.sample
    pool = [shot.id for shot in job.dataset.shots.get(own.subject, ()) if shot is not own]
    return tuple(pool[: len(sample.prompt.shots)])


def _in_tokens(job: Job, place: int, model: ModelSpec, plan: RunPlan) -> tuple[PromptedSample, tuple[Tokens, ...]]:
    from bench.engine.plain import adds_special_tokens
    from bench.local_model import open_model

    local = open_model(model, plan.engine)
    sample = local.put(job).samples[place]
    tokenizer = local.session.tokenizer

    def shown(ids: Sequence[int]) -> tuple[tuple[int, str], ...]:
        return tuple((int(one), tokenizer.decode([int(one)])) for one in ids)

    if job.lane == "generate":
        text = sample.prompt.text
        adds_special = adds_special_tokens(tokenizer, local.session.rules, text)
        return sample, (Tokens(shown(tokenizer.encode(text, add_special_tokens=adds_special)), ()),)
    found = []
    for request in local.session.tokenize_plainly(sample)[0]:
        num_context = len(request.inputs) + 1 - len(request.targets)
        found.append(Tokens(shown(request.inputs[:num_context].tolist()), shown(request.targets)))
    return sample, tuple(found)

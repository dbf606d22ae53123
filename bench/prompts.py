"""Prompts: the only place where their text is made.

Byte for byte what lm-evaluation-harness makes of the same template, from the description to the continuation; the
samples of a subject share the description's and the shots' strings, so that what is equal can be seen to be equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from bench.dataset import Dataset
from bench.errors import PlanError, TaskError
from bench.records import Prompt, PromptedSample, Request, Sample
from bench.task import Form, Task
from bench.template import compile_template


def build_prompts(task: Task, scoring: str, dataset: Dataset, num_fewshot: int) -> list[PromptedSample]:
    """Build the requests of all samples, one a choice, in the samples' order.

    The shots are the first `num_fewshot` of the sample's subject; a sample is never its own shot.

    Args:
        task: where the templates are.
        scoring: name of one of the task's forms.
        dataset: the task's samples and shots.
        num_fewshot: shots before each question.

    Raises:
        PlanError: a subject has fewer shots.
        TaskError: a template fails on a sample.
    """
    writer = _Writer(task, scoring)
    descriptions: dict[str, str] = {}
    shots: dict[str, tuple[str, ...]] = {}
    is_shot = {id(shot) for pool in dataset.shots.values() for shot in pool[:num_fewshot]}
    prompted: list[PromptedSample] = []
    for sample in dataset.samples:
        subject = sample.subject
        if subject not in descriptions:
            descriptions[subject] = writer.description(sample)
        if id(sample) in is_shot:
            own_shots = _shots(writer, dataset, sample, num_fewshot)
        else:
            if subject not in shots:
                shots[subject] = _shots(writer, dataset, sample, num_fewshot)
            own_shots = shots[subject]
        prompt = Prompt(descriptions[subject], own_shots, writer.question(sample))
        requests = tuple([Request(prompt, text) for text in writer.continuations(sample)])
        prompted.append(PromptedSample(sample, requests))
    return prompted


def prompt_hash(prompted: Iterable[PromptedSample]) -> str:
    """SHA-256 over all contexts and continuations, in order: equal if and only if every prompt is equal."""
    digest = hashlib.sha256()
    for item in prompted:
        for text in (item.requests[0].prompt.text, *(request.continuation for request in item.requests)):
            content = text.encode()
            digest.update(b"%d:" % len(content))
            digest.update(content)
        digest.update(b"\n")
    return digest.hexdigest()


def _shots(writer: _Writer, dataset: Dataset, sample: Sample, num_fewshot: int) -> tuple[str, ...]:
    if not num_fewshot:
        return ()
    others = [shot for shot in dataset.shots.get(sample.subject, ()) if shot is not sample]
    if len(others) < num_fewshot:
        whose = (
            f"subject {sample.subject!r} of task {writer.task.name}" if sample.subject else f"task {writer.task.name}"
        )
        raise PlanError(f"num_fewshot is {num_fewshot}, but {whose} has {len(others)} shots for sample {sample.id}")
    return tuple([writer.shot(shot) for shot in others[:num_fewshot]])


class _Writer:
    """Renders the templates of one form."""

    def __init__(self, task: Task, scoring: str) -> None:
        self.task = task
        self._form: Form = task.forms[scoring]
        self._where = f"{task.path}: forms.{scoring}"
        self._description = compile_template(self._form.description)
        self._question = compile_template(self._form.question)

    def description(self, sample: Sample) -> str:
        return self._description.render(subject=sample.subject)

    def question(self, sample: Sample) -> str:
        try:
            return self._question.render(sample.variables)
        except Exception as problem:  # a template is a small program and may fail in any way
            raise TaskError(
                f"{self._where}.question: fails on sample {sample.id}: {' '.join(str(problem).split())}"
            ) from None

    def continuations(self, sample: Sample) -> list[str]:
        delimiter = self._form.delimiter
        texts: Sequence[str] = sample.choices
        if self._form.continuations == "labels":
            texts = sample.variables["labels"]
        return [delimiter + text for text in texts]

    def shot(self, sample: Sample) -> str:
        return self.question(sample) + self.continuations(sample)[sample.gold] + self._form.shot_separator

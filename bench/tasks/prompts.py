"""Prompts: the only place where their text is made.

Byte for byte what lm-evaluation-harness makes of the same template, from the description to the continuation; the
samples of a subject share the description's and the shots' strings, so that what is equal can be seen to be equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

from bench.errors import PlanError, TaskError
from bench.records import Prompt, PromptedSample, Request, Sample
from bench.tasks.dataset import Dataset
from bench.tasks.form import Form
from bench.tasks.task import Task
from bench.tasks.template import compile_template, template_variables


def build_prompts(
    task: Task, scoring: str, dataset: Dataset, num_fewshot: int, system_prompt: str | None = None
) -> list[PromptedSample]:
    """Build the requests of all samples, one a choice, in the samples' order.

    The shots are the first `num_fewshot` of the sample's subject; a sample is never its own shot.

    Args:
        task: where the templates are.
        scoring: name of one of the task's forms.
        dataset: the task's samples and shots.
        num_fewshot: shots before each question.
        system_prompt: stands before the description.

    Raises:
        PlanError: a subject has fewer shots.
        TaskError: a template fails on a sample.
    """
    writer = _Writer(task, scoring)
    descriptions: dict[str, str] = {}
    shots: dict[str, _Shots] = {}
    is_shot = {id(shot) for pool in dataset.shots.values() for shot in pool[:num_fewshot]}
    prompted: list[PromptedSample] = []
    for sample in dataset.samples:
        subject, shown = sample.subject, writer.shown(sample)
        text = _joined(system_prompt or "", writer.description(shown), writer.form.shot_separator)
        description = descriptions.setdefault(text, text)
        if id(sample) in is_shot:
            own_shots = _shots(writer, dataset, sample, num_fewshot)
        else:
            if subject not in shots:
                shots[subject] = _shots(writer, dataset, sample, num_fewshot)
            own_shots = shots[subject]
        build = partial(Prompt, description, own_shots.texts, turns=own_shots.turns)
        prompted.append(PromptedSample(shown, writer.requests(shown, build)))
    return prompted


def prompt_hash(prompted: Iterable[PromptedSample]) -> str:
    """SHA-256 over all contexts and continuations, in order: equal if and only if every prompt is equal."""
    digest = hashlib.sha256()
    for item in prompted:
        contexts = dict.fromkeys(request.prompt.text for request in item.requests)
        for text in (*contexts, *(request.continuation for request in item.requests)):
            content = text.encode()
            digest.update(b"%d:" % len(content))
            digest.update(content)
        digest.update(b"\n")
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Shots:
    """A sample's shots as text, and as turns of a conversation."""

    texts: tuple[str, ...] = ()
    turns: tuple[tuple[str, str], ...] = ()


def _shots(writer: _Writer, dataset: Dataset, sample: Sample, num_fewshot: int) -> _Shots:
    if not num_fewshot:
        return _Shots()
    others = [shot for shot in dataset.shots.get(sample.subject, ()) if shot is not sample]
    if len(others) < num_fewshot:
        whose = (
            f"subject {sample.subject!r} of task {writer.task.name}" if sample.subject else f"task {writer.task.name}"
        )
        raise PlanError(f"num_fewshot is {num_fewshot}, but {whose} has {len(others)} shots for sample {sample.id}")
    turns = tuple([writer.turn(writer.shown(shot)) for shot in others[:num_fewshot]])
    delimiter, separator = writer.form.delimiter, writer.form.shot_separator
    return _Shots(tuple([question + delimiter + answer + separator for question, answer in turns]), turns)


def _joined(system_prompt: str, description: str, separator: str) -> str:
    """System prompt and description, apart; as in lm-evaluation-harness, what is alone gets nothing after it."""
    if not system_prompt or not description or system_prompt[-1].isspace() or description[0].isspace():
        return system_prompt + description
    return system_prompt + separator + description


class _Writer:
    """Renders the templates of one form."""

    def __init__(self, task: Task, scoring: str) -> None:
        self.task = task
        self.form: Form = task.forms[scoring]
        self._where = f"{task.path}: forms.{scoring}"

    def shown(self, sample: Sample) -> Sample:
        """The sample with the order that its choices are shown in, and the labels that it gives them.

        The choices keep the rows' order, so that golds and predictions mean the same in all forms.
        """
        if not self.task.shuffle_choices or not self.form.asks_for_label:
            return sample
        order = _drawn_order(sample)
        labels = dict(zip(order, sample.variables["labels"], strict=True))
        own = {**sample.variables, "labels": tuple([labels[i] for i in sorted(labels)])}
        return replace(sample, variables=own, order=order)

    def description(self, sample: Sample) -> str:
        return self._render("description", self.form.description, sample)

    def requests(self, sample: Sample, build: Callable[[str], Prompt]) -> tuple[Request, ...]:
        """What the model is asked; `build` makes a prompt of a question."""
        if self.form.has_choice_in_context:
            ending = self.form.delimiter + self._continuation(sample)
            return tuple([Request(build(self._question(sample, choice)), ending) for choice in sample.choices])
        prompt = build(self._question(sample))
        if self.form.generate is not None:
            return (Request(prompt, ""),)
        is_whole = self.form.continuation is not None and not self.form.question and not prompt.text
        texts = [self.form.delimiter + text for text in self._continuations(sample)]
        return tuple([Request(prompt, text, is_whole) for text in texts])

    def turn(self, shot: Sample) -> tuple[str, str]:
        """A shot's question and its answer."""
        if self.form.has_choice_in_context:
            question = self._question(shot, shot.choices[shot.golds[0]])
            return question, self._continuation(shot)
        return self._question(shot), self._answer(shot)

    def _answer(self, shot: Sample) -> str:
        if self.form.answer is not None:
            return self._render("answer", self.form.answer, shot)
        if self.form.generate is not None:
            return (shot.references or (shot.variables["labels"][shot.golds[0]],))[0]
        return self._continuations(shot)[shot.golds[0] if shot.golds else 0]

    def _question(self, sample: Sample, choice: str | None = None) -> str:
        more = {} if choice is None else {"choice": choice}
        return self._render("question", self.form.question, sample, more)

    def _continuation(self, sample: Sample) -> str:
        assert self.form.continuation is not None
        return self._render("continuation", self.form.continuation, sample)

    def _continuations(self, sample: Sample) -> Sequence[str]:
        """What is scored, without what stands before it."""
        if self.form.continuation is not None:
            return [self._continuation(sample)]
        labels: Sequence[str] = sample.variables["labels"]
        return labels if self.form.continuations == "labels" else sample.choices

    def _render(self, key: str, source: str, sample: Sample, more: Mapping[str, str] = MappingProxyType({})) -> str:
        return self._filled(f"{self._where}.{key}", source, sample, {**more, **self._parts(source, sample)})

    def _parts(self, source: str, sample: Sample) -> dict[str, object]:
        """What a form's template uses of the task's own: `stem`, and `shown`, the options with their labels."""
        task, used = self.task, template_variables(source)
        parts: dict[str, object] = {}
        if task.stem is not None and "stem" in used:
            parts["stem"] = self._filled(f"{task.path}: stem", task.stem, sample, {})
        if task.stem is not None and "shown" in used:
            where, labels = f"{task.path}: option", sample.variables["labels"]
            texts = [self._filled(where, task.option, sample, {"choice": one}) for one in sample.choices]
            parts["shown"] = [(labels[index], texts[index]) for index in sample.order or range(len(texts))]
        return parts

    def _filled(self, where: str, source: str, sample: Sample, more: Mapping[str, object]) -> str:
        try:
            return compile_template(source).render({**sample.variables, **more})
        except Exception as problem:  # a template is a small program and may fail in any way
            raise TaskError(f"{where}: fails on sample {sample.id}: {' '.join(str(problem).split())}") from None


def _drawn_order(sample: Sample) -> tuple[int, ...]:
    """Indices of a sample's choices in an order drawn by its id: the same for every model, on every machine."""

    def draw(index: int) -> bytes:
        return hashlib.sha256(f"{sample.id}\n{index}".encode()).digest()

    return tuple(sorted(range(len(sample.choices)), key=draw))

"""Every task at hand, loaded and rendered whole: what `bench tasks --check` reports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bench.config import TaskSpec
from bench.errors import DataMissingError, SteelyardError
from bench.tasks.dataset import Dataset, count_samples, describe_missing, load_rows
from bench.tasks.prompts import build_prompts, prompt_hash
from bench.tasks.task import Task, load_task


@dataclass(frozen=True, slots=True)
class TaskCheck:
    """What came of loading all of a task's rows and rendering all of its forms.

    Attributes:
        name: the task's.
        num_rows: rows of its files, before `where`; None where they are not on this machine.
        num_samples: what a run scores.
        num_shots: rows that shots are taken from.
        prompt_hashes: by form.
        note: what is not as it should be, though nothing is wrong: no rows here, no shots here.
        error: the task, its rows or a template is wrong.
    """

    name: str
    num_rows: int | None = None
    num_samples: int = 0
    num_subjects: int = 0
    num_shots: int = 0
    prompt_hashes: tuple[tuple[str, str], ...] = ()
    note: str = ""
    error: SteelyardError | None = None


def check_tasks(names: Iterable[str]) -> Iterator[TaskCheck]:
    """Check tasks one after the other; only folders are looked into, nothing is fetched."""
    for name in names:
        try:
            task = load_task(name)
            num_rows = count_samples(task, is_whole=True)
            yield TaskCheck(name, note=describe_missing(task)) if num_rows is None else _check(task, num_rows)
        except SteelyardError as error:
            yield TaskCheck(name, error=error)


def _check(task: Task, num_rows: int) -> TaskCheck:
    note = ""
    try:
        dataset = load_whole(task)
    except DataMissingError as problem:  # the rows are here, so it is the shots that are not
        dataset, note = load_whole(task, has_shots=False), f"checked without shots: {problem}"
    return TaskCheck(
        name=task.name,
        num_rows=num_rows,
        num_samples=len(dataset.samples),
        num_subjects=len({sample.subject for sample in dataset.samples}),
        num_shots=len({id(shot) for pool in dataset.shots.values() for shot in pool}),
        prompt_hashes=render_forms(task, dataset, has_shots=not note),
        note=note,
    )


def load_whole(task: Task, *, has_shots: bool = True) -> Dataset:
    """Load all of a task's rows, and the shots of the form that needs the most."""
    most = max(map(task.num_fewshot_of, task.forms)) if has_shots else 0
    return load_rows(task, TaskSpec.model_validate({"task": str(task.path), "num_fewshot": most}))


def render_forms(task: Task, dataset: Dataset, *, has_shots: bool = True) -> tuple[tuple[str, str], ...]:
    """Render every sample in every form: the hash of all prompts, by form."""
    shots = {form: task.num_fewshot_of(form) if has_shots else 0 for form in task.forms}
    return tuple([(form, prompt_hash(build_prompts(task, form, dataset, num))) for form, num in shots.items()])

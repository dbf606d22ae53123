"""The task schema: one YAML file is one task, and it is data only (`tasks/README.md` documents it).

A task says where its rows are, which columns hold what (`source`), and in which forms a question may be put to a model
(`form`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, model_validator

import bench
from bench.errors import TaskError, one_of
from bench.schema import Many, StrictModel, load_yaml, validate
from bench.tasks.form import Form
from bench.tasks.source import LABELS, Columns, Files, Source, template_names
from bench.tasks.stem import stem_forms
from bench.tasks.template import expression_variables, template_variables

TASKS_DIR = Path(bench.__file__).parents[1] / "tasks"
_TRIMMED = "{{ choice | trim }}"


class Task(StrictModel):
    """One benchmark.

    Attributes:
        version: raise it when anything that changes a score changes.
        homepage: where the data comes from, for people.
        sources: tried in order.
        num_choices: every sample has as many; None: samples may differ.
        num_fewshot: how many shots, unless the plan says otherwise.
        shots_per: `subject` (each has its own) or `task` (one set for all).
        scoring: name of the default form.
        stem: template of what is asked, without the options. With it, a task has the forms of `bench.tasks.stem`, but
            for those it writes itself; these may use `stem` and `shown`: each option's label and text.
        option: template of an option, `choice`, as it is shown.
        shuffle_choices: where a label is asked for, the options are shown in an order drawn by the sample's id.
        categories: groups of subjects, averaged separately in reports.
        cluster: a column whose equal values make questions a cluster, such as the passage they are about; `bench
            compare` takes no such questions for independent.
    """

    version: Annotated[int, Field(ge=1)]
    title: str
    licence: str = ""
    homepage: str = ""
    sources: Annotated[Many[Source], Field(min_length=1)]
    num_choices: Annotated[int, Field(ge=2, le=len(LABELS))] | None = None
    num_fewshot: Annotated[int, Field(ge=0)] = 0
    shots_per: Literal["subject", "task"] = "subject"
    scoring: str
    stem: Annotated[str, Field(min_length=1)] | None = None
    option: Annotated[str, Field(min_length=1)] = _TRIMMED
    shuffle_choices: bool = False
    forms: Annotated[dict[str, Form], Field(min_length=1)]
    categories: dict[str, Many[str]] = Field(default_factory=dict)
    cluster: str | None = None
    _path: Path = PrivateAttr(default=Path())

    @property
    def path(self) -> Path:
        """The task file."""
        return self._path

    def num_fewshot_of(self, scoring: str) -> int:
        """How many shots a form has, unless the plan says otherwise."""
        own = self.forms[scoring].num_fewshot if scoring in self.forms else None
        return self.num_fewshot if own is None else own

    @property
    def name(self) -> str:
        """The task file's name without `.yaml`."""
        return self._path.stem

    @model_validator(mode="before")
    @classmethod
    def _add_forms(cls, data: Any) -> Any:
        """Those of a stem, where the file has none of their name."""
        own = data.get("forms", {}) if isinstance(data, dict) else None
        if not isinstance(own, dict) or data.get("stem") is None:
            return data
        return {**data, "forms": own | {name: form for name, form in stem_forms().items() if name not in own}}

    @model_validator(mode="after")
    def _check_stem(self) -> Task:
        if self.option != _TRIMMED and self.stem is None:
            raise ValueError("`option` goes with `stem`")
        if self.shuffle_choices and not any(form.asks_for_label for form in self.forms.values()):
            raise ValueError("shuffle_choices: none of the forms asks for a label")
        for number, source in enumerate(self.sources):
            if self.stem is not None and source.columns.choices is None:
                raise ValueError(f"sources[{number}]: has no `columns.choices`, which `stem` needs")
        return self

    @model_validator(mode="after")
    def _check(self) -> Task:
        if self.scoring not in self.forms:
            raise ValueError(f"scoring: {self.scoring!r} is not one of the forms; {one_of(self.scoring, self.forms)}")
        listed = Counter(subject for subjects in self.categories.values() for subject in subjects)
        if twice := [subject for subject, count in listed.items() if count > 1]:
            raise ValueError(f"categories: {twice[0]!r} is listed twice")
        for number, source in enumerate(self.sources):
            for name, form in self.forms.items():
                if form.needs_choices and source.columns.choices is None:
                    raise ValueError(f"sources[{number}]: has no `columns.choices`, which form {name!r} needs")
            if (most := max(map(self.num_fewshot_of, self.forms))) and source.shots is None:
                raise ValueError(f"sources[{number}]: has no `shots`, but num_fewshot is {most}")
            if source.shots and self.shots_per == "subject" and _is_split(source.test) != _is_split(source.shots):
                raise ValueError(
                    f"sources[{number}]: `test` and `shots` need {{subject}} both, unless shots_per is task"
                )
        return self


def _is_split(files: Files) -> bool:
    return "{subject}" in files.file


def find_task(name: str) -> Path:
    """Return the file of a task: a path if `name` has a slash or ends in `.yaml`, else one of the project's tasks.

    Raises:
        TaskError: there is none of this name.
    """
    if "/" in name or name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise TaskError(f"no task file {name!r}")
        return path
    path = TASKS_DIR / f"{name}.yaml"
    if not path.is_file():
        raise TaskError(f"unknown task {name!r}; {one_of(name, task_names())}, or a path to a task file")
    return path


def task_names() -> list[str]:
    """Names of the project's own tasks."""
    return sorted(path.stem for path in TASKS_DIR.glob("*.yaml"))


def load_task(name: str) -> Task:
    """Load the task `name`, a name or a path as in `find_task`, and check its templates as far as columns are known.

    Raises:
        TaskError: no such task, or a mistake in its file.
    """
    path = find_task(name)
    task = validate(Task, load_yaml(path, TaskError), TaskError, path)
    task._path = path
    check_templates(task, None)
    for number, source in enumerate(task.sources):
        _check_source(task, f"sources[{number}]", source)
    return task


def _check_source(task: Task, where: str, source: Source) -> None:
    """Check what can be without reading rows: expressions, and columns where the file says which there are."""
    beside = {**source.test.beside, **(source.shots.beside if source.shots else {})}
    known = None if source.header is None else {*source.header, *beside, "subject"}
    for key, files in (("test", source.test), ("shots", source.shots)):
        if files is not None and files.each is not None:
            _check_expression(f"{task.path}: {where}.{key}.each", files.each)
            known = None  # its items may have any columns
    for name, expression in source.compute.items():
        used = _check_expression(f"{task.path}: {where}.compute.{name}", expression)
        if known is not None:
            if unknown := used - known:
                wrong = f"unknown column {min(unknown)!r}; {one_of(min(unknown), known)}"
                raise TaskError(f"{task.path}: {where}.compute.{name}: {wrong}")
            known.add(name)
    if known is not None:
        _check_header(task, known, source.columns)
        check_templates(task, template_names(known, source.columns))


def _check_expression(where: str, expression: str) -> frozenset[str]:
    try:
        return expression_variables(expression)
    except ValueError as problem:
        raise TaskError(f"{where}: {problem}") from None


def list_tasks() -> list[Task]:
    """Load all of the project's own tasks, in the order of their names."""
    return [load_task(name) for name in task_names()]


def check_templates(task: Task, names: set[str] | None) -> None:
    """Check all templates of a task against the variables they may use (None: not known yet, syntax only).

    Raises:
        TaskError: names the file, the key and the nearest valid variable.
    """
    parts = {"stem": (task.stem, names), "option": (task.option, _and(names, "choice"))}
    for key, (source, allowed) in parts.items():
        if source is not None:
            _check_template(f"{task.path}: {key}", source, allowed)
    usable = names if task.stem is None else _and(names, "stem", "shown")
    for name, form in task.forms.items():
        templates = {
            "description": (form.description, usable),
            "question": (form.question, usable if form.continuation is None else _and(usable, "choice")),
            "continuation": (form.continuation, usable),
            "answer": (form.answer, usable),
            "program": (form.program, _and(names, "completion")),
        }
        for key, (source, allowed) in templates.items():
            if source is not None:
                _check_template(f"{task.path}: forms.{name}.{key}", source, allowed)


def _and(names: set[str] | None, *more: str) -> set[str] | None:
    return None if names is None else {*names, *more}


def _check_template(where: str, source: str, names: set[str] | None) -> None:
    try:
        used = template_variables(source)
    except ValueError as problem:
        raise TaskError(f"{where}: {problem}") from None
    if names is not None and (unknown := used - names):
        raise TaskError(f"{where}: unknown variable {min(unknown)!r}; {one_of(min(unknown), names)}")


def _check_header(task: Task, header: Iterable[str], spec: Columns) -> None:
    """A column the header does not list would otherwise come up only when rows are read."""
    known = list(header)
    choices = [spec.choices] if isinstance(spec.choices, str) else spec.choices or ()
    gold = spec.gold.column if spec.gold else None
    wanted = [spec.question, *choices, gold, spec.references, spec.subject, spec.id]
    for column in wanted:
        if column is not None and column not in known:
            raise TaskError(f"{task.path}: columns: {column!r} is not in `header`; {one_of(column, known)}")

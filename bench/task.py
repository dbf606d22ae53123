"""The task schema: one YAML file is one task, and it is data only (`tasks/README.md` documents it).

A task says where its rows are, which columns hold what, and in which forms a question may be put to a model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, model_validator

import bench
from bench.errors import TaskError, one_of
from bench.schema import Many, StrictModel, load_yaml, validate
from bench.template import template_variables

TASKS_DIR = Path(bench.__file__).parents[1] / "tasks"
LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
NORMALISED = (
    "question",
    "choices",
    "labels",
    "subject",
)  # template variables that every task has, whatever its columns


def _as_files(value: object) -> object:
    return {"file": value} if isinstance(value, str) else value


def _as_column_or_columns(value: object) -> object:
    columns = [value] if isinstance(value, str) else value
    if isinstance(columns, list) and columns and all(isinstance(column, str) for column in columns):
        return value
    raise ValueError(f"must be one column's name (of a list) or a list of columns' names, not {value!r}")


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


class Files(StrictModel):
    """Which files, and which of their rows.

    Attributes:
        file: path below the source's folder; `*` and `?` match any name, `{subject}` too, and names the subject.
        where: keep the rows whose columns hold these values.
    """

    file: str
    where: dict[str, Annotated[str, BeforeValidator(_as_text)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Files:
        if Path(self.file).is_absolute() or "**" in self.file or "[" in self.file or self.file.count("{subject}") > 1:
            raise ValueError(
                f"{self.file!r} must be a path below the source's `folder`, "
                "with no other wildcards than `*`, `?` and one `{subject}`"
            )
        return self


class Gold(StrictModel):
    """Where the right choice stands, and how it is written.

    Attributes:
        column: the column's name.
        kind: key `as`: `letter` (A is the first choice), `index` (0 is), `number` (1 is) or `text` (the choice's text).
    """

    column: str
    kind: Literal["letter", "index", "number", "text"] = Field(alias="as")


class Columns(StrictModel):
    """Which column holds what. A dot reaches into a nested value: `choices.text`.

    Attributes:
        choices: one column for each choice, or one column that holds the list.
        id: unique in the task; without it, samples are called `<subject>/<index>`.
    """

    question: str
    choices: Annotated[str | Many[str], BeforeValidator(_as_column_or_columns)]
    gold: Gold
    subject: str | None = None
    id: str | None = None


FilesKey = Annotated[Files, BeforeValidator(_as_files)]


class Source(StrictModel):
    """One place the rows may come from: a folder, or a hub data set at a pinned commit.

    Attributes:
        folder: relative to the task file; `${NAME}` stands for an environment variable.
        hub: a data set's name on the Hugging Face hub; its files are read as a folder's are.
        revision: the hub data set's commit.
        header: the columns' names, for CSV and TSV files that have no header line.
    """

    folder: str = "."
    hub: str | None = None
    revision: Annotated[str, Field(pattern="^[0-9a-f]{40}$")] | None = None
    test: FilesKey
    shots: FilesKey | None = None
    header: Many[str] | None = None
    columns: Columns

    @model_validator(mode="after")
    def _check(self) -> Source:
        if (self.hub is None) != (self.revision is None):
            raise ValueError("`hub` and `revision` (a commit's 40 hexadecimal digits) go together")
        if self.hub is not None and "folder" in self.model_fields_set:
            raise ValueError("has both `folder` and `hub`; make two sources of it")
        if self.columns.subject is not None and "{subject}" in self.test.file:
            raise ValueError("names the subject twice: by `columns.subject` and by `{subject}` in `test`")
        return self


class Form(StrictModel):
    """One way of putting a question to a model: all text of its prompts.

    A context is the description, then the shots, then the question. A shot is its question, `delimiter`, the right
    continuation and `shot_separator`. What is scored is `delimiter` and a continuation.

    Attributes:
        description: template over `subject`, once before everything.
        question: template over the row's columns and `question`, `choices`, `labels`, `subject`.
        continuations: `labels` (A, B, ...) or `choices` (the choices' own texts).
        metric: the form's headline metric.
    """

    description: str = ""
    question: str
    continuations: Literal["labels", "choices"]
    delimiter: str = " "
    shot_separator: str = "\n\n"
    metric: Literal["acc", "acc_norm"] = "acc"


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
        categories: groups of subjects, averaged separately in reports.
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
    forms: Annotated[dict[str, Form], Field(min_length=1)]
    categories: dict[str, Many[str]] = Field(default_factory=dict)
    _path: Path = PrivateAttr(default=Path())

    @property
    def path(self) -> Path:
        """The task file."""
        return self._path

    @property
    def name(self) -> str:
        """The task file's name without `.yaml`."""
        return self._path.stem

    @model_validator(mode="after")
    def _check(self) -> Task:
        if self.scoring not in self.forms:
            raise ValueError(f"scoring: {self.scoring!r} is not one of the forms; {one_of(self.scoring, self.forms)}")
        listed = Counter(subject for subjects in self.categories.values() for subject in subjects)
        if twice := [subject for subject, count in listed.items() if count > 1]:
            raise ValueError(f"categories: {twice[0]!r} is listed twice")
        for number, source in enumerate(self.sources):
            if self.num_fewshot and source.shots is None:
                raise ValueError(f"sources[{number}]: has no `shots`, but num_fewshot is {self.num_fewshot}")
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
    for source in task.sources:
        if source.header is not None:
            _check_header(task, source.header, source.columns)
            check_templates(task, template_names(source.header, source.columns))
    return task


def list_tasks() -> list[Task]:
    """Load all of the project's own tasks, in the order of their names."""
    return [load_task(name) for name in task_names()]


def template_names(columns: Iterable[str], spec: Columns) -> set[str]:
    """What a question's template may use: a row's columns but the gold's, and the normalised names."""
    return {*columns, *NORMALISED} - {gold_root(spec)}


def gold_root(spec: Columns) -> str:
    """The row's column that holds the gold, whole: templates must not see it."""
    return spec.gold.column.split(".")[0] if spec.gold.column not in NORMALISED else ""


def check_templates(task: Task, names: set[str] | None) -> None:
    """Check all templates of a task against the variables they may use (None: not known yet, syntax only).

    Raises:
        TaskError: names the file, the key and the nearest valid variable.
    """
    for name, form in task.forms.items():
        _check_template(f"{task.path}: forms.{name}.description", form.description, {"subject"})
        _check_template(f"{task.path}: forms.{name}.question", form.question, names)


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
    choices = [spec.choices] if isinstance(spec.choices, str) else spec.choices
    wanted: list[Any] = [spec.question, *choices, spec.gold.column, spec.subject, spec.id]
    for column in wanted:
        if column is not None and column not in known:
            raise TaskError(f"{task.path}: columns: {column!r} is not in `header`; {one_of(column, known)}")

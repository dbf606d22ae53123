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
from bench.measures import MEASURES
from bench.records import Lane
from bench.schema import Many, StrictModel, load_yaml, validate
from bench.template import expression_variables, template_variables
from bench.writing.extract import Extraction

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
        each: expression over a row's columns that gives a list: one row is made of each item, which has the columns of
            both. An item that has no columns of its own becomes the column `item`.
        lines: further columns, each from a text file with a line for every row.
        texts: further columns, each the whole text of a file.
        where: keep the rows whose columns, computed ones too, hold these values.
    """

    file: str
    each: str | None = None
    lines: dict[str, str] = Field(default_factory=dict)
    texts: dict[str, str] = Field(default_factory=dict)
    where: dict[str, Annotated[str, BeforeValidator(_as_text)]] = Field(default_factory=dict)

    @property
    def beside(self) -> dict[str, str]:
        """The other files it takes columns from."""
        return self.lines | self.texts

    @model_validator(mode="after")
    def _check(self) -> Files:
        if Path(self.file).is_absolute() or "**" in self.file or "[" in self.file or self.file.count("{subject}") > 1:
            raise ValueError(
                f"{self.file!r} must be a path below the source's `folder`, "
                "with no other wildcards than `*`, `?` and one `{subject}`"
            )
        for path in self.beside.values():
            if set("*?[").intersection(path) or ("{subject}" in path and "{subject}" not in self.file):
                raise ValueError(f"{path!r} must be one file; it may use `{{subject}}` where `file` does")
        return self


class Gold(StrictModel):
    """Where the right choice stands, and how it is written.

    Attributes:
        column: the column's name.
        kind: key `as`: `letter` (A is the first choice), `index` (0 is), `number` (1 is), `text` (the choice's text) or
            `flags` (a list of 0 and 1, one a choice; several may be right).
    """

    column: str
    kind: Literal["letter", "index", "number", "text", "flags"] = Field(alias="as")


class Columns(StrictModel):
    """Which column holds what. A dot reaches into a nested value: `choices.text`.

    Attributes:
        question: the question's text, where the row has one.
        choices: one column for each choice, or one column that holds the list; with `gold`, or neither.
        references: the right answer's text where it is to be written: a column that holds it, or a list of them.
        id: unique in the task; without it, samples are called `<subject>/<index>`.
    """

    question: str | None = None
    choices: Annotated[str | Many[str], BeforeValidator(_as_column_or_columns)] | None = None
    gold: Gold | None = None
    references: str | None = None
    subject: str | None = None
    id: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Columns:
        if (self.choices is None) != (self.gold is None):
            raise ValueError("`choices` and `gold` go together")
        return self


FilesKey = Annotated[Files, BeforeValidator(_as_files)]


class Source(StrictModel):
    """One place the rows may come from: a folder, or a hub data set at a pinned commit.

    Attributes:
        folder: relative to the task file; `${NAME}` stands for an environment variable, `${NAME:-other}` for it or,
            where it is not set, for something else.
        hub: a data set's name on the Hugging Face hub; its files are read as a folder's are.
        revision: the hub data set's commit.
        format: of files whose suffix does not say it, as the suffix would: `csv`, `tsv`, `jsonl`, `json`, `txt`.
        header: the columns' names, for CSV and TSV files that have no header line.
        compute: further columns, each an expression over the row's columns and those before it.
    """

    folder: str = "."
    hub: str | None = None
    revision: Annotated[str, Field(pattern="^[0-9a-f]{40}$")] | None = None
    test: FilesKey
    shots: FilesKey | None = None
    format: Literal["csv", "tsv", "jsonl", "json", "txt"] | None = None
    header: Many[str] | None = None
    compute: dict[str, str] = Field(default_factory=dict)
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


class Generate(StrictModel):
    """How a completion is asked for.

    Attributes:
        max_tokens: it is cut off after so many.
        stop: texts that end it; they are not part of it.
        temperature: 0: greedy, the most probable token each time.
    """

    max_tokens: Annotated[int, Field(ge=1)]
    stop: Many[Annotated[str, Field(min_length=1)]] = ()
    temperature: Annotated[float, Field(ge=0)] = 0.0


_WHOLE = Extraction.model_validate("text")


class Form(StrictModel):
    """One way of putting a question to a model: all text of its prompts.

    A context is the description, then the shots, then the question. A shot is its question, `delimiter`, the right
    answer and `shot_separator`. What is scored is `delimiter` and a continuation, or what the model writes.

    Exactly one of `continuations`, `continuation` and `generate` says what the model is asked.

    Attributes:
        description: template over the same as `question`, once before everything.
        question: template over the row's columns and `question`, `choices`, `labels`, `subject`.
        continuations: the likelihoods of `labels` (A, B, ...) or of `choices` (the choices' own texts).
        continuation: a template; the likelihood of one text. `question` may use `choice`: then each choice has a
            context of its own, before the same continuation. With an empty `question`, the likelihood of a whole
            text, in windows where it is longer than the model's context.
        generate: the model is to write the answer.
        extract: how the answer is read from what the model wrote; by default all of it is the answer.
        program: template of a Python program over the question's variables and `completion`, the answer; it is run, and
            right if it ends without an error (`pass_at_1`).
        answer: template of what a shot shows as its answer where that is not one of the continuations.
        metrics: what is reported; by default what follows from what is asked.
        metric: the headline metric; by default the first.
        num_fewshot: how many shots, where this form needs another number than the task's others.
    """

    description: str = ""
    question: str
    continuations: Literal["labels", "choices"] | None = None
    continuation: str | None = None
    generate: Generate | None = None
    extract: Extraction | None = None
    program: str | None = None
    answer: str | None = None
    delimiter: str = " "
    shot_separator: str = "\n\n"
    metrics: Annotated[Many[str], Field(min_length=1)] = ()
    metric: str = ""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None

    @property
    def lane(self) -> Lane:
        """What the model is asked for."""
        return "likelihood" if self.generate is None else "generate"

    @property
    def extraction(self) -> Extraction:
        """How the answer is read."""
        return self.extract or _WHOLE

    @property
    def has_choice_in_context(self) -> bool:
        """Whether each choice has a context of its own."""
        return self.continuation is not None and _uses_choice(self.question)

    @property
    def needs_choices(self) -> bool:
        """Whether rows without choices cannot be put this way."""
        return (
            self.continuations is not None
            or self.has_choice_in_context
            or (self.extract is not None and self.extract.how == "letter")
        )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        """What is reported, unless the file says it."""
        if not isinstance(data, dict):
            return data
        metrics = data.get("metrics", _usual_metrics(data))
        first = metrics[0] if isinstance(metrics, list) and metrics else ""
        return {"metric": first, **data, "metrics": metrics}

    @model_validator(mode="after")
    def _check(self) -> Form:
        asked = [key for key in ("continuations", "continuation", "generate") if getattr(self, key) is not None]
        if len(asked) != 1:
            raise ValueError(
                f"has {' and '.join(asked) if asked else 'none'} of `continuations`, `continuation` and `generate`; "
                "exactly one says what the model is asked"
            )
        if self.extract is not None and self.generate is None:
            raise ValueError("`extract` goes with `generate`: there is no completion to read")
        allowed = [name for name, measure in MEASURES.items() if self.lane in measure.lanes]
        for name in self.metrics:
            if name not in allowed:
                raise ValueError(f"metrics: {name!r} is no metric of lane {self.lane}; {one_of(name, allowed)}")
        if twice := [name for name, num in Counter(self.metrics).items() if num > 1]:
            raise ValueError(f"metrics: {twice[0]!r} is listed twice")
        if (self.program is not None) != ("pass_at_1" in self.metrics) or (self.program and not self.generate):
            raise ValueError("`program` goes with `generate` and the metric `pass_at_1`, and that with it")
        if "acc" in self.metrics and self.generate is not None and self.extraction.how != "letter":
            raise ValueError("metrics: 'acc' is of options; with `generate` it needs `extract: letter`")
        if self.metric not in self.metrics:
            raise ValueError(f"metric: {self.metric!r} is not among its metrics; {one_of(self.metric, self.metrics)}")
        return self


def _usual_metrics(form: dict[str, Any]) -> list[str]:
    """What a form reports unless it says so itself."""
    if "generate" in form and "program" in form:
        return ["pass_at_1"]
    if "generate" in form:
        return ["acc"] if form.get("extract") in ("letter", {"as": "letter"}) else ["exact_match"]
    if "continuations" in form:
        return ["acc", "acc_norm"]
    if not form.get("question"):
        return ["word_perplexity", "byte_perplexity", "bits_per_byte"]
    return ["acc"] if _uses_choice(form["question"]) else ["acc", "perplexity"]


def _uses_choice(question: object) -> bool:
    try:
        return isinstance(question, str) and "choice" in template_variables(question)
    except ValueError:  # `check_templates` says what is wrong with it
        return False


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


def template_names(columns: Iterable[str], spec: Columns) -> set[str]:
    """What a question's template may use: a row's columns but the gold's, and the normalised names."""
    absent = {"question"} if spec.question is None else set()
    absent |= {"choices", "labels"} if spec.choices is None else set()
    return {*columns, *(name for name in NORMALISED if name not in absent)} - {gold_root(spec)}


def gold_root(spec: Columns) -> str:
    """The row's column that holds the gold, whole: templates must not see it."""
    if spec.gold is None or spec.gold.column in NORMALISED:
        return ""
    return spec.gold.column.split(".")[0]


def check_templates(task: Task, names: set[str] | None) -> None:
    """Check all templates of a task against the variables they may use (None: not known yet, syntax only).

    Raises:
        TaskError: names the file, the key and the nearest valid variable.
    """
    for name, form in task.forms.items():
        own = names if names is None or form.continuation is None else {*names, "choice"}
        templates = {
            "description": form.description,
            "question": form.question,
            "continuation": form.continuation,
            "answer": form.answer,
            "program": form.program,
        }
        further = {"question": own, "program": None if names is None else {*names, "completion"}}
        for key, source in templates.items():
            if source is not None:
                _check_template(f"{task.path}: forms.{name}.{key}", source, further.get(key, names))


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

"""Where a task's rows are and which columns hold what: the part `sources` of a task file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from bench.schema import Many, StrictModel

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

"""A task's rows as samples: chosen source, checked rows, shots by subject, and a checksum for the run's provenance."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.config import TaskSpec
from bench.errors import DataError, DataMissingError, PlanError, one_of
from bench.records import Sample
from bench.tasks.columns import count_rows, count_stored, load_columns, load_stored
from bench.tasks.rows import Row, expand_folder, fetch_hub_folder, find_files
from bench.tasks.shots import order_shots
from bench.tasks.source import LABELS, Files, Gold, Source, gold_root, template_names
from bench.tasks.task import Task, check_templates


@dataclass(frozen=True, slots=True)
class Dataset:
    """What a run scores.

    Attributes:
        samples: in the task's order, after `subjects` and `limit`.
        shots: by subject, in file order; a shot that is a sample too is the same object.
        num_available: samples before `limit`.
        checksum: SHA-256 over id, subject, question, choices and gold of samples and shots.
        origin: where the rows came from, in words.
        revision: the hub data set's commit; None for a folder.
    """

    samples: tuple[Sample, ...]
    shots: Mapping[str, tuple[Sample, ...]]
    num_available: int
    checksum: str
    origin: str
    revision: str | None

    @property
    def is_partial(self) -> bool:
        """Whether `limit` left samples out."""
        return len(self.samples) < self.num_available


@dataclass(frozen=True, slots=True)
class _Place:
    """A source of the task whose files are at hand."""

    source: Source
    folder: Path
    is_hub: bool
    labels: tuple[str, ...] = tuple(LABELS)


_Key = tuple[Path, str | None, int]  # a row's file, `each` and number


def load_rows(task: Task, use: TaskSpec) -> Dataset:
    """Load and check the rows a plan asks for.

    Raises:
        DataMissingError: the rows are not at hand; says how to get them.
        DataError: a row is wrong; names file, row and column.
        TaskError: a template uses a variable that the rows don't have.
        PlanError: a subject that the task does not have.
    """
    place = _find_place(task, use.data_dir)
    if use.labels is not None:
        place = replace(place, labels=use.labels)
    files = place.source.shots
    samples = _load_split(task, place, place.source.test, {})
    shots = _load_split(task, place, files, samples) if files and use.num_fewshot else {}
    _check_ids(task, samples.values())
    wanted = _wanted_subjects(task, samples.values(), use.subjects)
    available = [sample for sample in samples.values() if sample.subject in wanted]
    kept = tuple(available[: use.limit])
    by_subject = _shots_by_subject(task, shots.values(), dict.fromkeys(sample.subject for sample in kept))
    return Dataset(
        samples=kept,
        shots=order_shots(by_subject, use.shots, task.name),
        num_available=len(available),
        checksum=_checksum(kept, by_subject),
        origin=f"hub {place.source.hub}" if place.is_hub else f"folder {place.folder}",
        revision=place.source.revision if place.is_hub else None,
    )


def load_documents(task: Task, use: TaskSpec) -> list[tuple[Sample, Row]]:
    """Load all samples of a task, whatever `subjects` and `limit` say, each with its row as it was stored."""
    place = _find_place(task, use.data_dir)
    files = place.source.test
    samples = _load_split(task, place, files, {})
    rows = {
        (file.path, files.each, number): row
        for file in find_files(place.folder, files.file)
        for number, row in load_stored(place.folder, place.source, files, file)
    }
    return [(sample, rows[key]) for key, sample in samples.items()]


def check_at_hand(task: Task, use: TaskSpec) -> None:
    """Look for the rows a plan asks for, without reading any.

    Raises:
        DataMissingError: they are not at hand; says how to get them.
    """
    _find_place(task, use.data_dir)


def count_samples(task: Task, *, is_whole: bool = False) -> int | None:
    """Count a task's samples without checking them; None if its rows are not on this machine as files.

    With `is_whole`, also the rows that `where` leaves out.
    """
    for source in task.sources:
        try:
            folder = _folder(task, source, None) if source.hub is None else None
        except DataMissingError:
            continue
        if folder and (files := find_files(folder, source.test.file)):
            count = count_stored if is_whole else count_rows
            return sum(count(folder, source, source.test, file) for file in files)
    return None


def describe_missing(task: Task) -> str:
    """How to get the rows of a task that are not here."""
    return f"not here; {_advice(task)}"


def _find_place(task: Task, data_dir: str | None) -> _Place:
    """The first source at hand; `data_dir` stands for the folder of each of them."""
    reasons: list[str] = []
    for source in task.sources:
        try:
            folder = _folder(task, source, data_dir)
        except DataMissingError as problem:
            reasons.append(str(problem))
            continue
        if find_files(folder, source.test.file):
            return _Place(source, folder, is_hub=source.hub is not None and data_dir is None)
        reasons.append(f"no files {source.test.file} in {folder}")
        if "$" in source.folder and data_dir is None:
            break  # the variable is set, and wrong: going on to the hub would hide it
    raise DataMissingError(f"task {task.name}: rows not at hand ({'; '.join(dict.fromkeys(reasons))})", _advice(task))


def _folder(task: Task, source: Source, data_dir: str | None) -> Path:
    if data_dir is not None:
        folder = expand_folder(data_dir)
        if not folder.is_dir():
            raise DataMissingError(f"data_dir: no folder {folder}")
        return folder
    if source.hub is not None and source.revision is not None:
        patterns = [path for files in (source.test, source.shots) if files for path in _paths(files)]
        return fetch_hub_folder(source.hub, source.revision, patterns)
    return task.path.parent / expand_folder(source.folder)


def _paths(files: Files) -> list[str]:
    return [files.file, *files.beside.values()]


def _advice(task: Task) -> str:
    """How to get the rows."""
    folders = [source.folder for source in task.sources]
    found = [match for folder in folders for match in re.findall(r"\$\{(\w+)(?::-\$\{(\w+)\}/([^{}]+))?\}", folder)]
    ways = [f"set {own}" + (f" or {above} (the folder above {name})" if above else "") for own, above, name in found]
    ways.append("set data_dir for this task in the plan")
    if any(source.hub for source in task.sources):
        ways.append("go online")
    return " or ".join(ways)


def _load_split(task: Task, place: _Place, files: Files, known: Mapping[_Key, Sample]) -> dict[_Key, Sample]:
    """Samples of `files` by file and row; a row in `known` stays the same object, so that no sample is its own shot."""
    found = find_files(place.folder, files.file)
    if not found:
        raise DataMissingError(f"task {task.name}: no files {files.file} in {place.folder}", _advice(task))
    columns = place.source.columns
    samples: dict[_Key, Sample] = {}
    positions: Counter[str] = Counter()
    prefix = "" if files is place.source.test else "shots/"
    for file in found:
        for index, (number, row) in enumerate(load_columns(place.folder, place.source, files, file)):
            key = (file.path, files.each, number)
            try:
                if not index:
                    check_templates(task, template_names(row, columns))
                subject = file.subject if columns.subject is None else _text(row, columns.subject)
                position = f"{prefix}{subject}{'/' if subject else ''}{positions[subject]}"
                sample_id = position if columns.id is None else _text(row, columns.id)
                samples[key] = known.get(key) or _sample(task, place, row, subject, sample_id)
                if not index:
                    _check_cluster(task, samples[key])
            except ValueError as problem:
                raise DataError(f"{file.path}: row {number}: {problem}") from None
            positions[subject] += 1
    if not samples:
        where = ", ".join(f"{column}={value}" for column, value in files.where.items())
        raise DataError(f"{place.folder / files.file}: no rows{f' where {where}' if where else ''}")
    return samples


def _check_cluster(task: Task, sample: Sample) -> None:
    if task.cluster is not None and task.cluster not in sample.variables:
        raise ValueError(f"cluster: no column {task.cluster!r}; {one_of(task.cluster, sample.variables)}")


def _sample(task: Task, place: _Place, row: Row, subject: str, sample_id: str) -> Sample:
    """Build one sample; a `ValueError` says which column is wrong and why."""
    columns = place.source.columns
    variables: dict[str, Any] = dict(row)
    if columns.question is not None:
        variables["question"] = _text(row, columns.question)
    choices: tuple[str, ...] = ()
    golds: tuple[int, ...] = ()
    if columns.choices is not None and columns.gold is not None:
        choices = _choices(row, columns.choices)
        if not 2 <= len(choices) <= len(LABELS) or len(choices) != (task.num_choices or len(choices)):
            wanted = task.num_choices or f"2 to {len(LABELS)}"
            raise ValueError(f"column {columns.choices!r}: {len(choices)} choices; the task wants {wanted}")
        golds = _golds(_cell(row, columns.gold.column), columns.gold, choices)
        if len(choices) > len(place.labels):
            raise ValueError(f"{len(choices)} choices, but the plan has {len(place.labels)} labels")
        variables |= {"choices": choices, "labels": place.labels[: len(choices)]}
    variables["subject"] = subject
    variables.pop(gold_root(columns), None)
    references = () if columns.references is None else _references(row, columns.references)
    return Sample(sample_id, subject, choices, golds, variables, references)


def _cell(row: Row, column: str) -> Any:
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ValueError(f"no column {column!r}; {one_of(column, row)}")
        value = value[part]
    return value


def _text(row: Row, column: str) -> str:
    return _as_text(_cell(row, column), column)


def _as_text(value: Any, column: str) -> str:
    """A cell's text. Numbers have one; nulls, booleans and blanks do not."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"column {column!r}: must be text, not {value!r}")
    if not value.strip():
        raise ValueError(f"column {column!r}: is empty")
    return value


def _choices(row: Row, columns: str | tuple[str, ...]) -> tuple[str, ...]:
    if not isinstance(columns, str):
        return tuple([_text(row, column) for column in columns])
    values = _cell(row, columns)
    if not isinstance(values, list | tuple):
        raise ValueError(f"column {columns!r}: must be a list of choices, not {values!r}")
    return tuple([_as_text(value, f"{columns}[{number}]") for number, value in enumerate(values)])


def _references(row: Row, column: str) -> tuple[str, ...]:
    value = _cell(row, column)
    values = value if isinstance(value, list | tuple) else [value]
    if not values:
        raise ValueError(f"column {column!r}: is empty")
    return tuple([_as_text(value, column) for value in values])


def _golds(value: Any, spec: Gold, choices: tuple[str, ...]) -> tuple[int, ...]:
    """Indices of the right choices, written as `spec.kind` says and in no other way."""
    kind, num = spec.kind, len(choices)
    if kind == "flags":
        flags = list(value) if isinstance(value, list | tuple) else []
        if len(flags) != num or not all(flag in (0, 1) for flag in flags) or not any(flags):
            raise ValueError(f"column {spec.column!r}: must be a list of {num} flags, 0 or 1, not {value!r}")
        return tuple([index for index, flag in enumerate(flags) if flag])
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else repr(value)
    if kind == "text":
        known = list(choices)
    elif kind == "letter":
        known = list(LABELS[:num])
    else:
        known = [str(index + (kind == "number")) for index in range(num)]
    if known.count(text) != 1:
        reason = f"{value!r} is not one {kind} out of {', '.join(known)}"
        raise ValueError(f"column {spec.column!r}: {reason}")
    return (known.index(text),)


def _check_ids(task: Task, samples: Iterable[Sample]) -> None:
    counts = Counter(sample.id for sample in samples)
    if twice := next((sample_id for sample_id, count in counts.items() if count > 1), None):
        raise DataError(f"task {task.name}: the id {twice!r} is given to {counts[twice]} samples")


def _wanted_subjects(task: Task, samples: Iterable[Sample], subjects: Iterable[str] | None) -> set[str]:
    known = {sample.subject for sample in samples}
    for subject in subjects or ():
        if subject not in known:
            raise PlanError(f"task {task.name}: unknown subject {subject!r}; {one_of(subject, known)}")
    return known if subjects is None else set(subjects)


def _shots_by_subject(task: Task, shots: Iterable[Sample], subjects: Iterable[str]) -> dict[str, tuple[Sample, ...]]:
    everything = tuple(shots)
    if task.shots_per == "task":
        return dict.fromkeys(subjects, everything)
    grouped: dict[str, list[Sample]] = {subject: [] for subject in subjects}
    for shot in everything:
        if shot.subject in grouped:
            grouped[shot.subject].append(shot)
    return {subject: tuple(own) for subject, own in grouped.items()}


def _asked(sample: Sample) -> object:
    """The question, or whatever plain columns stand for one."""
    if isinstance(question := sample.variables.get("question"), str):
        return question
    return {name: value for name, value in sorted(sample.variables.items()) if isinstance(value, str | int | float)}


def _checksum(samples: Iterable[Sample], shots: Mapping[str, tuple[Sample, ...]]) -> str:
    digest = hashlib.sha256()
    for group in (samples, *shots.values()):
        for sample in group:
            content = [sample.id, sample.subject, _asked(sample), sample.choices, sample.gold]
            if sample.golds[1:] or sample.references:
                content += [sample.golds[1:], sample.references]
            digest.update(json.dumps(content).encode())
        digest.update(b"\n")  # no JSON text holds a bare newline: ends of groups cannot be confused
    return digest.hexdigest()

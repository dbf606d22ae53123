"""The tasks at hand, and what a check of one found."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from bench.report.grid import Column, draw_row, draw_rule, draw_titles, fit
from bench.report.text import Screen, count, hanging, one_line, plural
from bench.tasks.audit import Finding
from bench.tasks.checking import TaskCheck
from bench.tasks.dataset import Dataset
from bench.tasks.task import Task


def render_tasks(tasks: Sequence[tuple[Task, int | None]], screen: Screen) -> str:
    """A line for each task; the number of samples where its rows are on this machine."""
    columns, _ = fit(
        [
            Column("task", tuple(task.name for task, _ in tasks), is_number=False),
            Column("samples", tuple("not here" if num is None else count(num) for _, num in tasks)),
            Column("shots", tuple(_shots(task) for task, _ in tasks)),
            Column("scoring", tuple(", ".join(task.forms) for task, _ in tasks), is_number=False),
            Column("licence", tuple(one_line(task.licence) for task, _ in tasks), drop=1, is_number=False),
            Column("title", tuple(one_line(task.title) for task, _ in tasks), drop=2, is_number=False),
        ],
        screen.width,
    )
    return screen.render([draw_titles(columns), draw_rule(columns), *(draw_row(columns, i) for i in range(len(tasks)))])


def _shots(task: Task) -> str:
    """How many shots its forms have: once, or in the forms' order."""
    each = [count(task.num_fewshot_of(form)) for form in task.forms]
    return each[0] if len(set(each)) == 1 else ", ".join(each)


def render_checks(checks: Sequence[TaskCheck], screen: Screen) -> str:
    """What came of loading and rendering every task: a line each, then what is to be said of some."""
    here = [check for check in checks if check.num_rows is not None]
    columns, _ = fit(
        [
            Column("task", tuple(check.name for check in here), is_number=False),
            Column("rows", tuple(count(check.num_rows or 0) for check in here)),
            Column("samples", tuple(count(check.num_samples) for check in here)),
            Column("subjects", tuple(count(check.num_subjects) for check in here)),
            Column("shots", tuple(count(check.num_shots) for check in here)),
            Column(
                "prompts",
                tuple(", ".join(f"{form} {sha256[:12]}" for form, sha256 in check.prompt_hashes) for check in here),
                drop=1,
                is_number=False,
            ),
        ],
        screen.width,
    )
    lines = (
        [draw_titles(columns), draw_rule(columns), *(draw_row(columns, i) for i in range(len(here)))] if here else []
    )
    for check in checks:
        if check.error is not None:
            lines += hanging(screen, Text(f"{check.name}: ", "red"), Text(one_line(str(check.error))))
        elif check.note:
            lines += hanging(screen, Text(f"{check.name}: ", "yellow"), Text(one_line(check.note)))
    return screen.render(lines)


def render_findings(task: Task, dataset: Dataset, findings: Sequence[Finding], screen: Screen) -> str:
    """What a check of a task's rows found."""
    num_subjects = len({sample.subject for sample in dataset.samples})
    head = f"{task.name}: {plural(len(dataset.samples), 'sample')} in {plural(num_subjects, 'subject')}, "
    lines = [Text(head + (plural(len(findings), "finding") if findings else "nothing found"))]
    for finding in findings:
        ids = f" ({', '.join(finding.ids)})" if finding.ids else ""
        lines += hanging(screen, Text(f"  {finding.check}: ", "yellow"), Text(one_line(finding.message + ids)))
    return screen.render(lines)

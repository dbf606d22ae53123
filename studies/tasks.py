"""Write docs/tasks.md: every task, and whether its prompts are lm-evaluation-harness's, found out anew each time."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

from common import positive_int, run_study, table
from counterparts import COUNTERPARTS, compare_prompts

from bench.errors import DataMissingError
from bench.runs.disk import write_atomically
from bench.tasks.checking import TaskCheck, check_tasks
from bench.tasks.source import Source
from bench.tasks.task import Task, list_tasks

_PAGE = Path(__file__).resolve().parents[1] / "docs" / "tasks.md"
_HEAD = """# The tasks

Written by `studies/tasks.py` from the task files and the rows on the machine it ran on; change those, not this page.

*Samples*: what a run scores of the original files, all of whose rows were loaded and rendered; in brackets the rows
that are left out. *Source*: the folder of the original files below `STEELYARD_DATA` (or by itself in the variable in
brackets), and the hub's data set at its pinned commit, which is read when no folder is named. *Equal to lm-eval*: of
so many samples, the first of each subject, all contexts, continuations and golds were compared with those that
lm-evaluation-harness 0.4.13 makes from its own task file; so many were equal byte for byte. Which of its tasks that
is, and what differs, stands below the table.
"""


def study(options: argparse.Namespace) -> int:
    """Compare, and write the page; returns the exit code."""
    data = os.environ.get("STEELYARD_DATA")
    if not data:
        raise DataMissingError("set STEELYARD_DATA to the folder that holds the original files")
    tasks = list_tasks()
    checks = {check.name: check for check in check_tasks(task.name for task in tasks)}
    equal = {name: _equality(Path(data), name, checks, options.samples) for name in COUNTERPARTS}
    rows = [_row(task, form, checks[task.name], equal) for task in tasks for form in task.forms]
    header = "task, form, lane, samples, subjects, shots, metrics, source, licence, version, equal to lm-eval"
    notes = [f"- `{task.name}`: {_comment(task)}" for task in tasks if _comment(task)]
    lines = [_HEAD, *table(header.split(", "), rows), "", "## Prompts", "", *notes, ""]
    write_atomically(options.page, "\n".join(lines).encode())
    print(f"written: {options.page}", file=sys.stderr)
    return 0 if all(check.error is None for check in checks.values()) else 1


def _equality(data: Path, name: str, checks: dict[str, TaskCheck], num_samples: int) -> str:
    """How many of how many samples are equal."""
    print(name, file=sys.stderr, flush=True)
    check = checks[name.split(maxsplit=1)[0]]
    if check.num_rows is None:
        return "not compared: no rows here"
    found = dict(compare_prompts(data, name, num_samples, has_shots=not check.note))
    return f"{sum(found.values()):,} of {len(found):,}" + (", without shots" if check.note else "")


def _row(task: Task, form: str, check: TaskCheck, equal: dict[str, str]) -> list[object]:
    left_out = (check.num_rows or 0) - check.num_samples
    samples = "any" if check.num_rows is None else f"{check.num_samples:,}" + (f" ({left_out:,})" if left_out else "")
    how = task.forms[form]
    key = task.name if form == task.scoring else f"{task.name} {form}"
    return [
        f"`{task.name}`",
        form,
        how.lane,
        samples,
        check.num_subjects or "",
        task.num_fewshot,
        ", ".join(how.metrics),
        "; ".join(_source(source) for source in task.sources),
        task.licence,
        task.version,
        equal.get(key, "not compared here"),
    ]


def _source(source: Source) -> str:
    if source.hub is not None:
        return f"hub `{source.hub}` {str(source.revision)[:10]}"
    if match := re.fullmatch(r"\$\{(\w+):-\$\{STEELYARD_DATA\}/(.+)\}", source.folder):
        return f"`{match[2]}/` (`{match[1]}`)"
    return "in the repository"


def _comment(task: Task) -> str:
    """What the task file says of itself in its first lines."""
    found = []
    for line in task.path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        found.append(line.lstrip("# "))
    return " ".join(found)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=positive_int, default=200, metavar="N", help="of each task, to compare")
    parser.add_argument("--page", type=Path, default=_PAGE, metavar="FILE", help="the page to write")
    return run_study(study, parser)


if __name__ == "__main__":
    sys.exit(main())

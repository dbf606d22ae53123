"""Write docs/tasks.md: every task, and whether its prompts are lm-evaluation-harness's, found out anew each time."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common import model_folder, positive_int, run_study, table
from counterparts import COUNTERPARTS
from lm_eval_prompts import (
    SampleComparison,
    Template,
    compare_prompts,
    describe_settings,
    form_of,
    write_stand_in_shots,
)

from bench.errors import DataMissingError
from bench.runs.disk import write_atomically
from bench.tasks.checking import TaskCheck, check_tasks
from bench.tasks.source import Source
from bench.tasks.stem import stem_forms
from bench.tasks.task import Task, list_tasks, load_task

_PAGE = Path(__file__).resolve().parents[1] / "docs" / "tasks.md"
_HEAD = """# The tasks

Written by `studies/tasks.py` from the task files and the rows on the machine it ran on; change those, not this page.

*Samples*: what a run scores of the original files, all of whose rows were loaded and rendered; in brackets the rows
that are left out. *Source*: the folder of the original files below `STEELYARD_DATA` (or by itself in the variable in
brackets), and the hub's data set at its pinned commit, which is read when no folder is named. *Equal to lm-eval*: of
so many samples, the first of each subject, all contexts, continuations and right answers were compared with those that
lm-evaluation-harness 0.4.13 makes from its own task file; so many were equal byte for byte. Where a task's own shots
were not at hand, rows of test stood in for them on both sides. Which of its tasks that is, and what differs, stands
below the tables. Forms that share a row come of the task's `stem`: their wording is this project's, and one for all.
"""
_WRITTEN = """
## Answered in writing

More of the same comparison. *Prompts*: contexts, with the first shots on both sides. *In turns*: the whole context as
the chat template of SmolLM2-135M-Instruct writes it, each shot as two turns. *Right answers*: what an answer is held
against; of programs, the whole program. *Settings*: stop strings, most tokens, and that nothing is sampled. The limit
of lm-evaluation-harness's own model class `hf` is 256 tokens. How an answer is read is this project's own everywhere.
"""


def study(options: argparse.Namespace) -> int:
    """Compare, and write the page; returns the exit code."""
    data = os.environ.get("STEELYARD_DATA")
    if not data:
        raise DataMissingError("set STEELYARD_DATA to the folder that holds the original files")
    tasks = list_tasks()
    checks = {check.name: check for check in check_tasks(task.name for task in tasks)}
    template = _template()
    found = {name: _compare(Path(data), name, checks, options.samples, template) for name in COUNTERPARTS}
    rows = [_row(task, forms, checks[task.name], found) for task in tasks for forms in _rows_of(task)]
    header = "task, form, lane, samples, subjects, shots, metrics, source, licence, version, equal to lm-eval"
    written = [_written_row(name, own) for name, own in sorted(found.items()) if own and own[0].asked]
    written_header = "task, form, its file there, prompts, in turns, right answers, settings"
    notes = [f"- `{task.name}`: {_comment(task)}" for task in tasks if _comment(task)]
    lines = [_HEAD, *table(header.split(", "), rows), _WRITTEN, *table(written_header.split(", "), written)]
    lines += ["", "## Prompts", "", *notes, ""]
    write_atomically(options.page, "\n".join(lines).encode())
    print(f"written: {options.page}", file=sys.stderr)
    return 0 if all(check.error is None for check in checks.values()) else 1


def _template() -> Template:
    """The embedded model's chat template."""
    from bench.hf import AutoTokenizer
    from bench.models.chat import apply_chat_template

    tokenizer = AutoTokenizer.from_pretrained(model_folder("embedded"))

    def write(turns: Sequence[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return apply_chat_template(tokenizer, turns, adds_prompt=add_generation_prompt)

    return write


def _compare(
    data: Path, name: str, checks: dict[str, TaskCheck], num_samples: int, template: Template
) -> list[SampleComparison]:
    """A task's samples beside lm-evaluation-harness's; none where there are no rows."""
    print(name, file=sys.stderr, flush=True)
    check = checks[name.split(maxsplit=1)[0]]
    if check.num_rows is None:
        return []
    if not check.note:
        return list(compare_prompts(data, name, num_samples, template=template))
    with tempfile.TemporaryDirectory(prefix="steelyard-study-") as folder:
        copy = write_stand_in_shots(data, Path(folder))
        return list(compare_prompts(Path(folder), name, num_samples, data_dir=copy, template=template))


def _rows_of(task: Task) -> list[list[str]]:
    """A row for each form, but one for all that come of the task's stem and are nobody else's."""
    own = [
        name for name, form in task.forms.items() if form != stem_forms().get(name) or _key(task, name) in COUNTERPARTS
    ]
    return [[name] for name in own] + [[name for name in task.forms if name not in own]] * (len(own) < len(task.forms))


def _key(task: Task, form: str) -> str:
    return task.name if form == task.scoring else f"{task.name} {form}"


def _row(task: Task, forms: Sequence[str], check: TaskCheck, found: dict[str, list[SampleComparison]]) -> list[object]:
    left_out = (check.num_rows or 0) - check.num_samples
    samples = "any" if check.num_rows is None else f"{check.num_samples:,}" + (f" ({left_out:,})" if left_out else "")
    key = _key(task, forms[0])
    return [
        f"`{task.name}`",
        _each(forms),
        _each([task.forms[form].lane for form in forms]),
        samples,
        check.num_subjects or "",
        _each([str(task.num_fewshot_of(form)) for form in forms]),
        _each([name for form in forms for name in task.forms[form].metrics]),
        "; ".join(_source(source) for source in task.sources),
        task.licence,
        task.version,
        _equality(key, found[key], check) if key in found else "no such task there",
    ]


def _each(values: Sequence[str]) -> str:
    """Each value once."""
    return ", ".join(dict.fromkeys(values))


def _equality(key: str, found: Sequence[SampleComparison], check: TaskCheck) -> str:
    """How many of how many samples are equal."""
    if not found:
        return "not compared: no rows here"
    only = "".join(f", {subject} only" for subject in COUNTERPARTS[key].subjects)
    return _share([one.is_equal for one in found]) + only + (", with rows of test as shots" if check.note else "")


def _share(equal: Sequence[bool | None]) -> str:
    return f"{sum(map(bool, equal)):,} of {len(equal):,}"


def _written_row(name: str, found: Sequence[SampleComparison]) -> list[object]:
    counterpart, form = COUNTERPARTS[name], form_of(name)
    task, _, scoring = name.partition(" ")
    return [
        f"`{task}`",
        scoring or load_task(task).scoring,
        f"`{counterpart.yaml.replace('{}', '*')}`",
        _share([one.has_equal_prompts for one in found]),
        _share([one.has_equal_turns for one in found]),
        _share([one.has_equal_golds for one in found]),
        describe_settings(form, {one.asked for one in found if one.asked}),
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

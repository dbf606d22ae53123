"""Which runs of a section cannot be told apart, by the tests of `bench compare`."""

from __future__ import annotations

from collections.abc import Sequence

from bench.comparison.compare import compare_blocks
from bench.comparison.compared import Comparison
from bench.comparison.pairing import task_spec
from bench.errors import InputError
from bench.report.comparison import letters, name_tests
from bench.report.sheet import Cell, Column, missing
from bench.report.text import one_line, plural
from bench.runs.reading import Run, read_run
from bench.tasks.dataset import check_at_hand
from bench.tasks.rows import without_fetching
from bench.tasks.task import load_task

TIED_COLUMN = Column("tied", "tied")
TIED = "tied: runs with a letter in common do not differ significantly; those with the best one's are tied with it"


def tied_cells(blocks: Sequence[Sequence[Run]]) -> list[list[Cell]]:
    """A cell for each run of each block: its groups as letters, or why there are none.

    Scores are read, and rows loaded, of blocks with several runs; nothing is fetched for it.
    """
    with without_fetching():
        reasons = [_why_not(block) for block in blocks]
        compared = iter(
            compare_blocks(
                [
                    [run if run.scores else read_run(run.path) for run in block]
                    for block, reason in zip(blocks, reasons, strict=True)
                    if len(block) > 1 and reason is None
                ]
            )
        )
    return [
        [missing() for _ in block] if len(block) == 1 else _cells(block, reason or next(compared))
        for block, reason in zip(blocks, reasons, strict=True)
    ]


def _why_not(block: Sequence[Run]) -> str | None:
    """Why a block is not tested; None if it is to be tried. Told before any score is read, which takes a while."""
    if len(block) == 1:
        return None
    try:
        specs = {task_spec(run) for run in block}
        if any(spec.lm_eval_name is not None for spec in specs):
            return "a report does not load the rows of lm-evaluation-harness's tasks; bench compare does"
        for spec in specs:
            check_at_hand(load_task(spec.task), spec)
    except InputError as problem:
        return str(problem)
    return None


def _cells(block: Sequence[Run], found: Comparison | str) -> list[Cell]:
    if isinstance(found, str):
        return [missing(one_line(f"tied: not tested, {found}")) for _ in block]
    groups = {entry.run.path: entry.groups for entry in found.entries}
    note = (
        f"tied: on the {plural(found.num_common, 'question')} that all of them have a score for; "
        f"{name_tests([found])}, p Holm ≥ 0.05, adjusted for the {plural(found.num_tests, 'test')} of this report"
    )
    return [Cell(letters(groups[run.path]), letters(groups[run.path]), one_line(note)) for run in block]

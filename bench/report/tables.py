"""Tables over runs, and over the subjects of one run.

Runs stand in blocks (`blocks.py`), so that no column mixes what cannot be compared; what still differs inside a block
(prompts, data) is said in a footnote, as is all that was shortened, tied, failed or left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from bench.report.beside import MATCHED, Beside, speed_beside
from bench.report.blocks import (
    describe_metric,
    describe_task,
    differences_within,
    headline,
    metric_of,
    model_names,
    not_to_compare,
    remarks_on,
    split_blocks,
)
from bench.report.grid import Column, draw_row, draw_rule, draw_titles, fit
from bench.report.power import energy_cell, why_no_energy
from bench.report.speed import SpeedRun
from bench.report.speed_cells import milliseconds
from bench.report.text import (
    MISSING,
    SUPERSCRIPTS,
    Screen,
    align,
    count,
    duration,
    hanging,
    look_up,
    memory,
    metric_text,
    one_line,
    percent,
    quotient,
    rate,
    short_precision,
)
from bench.runs.reading import Run

_LEGEND = {
    "score": "% right over all samples (micro) ± stderr; 95 %: Wilson interval",
    "floor": "least time at this machine's measured matrix-product rate ÷ time taken",
}


def render_runs(runs: Sequence[Run], screen: Screen, speeds: Sequence[SpeedRun] = ()) -> str:
    """The table of runs: a block for each task and way of scoring it, a row for each model, the best first.

    Args:
        runs: scored runs.
        screen: where it goes.
        speeds: speed runs; what they say of the same models stands beside the scores.
    """
    blocks = split_blocks(runs)
    rows = [run for block in blocks for run in block]
    notes = Footnotes()
    beside = {run.path: found for run in rows if (found := speed_beside(run, speeds)) is not None}
    columns, dropped = fit(
        [*_columns(rows, blocks, notes, beside), *_speed_columns([beside.get(run.path) for run in rows])], screen.width
    )
    lines = [draw_titles(columns), draw_rule(columns)]
    index = 0
    for number, block in enumerate(blocks):
        lines += [Text()] if number else []
        lines += hanging(
            screen, Text(), Text.assemble((describe_task(block[0]), "bold"), f" · {describe_metric(block[0])}")
        )
        for _ in block:
            lines.append(draw_row(columns, index))
            index += 1
    lines += notes.draw(screen)
    lines.append(Text())
    for text in not_to_compare(blocks):
        lines += hanging(screen, Text(), Text(one_line(text)))
    if unmeasured := dict.fromkeys(reason for run in rows if (reason := why_no_energy(run))):
        lines += hanging(screen, Text(f"{'energy':8}", "dim"), Text(f"not measured: {'; '.join(unmeasured)}", "dim"))
    legend = _LEGEND | ({"speed": MATCHED} if beside else {})
    for name, text in {**legend, **({"hidden": ", ".join(reversed(dropped))} if dropped else {})}.items():
        lines += hanging(screen, Text(f"{name:8}", "dim"), Text(text, "dim"))
    return screen.render(lines)


def render_subjects(run: Run, screen: Screen) -> str:
    """The headline metric of a run for each category and subject."""
    metric = headline(run)
    groups: Mapping[str, Any] = run.info.get("groups") or {}
    if not groups:
        return screen.render([Text("This run has no subjects.", "dim")])
    rows = _subject_rows(groups, run.info.get("categories") or {}, metric)
    scores = [(percent(part.get("value")), percent(part.get("stderr"))) for _, part, _ in rows]
    columns, _ = fit(
        [
            Column("subject", tuple(name for name, _, _ in rows), is_number=False),
            Column("n", tuple(count(part.get("num_scored")) for _, part, _ in rows), drop=1),
            Column(
                "failed", tuple(count(part["num_failed"]) if part.get("num_failed") else "" for _, part, _ in rows), 1
            ),
            Column(f"{metric} %", tuple(align(scores, " ± ")), style="bold"),
            Column("", tuple(_bar(part.get("value")) for _, part, _ in rows), drop=2, is_number=False, style="cyan"),
        ],
        screen.width,
    )
    lines = [draw_titles(columns), draw_rule(columns)]
    for index, (_, _, starts_block) in enumerate(rows):
        lines += [Text()] if starts_block and index else []
        lines.append(draw_row(columns, index))
    return screen.render(lines)


def _score_cells(runs: Iterable[Run]) -> tuple[list[str], list[str]]:
    """The headline values with standard errors, and their intervals, aligned."""
    parts = [metric_of(run) for run in runs]
    ends = [part.get("ci95") or (None, None) for part in parts]
    units = [part.get("unit") for part in parts]
    values = [[metric_text(part.get(key), part.get("unit")) for key in ("value", "stderr")] for part in parts]
    intervals = [[metric_text(end, unit, 1) for end in pair] for pair, unit in zip(ends, units, strict=True)]
    return align([(a, b) for a, b in values], " ± "), align([(a, b) for a, b in intervals], " – ")


class Footnotes:
    """Numbered remarks; rows with the same remark share its number."""

    def __init__(self) -> None:
        self._texts: dict[str, int] = {}

    def mark(self, texts: Iterable[str]) -> str:
        """The numbers of these remarks, each with a space before it."""
        numbers = {self._texts.setdefault(text, len(self._texts) + 1) for text in texts}
        return "".join(f" {str(number).translate(SUPERSCRIPTS)}" for number in sorted(numbers))

    def draw(self, screen: Screen) -> list[Text]:
        """All remarks, below an empty line."""
        lines = [Text()] if self._texts else []
        for text, number in self._texts.items():
            lines += hanging(screen, Text(f"{str(number).translate(SUPERSCRIPTS)} ", "yellow"), Text(one_line(text)))
        return lines


def _columns(
    rows: Sequence[Run], blocks: Iterable[Sequence[Run]], notes: Footnotes, beside: Mapping[Path, Beside]
) -> list[Column]:
    labels = [label for block in blocks for label in _labels(block, notes, beside)]
    values, intervals = _score_cells(rows)
    are_shares = all(metric_of(run).get("unit") in (None, "share") for run in rows)

    def cells(path: str) -> list[Any]:
        return [look_up(run.info, path) for run in rows]

    def column(title: str, texts: Iterable[str], drop: int) -> Column:
        return Column(title, tuple(texts), drop)

    precisions = [short_precision(run.info.get("model") or {}) for run in rows]
    seconds = cells("timing.score_s")
    shares = [MISSING if share is None else f"{percent(share, 0)} %" for share in cells("floor.share")]
    macros = [
        metric_text(look_up(run.info, f"macro.{headline(run)}.value"), metric_of(run).get("unit")) for run in rows
    ]
    per_token = [quotient(num, s) for num, s in zip(cells("tokens.distinct"), seconds, strict=True)]
    per_question = [quotient(metric_of(run).get("num_scored"), s) for run, s in zip(rows, seconds, strict=True)]
    return [
        Column("model", tuple(labels), is_number=False),
        Column("score %" if are_shares else "score", tuple(values), style="bold"),
        column("95 %", intervals, 4),
        column("macro %" if are_shares else "macro", macros, 5),
        column("n", [count(metric_of(run).get("num_scored")) for run in rows], 6),
        Column("weights", tuple(precisions), 7 if len(set(precisions)) == 1 else 0, is_number=False),
        column("tokens/s", map(rate, per_token), 3),
        column("questions/s", map(rate, per_question), 9),
        column("floor", shares, 2),
        column("J/question", map(energy_cell, rows), 10),
        column("peak", map(memory, cells("peak_memory_bytes")), 8),
        column("time", map(duration, cells("timing.total_s")), 1),
    ]


def _speed_columns(found: Sequence[Beside | None]) -> list[Column]:
    """What speed runs say of the models, as far as there are any."""

    def per_s(point: Mapping[str, Any] | None) -> str:
        return MISSING if point is None else rate(point["tokens_per_s"])

    decode = [one.decode if one else None for one in found]
    tpot_s = [look_up(point or {}, "tpot_s.p50") for point in decode]
    return [
        Column("prefill/s", tuple(per_s(one.prefill if one else None) for one in found), 3),
        Column("decode/s", tuple(map(per_s, decode)), 1),
        Column("TPOT ms", tuple(MISSING if one is None else milliseconds(one) for one in tpot_s), 3),
    ]


def _labels(block: Sequence[Run], notes: Footnotes, beside: Mapping[Path, Beside]) -> list[str]:
    """The models' names in a block, with the marks of their footnotes."""
    names = model_names(block)
    return [
        f"  {name}{notes.mark([*remarks_on(run), *differences_within(run, block), *_note(beside.get(run.path))])}"
        for name, run in zip(names, block, strict=True)
    ]


def _note(found: Beside | None) -> list[str]:
    return [] if found is None else [found.note]


def _subject_rows(
    groups: Mapping[str, Any], categories: Mapping[str, Any], metric: str
) -> list[tuple[str, Mapping[str, Any], bool]]:
    """Name, metric and whether a block starts here: each category with its subjects, then the other subjects."""
    rows: list[tuple[str, Mapping[str, Any], bool]] = []
    rest = dict(groups)
    for name, category in categories.items():
        rows.append((one_line(name), category.get(metric) or {}, True))
        members = [subject for subject in category.get("subjects", ()) if subject in rest]
        rows += [(f"  {one_line(subject)}", rest.pop(subject).get(metric) or {}, False) for subject in sorted(members)]
    loose = [(one_line(subject), part.get(metric) or {}, False) for subject, part in sorted(rest.items())]
    if loose and rows:
        loose[0] = (*loose[0][:2], True)
    return rows + loose


def _bar(share: float | None) -> str:
    """A bar of up to 24 cells, in eighths of a cell."""
    eighths = round((share or 0) * 24 * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()

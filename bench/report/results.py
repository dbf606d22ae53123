"""From run folders to what is published of them: results task by task, what others published, and the models' facts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from bench import __version__
from bench.catalog.models import ModelCard, find_model, load_models
from bench.config import CostSpec
from bench.report.beside import BESIDE_COLUMNS, MATCHED, beside_cells
from bench.report.blocks import (
    describe_metric,
    describe_task,
    differences_within,
    metric_of,
    model_names,
    not_to_compare,
    remarks_on,
    split_blocks,
)
from bench.report.facts import (
    NOT_ASSESSED,
    NOT_LISTED,
    card_of,
    models_table,
    published_beside,
    published_of,
    share_open,
)
from bench.report.money import Amount, cost_usd, cost_usd_per_million, energy_wh
from bench.report.sheet import (
    MISSING,
    Cell,
    Column,
    Numbering,
    Point,
    Report,
    Section,
    Table,
    empty_columns,
    missing,
)
from bench.report.speed import SpeedRun
from bench.report.speed_points import as_run, remarks_for, speed_points, speed_sections
from bench.report.text import count, look_up, memory, metric_text, one_line, quotient, rate, short_precision
from bench.report.ties import TIED, TIED_COLUMN, tied_cells
from bench.runs.reading import Run

RESULT_COLUMNS = (
    Column("model", "model"),
    Column("score", "score", is_number=True),
    Column("ci95", "95 %", is_number=True),
    Column("num_scored", "n", is_number=True),
    Column("lane", "lane"),
    Column("num_fewshot", "shots", is_number=True),
    Column("weights", "weights"),
    Column("questions_per_s", "questions/s", is_number=True),
    Column("peak_memory_bytes", "peak memory", is_number=True),
    Column("energy_wh_per_1000", "Wh / 1,000", is_number=True),
    Column("cost_usd_per_1000", "USD / 1,000", is_number=True),
    Column("cost_usd_per_million_tokens", "USD / M tokens", is_number=True),
    Column("openness", "openness"),
    Column("licence", "licence"),
)
_REMARKS = {
    "score": "score: percent of all samples (micro), unless the heading names a metric that is no share. 95 %: "
    "Wilson's interval where each sample is right or wrong.",
    "cost": "Wh and USD / 1,000: for 1,000 questions. USD / M tokens: for a million tokens of the questions' prompts, "
    "each put once and whole, and of what is written. Of a local model: the time in which it scored, at the plan's "
    "prices, loading left out, tokens by its own tokenizer. Of an API: what it charged, tokens by its own count.",
    "openness": "openness: how many dimensions an index finds open, a partly open one counting as half, of how many. "
    "Indices differ in what they look at and are not to be compared or averaged. OUC: Liesenfeld, Lopez, Dingemanse "
    "2023, doi:10.1145/3571884.3604316, CC-BY-4.0. OSAI: European Open Source AI Index, doi:10.5281/zenodo.15386042, "
    "CC-BY-4.0. MOT: Model Openness Tool, LF AI & Data, MIT.",
}
_PUBLISHED_REMARK = (
    "Published scores are what others reported under settings of their own. They stand apart, and nothing here names a "
    "winner between them and the runs."
)


@dataclass(frozen=True, slots=True)
class Choice:
    """What is asked of a report.

    Attributes:
        costs: prices for runs whose own plan has none.
        published: which published scores to show beside the runs: `all`; `own`: of the runs' models; `none`.
        also: tasks whose published scores to show although there is no run of them.
    """

    costs: CostSpec | None = None
    published: str = "all"
    also: tuple[str, ...] = ()


def build_report(runs: Sequence[Run], choice: Choice = Choice(), speeds: Sequence[SpeedRun] = ()) -> Report:
    """Put the results of runs together, each number with what must be known of it.

    Args:
        runs: scored runs.
        choice: what is asked of the report.
        speeds: speed runs; they stand in sections of their own, and beside the runs of the same models.
    """
    blocks = split_blocks(runs)
    drafts = _drafts(blocks, choice, speeds)
    empty = empty_columns(drafts)
    numbering = Numbering()
    remarks = [*not_to_compare(blocks), *(_REMARKS.values() if runs else ())]
    remarks += [f"Left out, since no run has it: {', '.join(_titles(empty))}."] if empty else []
    remarks += [f"{one_line(reason)}." for reasons in empty.values() for reason in reasons]
    sections, chief = [], _chief_blocks(blocks) if choice.published == "all" else blocks
    for block, draft in zip(blocks, drafts, strict=True):
        marked = _with_notes(block, draft, numbering, frozenset(empty))
        published = published_beside(block, choice.published) if block in chief else None
        unit = metric_of(block[0]).get("unit", "share")
        points = _points(block, draft, published) if unit == "share" else ()
        sections.append(
            Section(marked, tuple(run.path.name for run in block), published, metric_of(block[0]).get("chance"), points)
        )
    measured = speed_sections(speeds, choice.costs, numbering)
    shown = {column.key for draft in drafts for column in draft.columns} - set(empty)
    remarks += [f"{MATCHED}."] if shown & {column.key for column in BESIDE_COLUMNS} else []
    remarks += [f"{TIED}."] if TIED_COLUMN.key in shown else []
    remarks += remarks_for(measured)
    done = {str(look_up(run.info, "task.name")) for run in runs}
    also = [table for task in choice.also if task not in done and (table := published_of(task)) is not None]
    published_tables = [section.published for section in sections if section.published is not None] + also
    remarks += [_PUBLISHED_REMARK] if published_tables else []
    return Report(
        sections=tuple(sections),
        also=tuple(also),
        models=models_table(
            [*runs, *map(as_run, speeds)], published_tables, has_all=bool(runs) and choice.published == "all"
        ),
        footnotes=numbering.texts,
        remarks=tuple(dict.fromkeys(remarks)),
        made_by=f"Steelyard {__version__}, {datetime.now(UTC):%Y-%m-%d}",
        left_out=frozenset(empty),
        speed=tuple(measured),
        speed_points=speed_points(speeds),
    )


def _chief_blocks(blocks: Sequence[Sequence[Run]]) -> list[Sequence[Run]]:
    """Of each task the block with the most samples: what others published of the task stands beside it, once."""
    chief: dict[str, Sequence[Run]] = {}
    for block in blocks:
        task = str(look_up(block[0].info, "task.name"))
        if task not in chief or _num_samples(block) > _num_samples(chief[task]):
            chief[task] = block
    return list(chief.values())


def _num_samples(block: Sequence[Run]) -> int:
    return max(metric_of(run).get("num_scored") or 0 for run in block)


def _titles(keys: Iterable[str]) -> list[str]:
    titles = {column.key: column.title for column in (*RESULT_COLUMNS, *BESIDE_COLUMNS, TIED_COLUMN)}
    return [titles[key] for key in keys]


def _drafts(blocks: Sequence[Sequence[Run]], choice: Choice, speeds: Sequence[SpeedRun]) -> list[Table]:
    """A table for each block, without footnotes yet; all have the same columns."""
    columns: list[tuple[Column, ...]] = [RESULT_COLUMNS]
    columns += [BESIDE_COLUMNS] if speeds else []
    has_ties = any(len(block) > 1 for block in blocks)
    columns += [(TIED_COLUMN,)] if has_ties else []
    tied = tied_cells(blocks) if has_ties else [[] for _ in blocks]
    drafts = []
    for block, ties in zip(blocks, tied, strict=True):
        rows = [
            (
                *_row(name, run, choice),
                *(beside_cells(run, speeds) if speeds else ()),
                *ties[place : place + 1],
            )
            for place, (name, run) in enumerate(zip(model_names(block), block, strict=True))
        ]
        title = f"{describe_task(block[0])} · {describe_metric(block[0])}"
        drafts.append(Table(one_line(title), tuple(column for group in columns for column in group), tuple(rows)))
    return drafts


def _row(name: str, run: Run, choice: Choice) -> tuple[Cell, ...]:
    metric, card = metric_of(run), card_of(run)
    per_s = quotient(metric.get("num_scored"), look_up(run.info, "timing.score_s"))
    shots = look_up(run.info, "task.num_fewshot")
    weights = short_precision(run.info.get("model") or {})
    peak = run.info.get("peak_memory_bytes")
    return (
        Cell(name, one_line(name)),
        _score(metric.get("value"), metric.get("unit", "share")),
        _interval(metric.get("ci95"), metric.get("unit", "share")),
        _number(metric.get("num_scored"), count(metric.get("num_scored"))),
        Cell(str(run.info.get("lane", "likelihood")), one_line(run.info.get("lane", "likelihood"))),
        _number(shots, str(shots)),
        missing() if weights == MISSING else Cell(weights, weights),
        _number(per_s, rate(per_s)),
        _number(peak, memory(peak)),
        _amount(energy_wh(run)),
        _amount(cost_usd(run, choice.costs)),
        _amount(cost_usd_per_million(run, choice.costs)),
        _openness(card),
        _licence(card),
    )


def _score(value: float | None, unit: str) -> Cell:
    if value is None:
        return missing("score: the run is not finished")
    return Cell(value, metric_text(value, unit))


def _interval(ends: Sequence[float] | None, unit: str) -> Cell:
    if ends is None:
        return missing()
    low, high = ends
    return Cell((low, high), " – ".join(metric_text(end, unit, 1) for end in ends))


def _number(value: float | None, text: str) -> Cell:
    return missing() if value is None else Cell(value, one_line(text))


def _amount(amount: Amount) -> Cell:
    if amount.value is None:
        return missing(amount.reason)
    return Cell(amount.value, f"{amount.value:.3g}", amount.reason)


def _openness(card: ModelCard | None) -> Cell:
    if card is None or not card.openness:
        return Cell(NOT_ASSESSED if card else NOT_LISTED, NOT_ASSESSED if card else NOT_LISTED)
    text = ", ".join(f"{one.index} {share_open(one)}" for one in card.openness)
    others = [f"{one.index} looked at {one.assessed}" for one in card.openness if find_model(one.assessed) is not card]
    return Cell(text, text, f"openness: {'; '.join(others)}" if others else None)


def _licence(card: ModelCard | None) -> Cell:
    if card is None:
        return Cell(NOT_LISTED, NOT_LISTED)
    name = load_models().licence_of(card).name
    return Cell(name, name)


def _with_notes(block: Sequence[Run], draft: Table, numbering: Numbering, left_out: frozenset[str]) -> Table:
    """The table with its cells' footnotes; the model's cell has those of the whole run."""
    empty = empty_columns([draft])  # readers do not see these, so their reasons go to the model's cell
    rows = []
    for run, row in zip(block, draft.rows, strict=True):
        named = list(zip((column.key for column in draft.columns[1:]), row[1:], strict=True))
        reasons = [cell.reason for key, cell in named if cell.reason and key in empty and key not in left_out]
        remarks = [one_line(text) for text in (*remarks_on(run), *differences_within(run, block), *reasons)]
        cells = [cell if key in empty else numbering.mark(cell) for key, cell in named]
        rows.append((numbering.mark(row[0], remarks), *cells))
    return Table(draft.title, draft.columns, tuple(rows))


def _points(block: Sequence[Run], results: Table, published: Table | None) -> tuple[Point, ...]:
    """What can be plotted of a block."""
    columns = [results.cells(key) for key in ("model", "cost_usd_per_1000", "questions_per_s", "energy_wh_per_1000")]
    points = []
    names = [cell.text for cell in results.cells("model")]
    for run, name, *figures in zip(block, *columns, strict=True):
        metric = metric_of(run)
        if metric.get("value") is not None:
            ends = metric.get("ci95")
            interval = None if ends is None else (float(ends[0]), float(ends[1]))
            usd, per_s, wh = (None if cell.value is None else float(str(cell.value)) for cell in figures)
            weights = short_precision(run.info.get("model") or {})
            label = f"{name.text} {weights}" if names.count(name.text) > 1 else name.text  # a plot has no such column
            points.append(Point(label, metric["value"], interval, usd, per_s, wh))
    if published is not None:
        for name, value in zip(published.cells("model"), published.cells("score"), strict=True):
            points.append(Point(name.text, float(str(value.value)), None, None, None, is_published=True))
    return tuple(points)

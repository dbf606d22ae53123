"""Runs in blocks, and what a reader must know of a run's numbers; every table is made of these.

A block is one task scored in one way, with one number of shots, in one lane: no column mixes what does not compare.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.imports import is_imported
from bench.measures import MEASURES
from bench.report.power import device_remarks
from bench.report.text import count, look_up, one_line, percent, plural, short_precision
from bench.runs.reading import Run

# What makes another block of the same task and way of scoring, and how a reader calls it.
_BLOCK_FIELDS = {
    "task.version": "task versions",
    "task.num_fewshot": "numbers of shots",
    "task.limit": "limits",
    "task.subjects": "subjects",
    "lane": "lanes",
}
_WITHOUT_ANSWER = {
    "num_no_answer": "held no answer that could be read, which counts as wrong",
    "num_cut_off": "ended at the most tokens allowed",
    "num_refused": "were refused or withheld",
}


def split_blocks(runs: Iterable[Run]) -> list[list[Run]]:
    """The runs by what is scored and how, blocks of one task together; in each block the best first."""
    tasks: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        blocks = tasks.setdefault(str(look_up(run.info, "task.name")), {})
        blocks.setdefault(repr(_block_key(run)), []).append(run)
    return [sorted(block, key=_by_score) for blocks in tasks.values() for block in blocks.values()]


def headline(run: Run) -> str:
    """Name of the metric a run is judged by."""
    return str(look_up(run.info, "task.headline") or "acc")


def is_pll(run: Run) -> bool:
    """Whether a run's choices were compared by pseudo-log-likelihoods."""
    return bool(run.info.get("likelihood") == "pll")


def likelihood_remark(run: Run) -> str | None:
    """What a reader must know where choices were not compared by likelihoods proper."""
    remarks = {
        "pll": "by PLL: the pseudo-log-likelihood of a masked language model, which is no likelihood",
        "letters": "by letters: probabilities of the options' letters at the first token, normalised over the letters",
    }
    return remarks.get(str(run.info.get("likelihood")))


def describe_task(run: Run) -> str:
    """`pocket · letter · 5-shot`, and how it was cut down."""
    task: Mapping[str, Any] = run.info.get("task") or {}
    lane = run.info.get("lane", "likelihood")
    subjects = task.get("subjects") or ()
    parts = [
        task.get("name", "unknown task"),
        task.get("scoring"),
        f"{task['num_fewshot']}-shot" if "num_fewshot" in task else None,
        f"lane {lane}" if lane != "likelihood" else None,
        (f"{len(subjects)} subjects" if len(subjects) > 1 else subjects[0]) if subjects else None,
        _how_many(task.get("num_samples"), task.get("num_available")),
        f"limit {task['limit']}" if task.get("limit") else None,
    ]
    return one_line(" · ".join(str(part) for part in parts if part))


def _how_many(num_samples: int | None, num_available: int | None) -> str | None:
    if num_samples is None or num_available in (None, num_samples):
        return None if num_samples is None else plural(num_samples, "sample")
    return f"{count(num_samples)} of {plural(num_available, 'sample')}"


def metric_of(run: Run) -> Mapping[str, Any]:
    """The headline metric of a run; empty while it has none."""
    return look_up(run.info, f"metrics.{headline(run)}") or {}


def _block_key(run: Run) -> tuple[Any, ...]:
    return (*_what_is_scored(run), *(look_up(run.info, path) for path in _BLOCK_FIELDS))


def _what_is_scored(run: Run) -> tuple[str, str, str]:
    return str(look_up(run.info, "task.name")), str(look_up(run.info, "task.scoring")), headline(run)


def _by_score(run: Run) -> float:
    value, measure = metric_of(run).get("value"), MEASURES.get(headline(run))
    if value is None:
        return math.inf
    return float(value) if measure is not None and not measure.higher_is_better else -float(value)


def describe_metric(run: Run) -> str:
    """The headline metric, and chance: `acc, chance 25 %`."""
    chance = metric_of(run).get("chance")
    return headline(run) + ("" if chance is None else f", chance {percent(chance, 0)} %")


def model_names(block: Sequence[Run]) -> list[str]:
    """The models' names, as short as they may be, told apart where they are equal."""
    full = [one_line(look_up(run.info, "model.name") or run.path.name) for run in block]
    names = [name.rstrip("/").rpartition("/")[2] for name in full]
    names = full if len(set(names)) < len(set(full)) else names
    for path in ("model.revision", "identity"):
        details = [one_line(look_up(run.info, path) or "")[:8] for run in block]
        rows = [(name, short_precision(run.info.get("model") or {})) for name, run in zip(names, block, strict=True)]
        repeated = {row for row, times in Counter(rows).items() if times > 1}
        names = [f"{row[0]} {d}".rstrip() if row in repeated else row[0] for row, d in zip(rows, details, strict=True)]
    return names


def remarks_on(run: Run) -> list[str]:
    """What a reader of this run's numbers must know."""
    metric, remarks = metric_of(run), []
    if is_imported(run.info):
        remarks.append(f"answers of {look_up(run.info, 'import.source')}: {look_up(run.info, 'import.settings')}")
    if remark := likelihood_remark(run):
        remarks.append(remark)
    status, limit = run.info.get("status"), look_up(run.info, "task.limit")
    if status != "finished":
        ending = f"failed: {run.info.get('reason')}" if status == "failed" else "not finished"
        total = look_up(run.info, "task.num_samples")
        num_done = sum(score.error is None for score in run.scores)
        remarks.append(f"{ending}; {count(num_done)} of {count(total)} samples are scored, the same command continues")
    if limit:
        remarks.append(f"partial: scored under limit {limit}, not comparable with a whole run")
    if num_failed := metric.get("num_failed"):
        remarks.append(
            f"{plural(num_failed, 'sample')} failed, left out of every average; `bench show` names the errors"
        )
    if num_truncated := metric.get("num_truncated"):
        num_fewer = metric.get("num_fewer_shots") or 0
        how = f", {count(num_fewer)} of them by leaving out whole shots" if num_fewer else ""
        remarks.append(f"{plural(num_truncated, 'sample')} shortened to fit the model's context{how}")
    remarks += _without_answer(run)
    if num_ties := metric.get("num_ties"):
        remarks.append(f"{plural(num_ties, 'sample')} with a tie for the best choice; the first of them is taken")
    remarks += device_remarks(run)
    remarks += run.problems
    return remarks


def _without_answer(run: Run) -> list[str]:
    """How many completions were no answers; a model that was not asked as the chat model it is may write nothing."""
    metric = metric_of(run)
    counts = {text: metric.get(key) or 0 for key, text in _WITHOUT_ANSWER.items()}
    remarks = [f"{plural(num, 'completion')} {text}" for text, num in counts.items() if num]
    tasks = look_up(run.info, "config.tasks") or [{}]
    is_plain = look_up(run.info, "model.has_chat_template") and not tasks[0].get("chat_template")
    if is_plain and 2 * (metric.get("num_no_answer") or 0) > (metric.get("num_scored") or 0):
        remarks.append("the model has a chat template, which the plan does not use (`chat_template: true`)")
    return remarks


def differences_within(run: Run, block: Sequence[Run]) -> list[str]:
    """What sets runs of one block apart although they should be equal."""
    remarks = []
    for path, what in (("task.prompt_hash", "prompts"), ("task.data.sha256", "data")):
        if len({look_up(other.info, path) for other in block}) > 1:
            found = str(look_up(run.info, path) or "unknown")[:12]
            remarks.append(f"the {what} differ within this block, so its scores do not compare: {what} hash {found}")
    return remarks


def not_to_compare(blocks: Iterable[Sequence[Run]]) -> list[str]:
    """A line for whatever is scored in more than one block: what sets the blocks apart."""
    together: dict[tuple[str, ...], list[Run]] = {}
    for block in blocks:
        together.setdefault(_what_is_scored(block[0]), []).append(block[0])
    lines = []
    for (task, scoring, _), heads in together.items():
        values = {what: {repr(look_up(run.info, path)) for run in heads} for path, what in _BLOCK_FIELDS.items()}
        if differing := [what for what, found in values.items() if len(found) > 1]:
            lines.append(
                f"{task} · {scoring}: blocks with different {' and '.join(differing)}; compare within a block only"
            )
    return lines

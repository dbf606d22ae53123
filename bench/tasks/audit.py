"""Checks of a task's rows for what makes scores mean less than they seem: repeats, giveaways, lopsided answers."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bench.records import Sample
from bench.tasks.dataset import Dataset
from bench.tasks.source import LABELS
from bench.tasks.task import Task

# How far a count may lie from what chance gives, in standard errors; chance alone goes beyond 3 once in 370 times.
NUM_STDERRS = 3.0
MAX_SHARE_IN_SHOTS = 0.6


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to look at.

    Attributes:
        check: its kind, such as `repeated question`.
        message: what was found, in a line.
        ids: the samples concerned, if it is about single ones.
    """

    check: str
    message: str
    ids: tuple[str, ...] = ()


def audit(task: Task, dataset: Dataset) -> list[Finding]:
    """Check a task's samples and shots.

    Args:
        task: gives `num_fewshot` and the categories.
        dataset: all of its rows, loaded without `limit` and `subjects`.
    """
    shots = [shot for pool in dataset.shots.values() for shot in pool]
    everything = list({id(sample): sample for sample in (*dataset.samples, *shots)}.values())
    return [
        *_per_sample("repeated option", "two options of a question are equal", everything, _has_equal_options),
        *_per_sample("stray blanks", "blanks at an end, doubled, or unusual ones", everything, _has_stray_blanks),
        *_repeated_questions(everything),
        *_gold_balance("", dataset.samples),
        *(
            finding
            for subject in dataset.shots
            if subject
            for finding in _gold_balance(
                f"subject {subject}: ", [sample for sample in dataset.samples if sample.subject == subject]
            )
        ),
        *_giveaways(dataset.samples),
        *_uneven_shots(task, dataset),
        *_uncategorised(task, dataset),
    ]


def _per_sample(check: str, message: str, samples: Iterable[Sample], is_bad: Callable[[Sample], bool]) -> list[Finding]:
    ids = tuple(sample.id for sample in samples if is_bad(sample))
    return [Finding(check, f"{message}: {len(ids)} questions", ids)] if ids else []


def _normalised(text: str) -> str:
    """Text without case, blanks and punctuation at its end."""
    return " ".join(text.casefold().split()).rstrip(" .?!:")


def _has_equal_options(sample: Sample) -> bool:
    return len({_normalised(choice) for choice in sample.choices}) < len(sample.choices)


def _has_stray_blanks(sample: Sample) -> bool:
    texts = (sample.variables.get("question", ""), *sample.choices)
    return any(text != text.strip() or re.search(r"[^\S \n]|  ", text) for text in texts)


def _repeated_questions(samples: Iterable[Sample]) -> list[Finding]:
    groups: dict[str, list[str]] = {}
    for sample in samples:
        if "question" in sample.variables:
            groups.setdefault(_normalised(sample.variables["question"]), []).append(sample.id)
    repeated = [ids for ids in groups.values() if len(ids) > 1]
    ids = tuple(sample_id for group in repeated for sample_id in group)
    return [Finding("repeated question", f"{len(repeated)} questions stand more than once", ids)] if repeated else []


def _gold_balance(whose: str, samples: Sequence[Sample]) -> list[Finding]:
    """A model that always answers one letter must not do better than chance by more than chance."""
    findings = []
    for label_index, label in enumerate(LABELS[: max((len(sample.choices) for sample in samples), default=0)]):
        having = [sample for sample in samples if len(sample.choices) > label_index]
        hits = sum(sample.gold == label_index for sample in having)
        chances = [1 / len(sample.choices) for sample in having]
        if _is_unlikely(hits, chances):
            words = f"{whose}{label} is right in {hits} of {len(having)} questions, {sum(chances):.0f} expected"
            findings.append(Finding("gold balance", words))
    return findings


def _giveaways(samples: Sequence[Sample]) -> list[Finding]:
    """Picking the longest (or shortest) option must not do better than chance; ties share."""
    findings = []
    for words, pick in (("longest", max), ("shortest", min)):
        hits = 0.0
        having = [sample for sample in samples if sample.choices]
        for sample in having:
            lengths = [len(choice) for choice in sample.choices]
            picked = [index for index, length in enumerate(lengths) if length == pick(lengths)]
            hits += (sample.gold in picked) / len(picked)
        chances = [1 / len(sample.choices) for sample in having]
        if hits > sum(chances) and _is_unlikely(hits, chances):
            counts = f"{hits:.0f} of {len(having)} questions, {sum(chances):.0f} expected"
            findings.append(Finding("giveaway", f"picking the {words} option is right in {counts}"))
    return findings


def _is_unlikely(hits: float, chances: Sequence[float]) -> bool:
    stderr = math.sqrt(sum(chance * (1 - chance) for chance in chances))
    return abs(hits - sum(chances)) > NUM_STDERRS * stderr


def _uneven_shots(task: Task, dataset: Dataset) -> list[Finding]:
    findings = []
    sizes = Counter(len(pool) for pool in dataset.shots.values())
    if len(sizes) > 1 or min(sizes, default=task.num_fewshot) < task.num_fewshot:
        counts = ", ".join(f"{size} for {count} subjects" for size, count in sorted(sizes.items()))
        findings.append(Finding("uneven shots", f"shots: {counts}; num_fewshot is {task.num_fewshot}"))
    for subject, pool in dataset.shots.items():
        golds = Counter(shot.gold for shot in pool[: task.num_fewshot] if shot.gold is not None)
        if len(pool) > 1 and golds and (top := golds.most_common(1)[0])[1] > MAX_SHARE_IN_SHOTS * golds.total():
            words = f"subject {subject}: {LABELS[top[0]]} is right in {top[1]} of {golds.total()} shots"
            findings.append(Finding("uneven shots", words, tuple(shot.id for shot in pool)))
    return findings


def _uncategorised(task: Task, dataset: Dataset) -> list[Finding]:
    if not task.categories:
        return []
    listed = {subject for subjects in task.categories.values() for subject in subjects}
    known = {sample.subject for sample in dataset.samples}
    messages = {"in no category": sorted(known - listed), "in a category, but without rows": sorted(listed - known)}
    return [Finding("categories", f"{words}: {', '.join(found)}") for words, found in messages.items() if found]

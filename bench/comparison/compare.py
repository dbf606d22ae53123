"""Runs side by side on the questions they share: scores, paired differences, ranks and ties, one task at a time.

What is compared is settled before any number is made:

- All numbers are of the questions that the runs share and have a score for (`pairing.py`); the rest is counted.
- Settings that change what a score means must be equal. Where they are not, the comparison is refused, or, if it is
  asked for, made and marked: a model that writes a letter and one whose likelihoods of the letters are compared
  answer the same questions, but a difference between them is one of model and setting together.
- Metrics on different scales (accuracy, perplexity) are never put together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from bench.comparison.compared import Compared, Comparison, Entry, Pair, PublishedTest, Wish
from bench.comparison.pairing import SharedQuestions, setting_values
from bench.errors import InputError, PlanError, one_of
from bench.measures import MEASURES, Measure
from bench.records import Score
from bench.runs.reading import Run
from bench.stats import wilson_ci95
from bench.stats.clusters import Floats, Ints, clustered_mean, number_clusters
from bench.stats.paired import ALPHA, agreement, holm, paired_difference
from bench.stats.published import against_published
from bench.stats.ranks import rank_intervals, tied_groups

Bools = np.ndarray[Any, np.dtype[np.bool_]]


def compare_runs(runs: Sequence[Run], wish: Wish) -> Compared:
    """Compare runs task by task.

    Raises:
        PlanError: there is nothing to compare, unlike settings that were not allowed, or no such baseline.
        InputError: a task's rows are not at hand, or not those that were scored.
    """
    tasks: dict[str, list[Run]] = {}
    for run in runs:
        tasks.setdefault(str(run.info.get("task", {}).get("name")), []).append(run)
    if wish.published and len(tasks) > 1:
        raise PlanError(f"a published score is of one task, these runs are of {', '.join(tasks)}; give those of one")
    alone = [] if wish.published else [name for name, own in tasks.items() if len(own) == 1]
    if len(alone) == len(tasks):
        raise PlanError(f"nothing to compare: there is one run each of {', '.join(alone)}; give two runs of one task")
    made = [_Columns(name, own, wish).compare(wish) for name, own in tasks.items() if name not in alone]
    return Compared(tuple(_with_groups(one) for one in _adjusted(made)), tuple(alone))


def compare_blocks(blocks: Sequence[Sequence[Run]]) -> list[Comparison | str]:
    """Compare the runs of each block with each other, with p values adjusted for all tests of all blocks.

    Args:
        blocks: each the runs of one task in one setting, at least two.

    Returns:
        for each block its comparison, or why there is none, in a line.
    """
    made: list[Comparison | str] = []
    for block in blocks:
        try:
            made.append(_Columns(str(block[0].info.get("task", {}).get("name")), block, Wish()).compare(Wish()))
        except InputError as problem:
            made.append(str(problem))
    adjusted = _adjusted([one for one in made if isinstance(one, Comparison)])
    return [one if isinstance(one, str) else _with_groups(next(adjusted)) for one in made]


def _adjusted(made: Sequence[Comparison]) -> Iterator[Comparison]:
    """With p values adjusted for all tests of the command."""
    ps = [pair.difference.p for one in made for pair in one.pairs]
    ps += [test.found.p for one in made for test in one.published]
    adjusted = holm(ps)
    num_pairs = sum(len(one.pairs) for one in made)
    of_pairs, of_published = iter(adjusted[:num_pairs]), iter(adjusted[num_pairs:])
    for one in made:
        yield replace(
            one,
            pairs=tuple(replace(pair, p_holm=next(of_pairs)) for pair in one.pairs),
            published=tuple(replace(test, p_holm=next(of_published)) for test in one.published),
            num_tests=len(ps),
        )


def _with_groups(comparison: Comparison) -> Comparison:
    """With the groups of entries that do not differ significantly, which takes tests of all pairs."""
    if comparison.has_baseline:
        return comparison
    different = [(pair.second, pair.first) for pair in comparison.pairs if pair.p_holm < ALPHA]
    groups = tied_groups(len(comparison.entries), different)
    entries = tuple(
        replace(entry, groups=tuple(number for number, group in enumerate(groups) if place in group))
        for place, entry in enumerate(comparison.entries)
    )
    return replace(comparison, entries=entries)


class _Columns:
    """One task's runs, the best first, as columns of values over the questions they share."""

    def __init__(self, task: str, runs: Sequence[Run], wish: Wish) -> None:
        self.task = task
        metrics = [_metric(run) for run in runs]
        self._check_scale(metrics, bool(wish.published))
        self.questions = SharedQuestions(runs)
        settings = setting_values(runs, self.questions.ids)
        if settings and not wish.allow_unlike:
            self._refuse(settings)
        values = np.stack([_values(metric, run, self.questions.ids) for metric, run in zip(metrics, runs, strict=True)])
        self.is_common: Bools = ~np.any(np.isnan(values), axis=0)
        if not self.is_common.any():
            raise PlanError(f"task {task}: the runs share no question that all of them have a score for")
        self.sign = 1 if MEASURES[metrics[0]].higher_is_better else -1
        order = np.argsort(-self.sign * values[:, self.is_common].mean(axis=1), kind="stable").tolist()
        self.runs = [runs[index] for index in order]
        self.metrics = [metrics[index] for index in order]
        self.values = values[order]
        self.answers = [
            _answers(metric, run, self.questions.ids) for metric, run in zip(self.metrics, self.runs, strict=True)
        ]
        self.settings = [{words: own[index] for words, own in settings.items()} for index in order]
        self.clusters = self.questions.clusters(wish.cluster)

    def _check_scale(self, metrics: Sequence[str], has_published: bool) -> None:
        for metric in metrics:
            if MEASURES[metric].value is None:
                raise PlanError(f"task {self.task}: {metric} is no mean over questions, so there is nothing to pair")
        if has_published and MEASURES[metrics[0]].unit != "share":
            raise PlanError(f"task {self.task}: {metrics[0]} is no share of right answers, which published scores are")
        if len({(MEASURES[metric].unit, MEASURES[metric].higher_is_better) for metric in metrics}) > 1:
            found = " and ".join(dict.fromkeys(metrics))
            raise PlanError(f"task {self.task}: {found} are on different scales; they cannot stand in one column")

    def _refuse(self, settings: Mapping[str, Sequence[str]]) -> None:
        found = [f"{words} ({'; '.join(dict.fromkeys(own))})" for words, own in settings.items()]
        raise PlanError(
            f"task {self.task}: these runs are not alike in {' and '.join(found)}, so they cannot stand in one column; "
            "--allow-unlike compares them and marks what differs"
        )

    def compare(self, wish: Wish) -> Comparison:
        """All numbers but what depends on the other tasks, too."""
        values, clusters = self.values[:, self.is_common], self._clusters_of(self.is_common)
        ranks = rank_intervals(self.sign * values, clusters)
        common = {one for one, is_common in zip(self.questions.ids, self.is_common, strict=True) if is_common}
        entries = tuple(
            Entry(
                run=run,
                metric=self.metrics[place],
                value=float(values[place].mean()),
                ci95=_interval(values[place], MEASURES[self.metrics[place]], clusters),
                rank=ranks[place],
                num_failed=int(np.isnan(self.values[place]).sum()),
                num_no_answer=sum(score.id in common and _is_without_answer(score) for score in run.scores),
                settings=self.settings[place],
            )
            for place, run in enumerate(self.runs)
        )
        has_baseline = wish.baseline is not None
        reference = self._find(wish.baseline) if wish.baseline is not None else 0
        places = [(first, second) for second, first in combinations(range(len(entries)), 2)]
        if has_baseline:
            places = [(place, reference) for place in range(len(entries)) if place != reference]
        return Comparison(
            task=self.task,
            unit=MEASURES[self.metrics[0]].unit,
            entries=entries,
            reference=reference,
            has_baseline=has_baseline,
            pairs=tuple(self._pair(first, second) for first, second in places),
            published=tuple(
                PublishedTest(place, name, against_published(column, score, clusters))
                for name, score in wish.published.items()
                for place, column in enumerate(values)
            ),
            num_common=int(self.is_common.sum()),
            num_shared=len(self.questions.ids),
            num_left_out=self.questions.num_left_out,
            num_differing=self.questions.num_differing,
            num_clusters=None if clusters is None else int(clusters.max()) + 1,
        )

    def _find(self, baseline: str) -> int:
        """The place of the baseline: a run folder, or a model's name."""
        path = Path(baseline).resolve()
        places = [place for place, run in enumerate(self.runs) if run.path.resolve() == path]
        names = [str(run.info.get("model", {}).get("name")) for run in self.runs]
        places = places or [place for place, name in enumerate(names) if name == baseline]
        if not places:
            raise PlanError(
                f"task {self.task}: no run or model {baseline!r} among those given; {one_of(baseline, names)}"
            )
        if len(places) > 1:
            raise PlanError(f"task {self.task}: {len(places)} runs are of {baseline!r}; give the run folder instead")
        return places[0]

    def _clusters_of(self, is_chosen: Bools) -> Ints | None:
        """The clusters of some of the questions, numbered without gaps."""
        return None if self.clusters is None else number_clusters(self.clusters[is_chosen].tolist())

    def _pair(self, first: int, second: int) -> Pair:
        is_scored: Bools = ~np.any(np.isnan(self.values[[first, second]]), axis=0)
        ours, theirs = self.values[first, is_scored], self.values[second, is_scored]
        difference = paired_difference(ours, theirs, self._clusters_of(is_scored))
        answers = zip(self.answers[first], self.answers[second], strict=True)
        known = [pair for pair in answers if None not in pair]
        if known:
            agreed = agreement([mine for mine, _ in known], [other for _, other in known])
            return Pair(first, second, difference, agreed, has_answers=True)
        is_binary = all(MEASURES[self.metrics[place]].is_binary for place in (first, second))
        judged = agreement(ours.tolist(), theirs.tolist()) if is_binary else None
        return Pair(first, second, difference, judged, has_answers=False)


def _metric(run: Run) -> str:
    """Name of the run's headline metric."""
    name = str(run.info.get("task", {}).get("headline") or "acc")
    if name not in MEASURES:
        raise PlanError(f"{run.path}: unknown metric {name!r}; {one_of(name, MEASURES)}")
    return name


def _values(metric: str, run: Run, ids: Sequence[str]) -> Floats:
    """The metric's value for each of the questions; NaN where the run has an error."""
    value = MEASURES[metric].value
    assert value is not None  # `_check_scale` has refused the others
    scores = {score.id: score for score in run.scores}
    return np.array([math.nan if scores[one].error is not None else value(scores[one]) for one in ids])


def _answers(metric: str, run: Run, ids: Sequence[str]) -> list[int | None]:
    """Index of the choice that the metric goes by, for each question; None where it is not known, or none was made."""
    scores = {score.id: score for score in run.scores}
    return [scores[one].prediction_norm if metric == "acc_norm" else scores[one].prediction for one in ids]


def _is_without_answer(score: Score) -> bool:
    return score.completion is not None and score.extracted is None


def _interval(values: Floats, measure: Measure, clusters: Ints | None) -> tuple[float, float] | None:
    if measure.is_binary and clusters is None:
        return wilson_ci95(float(values.mean()), len(values))
    ends = clustered_mean(values, clusters).ci95
    if ends is None or measure.unit != "share":
        return ends
    return max(0.0, ends[0]), min(1.0, ends[1])

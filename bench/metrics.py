"""From loglikelihoods to a sample's score, and from scores to a run's numbers. Pure functions.

The numbers are lm-evaluation-harness 0.4.13's, down to the order of summation, so that equal scores give equal floats:

- one subject, or a task without subjects: the mean, and the sample standard deviation / √n;
- a task with subjects is lm-eval's group with `weight_by_size`: the size-weighted mean of the subjects' means (the
  micro average), and the pooled standard error. Subjects stand in the order of lm-eval's leaf tasks: the categories
  as the task lists them, sorted by name inside each.

A failure is never a wrong answer: samples with an error are counted and enter no mean, and a mean of nothing is an
error or None, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from typing import Any

from bench.errors import ScoringError
from bench.records import Loglikelihood, PromptedSample, Score
from bench.stats import ci95, mean, pooled_stderr, sample_stderr, unweighted_stderr, weighted_mean, wilson_ci95

# --- one sample ---------------------------------------------------------------------------------------------------


def score_sample(
    prompted: PromptedSample,
    loglikelihoods: Sequence[Loglikelihood],
    *,
    delimiter: str = " ",
    truncated: bool = False,
    num_shots_dropped: int = 0,
) -> Score:
    """Turn the loglikelihoods of a sample's choices into its score, as lm-evaluation-harness does.

    The prediction is the first of the highest loglikelihoods. `acc_norm` divides each by the length of its choice in
    characters, the delimiter between context and choice not counted. A loglikelihood that is no finite number gives
    an error, not a score.
    """
    if len(loglikelihoods) != len(prompted.requests):
        raise ValueError(
            f"{prompted.sample.id}: {len(prompted.requests)} choices, {len(loglikelihoods)} loglikelihoods"
        )
    values = tuple(float(one.value) for one in loglikelihoods)
    for index, value in enumerate(values):
        if not math.isfinite(value):
            return failed_sample(prompted, f"the loglikelihood of choice {index + 1} of {len(values)} is {value}")
    num_chars = tuple(len(request.continuation.removeprefix(delimiter)) for request in prompted.requests)
    prediction = first_highest(values)
    prediction_norm = first_highest(length_normalised(values, num_chars))
    sample = prompted.sample
    return Score(
        id=sample.id,
        subject=sample.subject,
        gold=sample.gold,
        prompt_hash=prompted.requests[0].prompt.sha256,
        prediction=prediction,
        prediction_norm=prediction_norm,
        correct=prediction == sample.gold,
        correct_norm=prediction_norm == sample.gold,
        loglikelihoods=values,
        is_greedy=tuple(bool(one.is_greedy) for one in loglikelihoods),
        num_choice_chars=num_chars,
        tie=is_tied(values),
        truncated=truncated,
        num_shots_dropped=num_shots_dropped,
    )


def failed_sample(prompted: PromptedSample, error: str) -> Score:
    """The record of a sample that has no score because of `error`."""
    sample = prompted.sample
    prompt_hash = prompted.requests[0].prompt.sha256
    return Score(id=sample.id, subject=sample.subject, gold=sample.gold, prompt_hash=prompt_hash, error=error)


def first_highest(values: Sequence[float]) -> int:
    """Index of the highest value, the first of them on a tie."""
    return max(range(len(values)), key=values.__getitem__)


def length_normalised(values: Sequence[float], num_chars: Sequence[int]) -> tuple[float, ...]:
    """Each loglikelihood divided by its choice's length in characters.

    An empty choice gets minus infinity, as the division by zero gives in lm-evaluation-harness.
    """
    return tuple(value / num if num else -math.inf for value, num in zip(values, num_chars, strict=True))


def is_tied(values: Sequence[float]) -> bool:
    """Whether the two highest values are exactly equal."""
    highest = max(values)
    return sum(value == highest for value in values) > 1


# --- a run --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GroupMetric:
    """A metric over the samples of one subject or one category.

    Attributes:
        value: share of right samples; None where no sample has a score.
        stderr: its standard error; None where fewer than two samples have a score.
        num_scored: samples with a score.
        num_failed: samples with an error.
    """

    value: float | None
    stderr: float | None
    num_scored: int
    num_failed: int


@dataclass(frozen=True, slots=True)
class RunMetric:
    """A metric over all samples of a run.

    Attributes:
        value: share of right samples, over samples (micro).
        stderr: its standard error, as lm-evaluation-harness computes it.
        ci95: Wilson's interval.
        average: "micro".
        chance: what guessing gives on average: the mean of 1 / number of choices.
        num_scored: samples with a score.
        num_failed: samples with an error; in no mean.
        num_truncated: scored samples from which tokens were cut or shots left out to fit the model's context.
        num_fewer_shots: those of them that were shortened by leaving out whole shots.
        num_ties: scored samples whose two best choices are exactly equal by this metric's measure.
    """

    value: float
    stderr: float | None
    ci95: tuple[float, float]
    average: str
    chance: float
    num_scored: int
    num_failed: int
    num_truncated: int
    num_fewer_shots: int
    num_ties: int


@dataclass(frozen=True, slots=True)
class MacroMetric:
    """The plain mean of the subjects' values. Value None where a subject has no scored sample."""

    value: float | None
    stderr: float | None
    ci95: tuple[float, float] | None
    average: str
    num_subjects: int


@dataclass(frozen=True, slots=True)
class _Measure:
    """How a metric reads a score."""

    is_right: Callable[[Score], bool | None]
    values: Callable[[Score], tuple[float, ...]]


MEASURES: Mapping[str, _Measure] = {
    "acc": _Measure(attrgetter("correct"), attrgetter("loglikelihoods")),
    "acc_norm": _Measure(
        attrgetter("correct_norm"), lambda score: length_normalised(score.loglikelihoods, score.num_choice_chars)
    ),
}


def summarise(
    scores: Sequence[Score], categories: Mapping[str, Sequence[str]] | None = None
) -> dict[str, dict[str, Any]]:
    """Return the parts `metrics`, `macro`, `groups` and `categories` of run.json.

    Args:
        scores: one a sample, in task order (floats are summed in this order).
        categories: the subjects of each category, where the task has categories. Subjects it does not name are
            left out of the categories only; subjects and categories without a sample here are left out.

    Raises:
        ScoringError: no sample has a score.
    """
    failed = [score for score in scores if score.error is not None]
    if len(failed) == len(scores):
        reason = f"all {len(failed)} failed, the first with: {failed[0].error}" if failed else "there are no samples"
        raise ScoringError(f"no sample has a score, so there is nothing to report: {reason}")
    by_subject: dict[str, list[Score]] = {}
    for score in scores:
        by_subject.setdefault(score.subject, []).append(score)
    order = _subject_order(by_subject, categories or {})
    parts: dict[str, dict[str, Any]] = {"metrics": {}, "macro": {}, "groups": {}, "categories": {}}
    for name, measure in MEASURES.items():
        leaves = {subject: _leaf(by_subject[subject], measure) for subject in order}
        parts["metrics"][name] = asdict(_run_metric(scores, measure, leaves))
        if not any(order):  # a task without subjects
            continue
        parts["macro"][name] = asdict(_macro(list(leaves.values())))
        for subject, leaf in leaves.items():
            parts["groups"].setdefault(subject, {})[name] = asdict(leaf)
        for category, members in (categories or {}).items():
            inside = [subject for subject in sorted(members) if subject in leaves]
            if inside:
                part = parts["categories"].setdefault(category, {"subjects": inside})
                part[name] = asdict(_pool([leaves[subject] for subject in inside]))
    return parts


def _subject_order(subjects: Mapping[str, object], categories: Mapping[str, Sequence[str]]) -> list[str]:
    """The subjects in the order of lm-evaluation-harness's leaf tasks; floats are summed in it."""
    in_categories = [subject for members in categories.values() for subject in sorted(members) if subject in subjects]
    return list(dict.fromkeys([*in_categories, *sorted(subjects)]))


def _leaf(scores: Sequence[Score], measure: _Measure) -> GroupMetric:
    """A subject's metric."""
    values = [1.0 if measure.is_right(score) else 0.0 for score in scores if score.error is None]
    value = mean(values) if values else None
    return GroupMetric(value, sample_stderr(values), len(values), len(scores) - len(values))


def _pool(leaves: Sequence[GroupMetric]) -> GroupMetric:
    """The metric over the samples of several subjects."""
    scored = [leaf for leaf in leaves if leaf.num_scored]
    sizes = [leaf.num_scored for leaf in scored]
    num_failed = sum(leaf.num_failed for leaf in leaves)
    if len(scored) == 1:
        return GroupMetric(scored[0].value, scored[0].stderr, sizes[0], num_failed)
    if not scored:
        return GroupMetric(None, None, 0, num_failed)
    values = [leaf.value for leaf in scored if leaf.value is not None]
    stderr = pooled_stderr([leaf.stderr for leaf in scored], sizes)
    return GroupMetric(weighted_mean(values, sizes), stderr, sum(sizes), num_failed)


def _macro(leaves: Sequence[GroupMetric]) -> MacroMetric:
    """The plain mean over subjects."""
    values = [leaf.value for leaf in leaves if leaf.value is not None]
    if len(values) < len(leaves):
        return MacroMetric(None, None, None, "macro", len(leaves))
    value = mean(values)
    stderr = unweighted_stderr([leaf.stderr for leaf in leaves])
    return MacroMetric(value, stderr, ci95(value, stderr), "macro", len(leaves))


def _run_metric(scores: Sequence[Score], measure: _Measure, leaves: Mapping[str, GroupMetric]) -> RunMetric:
    """The metric over all samples, which hold at least one score."""
    scored = [score for score in scores if score.error is None]
    whole = _pool(list(leaves.values()))
    assert whole.value is not None  # `summarise` has refused a run without a score
    return RunMetric(
        value=whole.value,
        stderr=whole.stderr,
        ci95=wilson_ci95(whole.value, len(scored)),
        average="micro",
        chance=mean([1 / len(score.loglikelihoods) for score in scored]),
        num_scored=len(scored),
        num_failed=whole.num_failed,
        num_truncated=sum(score.truncated for score in scored),
        num_fewer_shots=sum(score.num_shots_dropped > 0 for score in scored),
        num_ties=sum(is_tied(measure.values(score)) for score in scored),
    )

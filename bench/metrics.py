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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.errors import ScoringError
from bench.measures import MEASURES, Measure, first_highest, is_tied, length_normalised, sample_values
from bench.records import Loglikelihood, PromptedSample, Score
from bench.stats import ci95, mean, pooled_stderr, unweighted_stderr, weighted_mean, wilson_ci95

BOTH_ACCURACIES = ("acc", "acc_norm")

# --- one sample ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shortening:
    """How a prompt was made to fit the model's context.

    Attributes:
        num_shots_dropped: whole shots left out.
        is_cut: tokens were cut from the left.
    """

    num_shots_dropped: int = 0
    is_cut: bool = False


AS_IT_IS = Shortening()
"""A prompt that fits."""


def score_sample(
    prompted: PromptedSample,
    loglikelihoods: Sequence[Loglikelihood],
    *,
    metrics: Sequence[str] = BOTH_ACCURACIES,
    delimiter: str = " ",
    shortening: Shortening = AS_IT_IS,
) -> Score:
    """Turn the loglikelihoods of a sample's requests into its score, as lm-evaluation-harness does.

    The prediction is the first of the highest loglikelihoods, in the order in which the choices are shown. `acc_norm`
    divides each by the length of its choice in characters, the delimiter between context and choice not counted. Where
    there is but one continuation and nothing to choose, it is right if each of its tokens was the most probable one. A
    loglikelihood that is no finite number gives an error, not a score.
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
    is_greedy = tuple(bool(one.is_greedy) for one in loglikelihoods)
    sample = prompted.sample
    is_choice = bool(sample.golds)
    prediction = first_highest(values, sample.order) if is_choice else None
    prediction_norm = first_highest(length_normalised(values, num_chars), sample.order) if is_choice else None
    return Score(
        id=sample.id,
        subject=sample.subject,
        gold=sample.gold,
        prompt_hash=prompted.prompt.sha256,
        prediction=prediction,
        prediction_norm=prediction_norm,
        correct=prediction in sample.golds if is_choice else is_greedy[0],
        correct_norm=prediction_norm in sample.golds if is_choice else None,
        loglikelihoods=values,
        is_greedy=is_greedy,
        num_choice_chars=num_chars,
        tie=is_tied(values),
        truncated=shortening.is_cut or shortening.num_shots_dropped > 0,
        num_shots_dropped=shortening.num_shots_dropped,
        values=sample_values(metrics, prompted, loglikelihoods),
    )


def add_windows(windows: Sequence[Loglikelihood]) -> Loglikelihood:
    """The loglikelihood of a text from its windows'."""
    return Loglikelihood(
        value=sum(one.value for one in windows),
        is_greedy=all(one.is_greedy for one in windows),
        num_tokens=sum(one.num_tokens for one in windows),
    )


def failed_sample(prompted: PromptedSample, error: str) -> Score:
    """The record of a sample that has no score because of `error`."""
    sample = prompted.sample
    return Score(
        id=sample.id, subject=sample.subject, gold=sample.gold, prompt_hash=prompted.prompt.sha256, error=error
    )


# --- a run --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GroupMetric:
    """A metric over the samples of one subject or one category.

    Attributes:
        value: None where no sample has a score.
        stderr: its standard error; None where fewer than two samples have a score, or none is known for the metric.
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
        value: over samples (micro).
        unit: `share`, or `number`.
        stderr: its standard error, as lm-evaluation-harness computes it; None where none is known.
        ci95: Wilson's interval where each sample is right or wrong, else value ± 1.96 stderr.
        average: "micro".
        chance: what guessing gives on average: the mean of 1 / number of choices; None where nothing is chosen.
        num_scored: samples with a score.
        num_failed: samples with an error; in no mean.
        num_no_answer: scored samples whose completion holds no answer; they are wrong.
        num_cut_off: scored samples whose completion ended at the most tokens allowed.
        num_refused: scored samples that the model, or the service, would not answer.
        num_truncated: scored samples from which tokens were cut or shots left out to fit the model's context.
        num_fewer_shots: those of them that were shortened by leaving out whole shots.
        num_ties: scored samples whose two best choices are exactly equal by this metric's measure.
    """

    value: float
    unit: str
    stderr: float | None
    ci95: tuple[float, float] | None
    average: str
    chance: float | None
    num_scored: int
    num_failed: int
    num_no_answer: int
    num_cut_off: int
    num_refused: int
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


def summarise(
    scores: Sequence[Score],
    categories: Mapping[str, Sequence[str]] | None = None,
    metrics: Sequence[str] | Mapping[str, Measure] = BOTH_ACCURACIES,
    subjects: Sequence[str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Return the parts `metrics`, `macro`, `groups` and `categories` of run.json.

    Args:
        scores: one a sample, in task order (floats are summed in this order).
        categories: the subjects of each category, where the task has categories. Subjects it does not name are
            left out of the categories only; subjects and categories without a sample here are left out.
        metrics: names in `MEASURES`, or measures by their names.
        subjects: their order; by default, that of lm-evaluation-harness's leaf tasks.

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
    order = _subject_order(by_subject, categories or {}) if subjects is None else [*filter(by_subject.get, subjects)]
    measures = metrics if isinstance(metrics, Mapping) else {name: MEASURES[name] for name in metrics}
    parts: dict[str, dict[str, Any]] = {"metrics": {}, "macro": {}, "groups": {}, "categories": {}}
    for name, measure in measures.items():
        leaves = {subject: _leaf(by_subject[subject], measure) for subject in order}
        parts["metrics"][name] = asdict(_run_metric(scores, measure, leaves))
        if not any(order):  # a task without subjects
            continue
        parts["macro"][name] = asdict(_macro(list(leaves.values()), measure))
        for subject, leaf in leaves.items():
            parts["groups"].setdefault(subject, {})[name] = asdict(leaf)
        for category, members in (categories or {}).items():
            inside = [subject for subject in sorted(members) if subject in leaves]
            if inside:
                part = parts["categories"].setdefault(category, {"subjects": inside})
                own = [score for subject in inside for score in by_subject[subject]]
                part[name] = asdict(_pool(own, measure, [leaves[subject] for subject in inside]))
    return parts


def _subject_order(subjects: Mapping[str, object], categories: Mapping[str, Sequence[str]]) -> list[str]:
    """The subjects in the order of lm-evaluation-harness's leaf tasks; floats are summed in it."""
    in_categories = [subject for members in categories.values() for subject in sorted(members) if subject in subjects]
    return list(dict.fromkeys([*in_categories, *sorted(subjects)]))


def _leaf(scores: Sequence[Score], measure: Measure) -> GroupMetric:
    """A subject's metric."""
    scored = [score for score in scores if score.error is None]
    value, stderr = measure.average(scored) if scored else (None, None)
    return GroupMetric(value, stderr, len(scored), len(scores) - len(scored))


def _pool(scores: Sequence[Score], measure: Measure, leaves: Sequence[GroupMetric]) -> GroupMetric:
    """The metric over the samples of several subjects, whose own metrics are `leaves`."""
    scored = [leaf for leaf in leaves if leaf.num_scored]
    sizes = [leaf.num_scored for leaf in scored]
    num_failed = sum(leaf.num_failed for leaf in leaves)
    if len(scored) == 1:
        return GroupMetric(scored[0].value, scored[0].stderr, sizes[0], num_failed)
    if not scored or measure.value is None:  # no mean of samples, so none of the subjects' means either
        return _leaf(scores, measure)
    values = [leaf.value for leaf in scored if leaf.value is not None]
    stderr = pooled_stderr([leaf.stderr for leaf in scored], sizes)
    return GroupMetric(weighted_mean(values, sizes), stderr, sum(sizes), num_failed)


def _macro(leaves: Sequence[GroupMetric], measure: Measure) -> MacroMetric:
    """The plain mean over subjects."""
    values = [leaf.value for leaf in leaves if leaf.value is not None]
    if len(values) < len(leaves):
        return MacroMetric(None, None, None, "macro", len(leaves))
    value = mean(values)
    stderr = unweighted_stderr([leaf.stderr for leaf in leaves])
    return MacroMetric(value, stderr, _interval(value, stderr, measure), "macro", len(leaves))


def _run_metric(scores: Sequence[Score], measure: Measure, leaves: Mapping[str, GroupMetric]) -> RunMetric:
    """The metric over all samples, which hold at least one score."""
    scored = [score for score in scores if score.error is None]
    whole = _pool(scores, measure, list(leaves.values()))
    assert whole.value is not None  # `summarise` has refused a run without a score
    completions = [score.completion for score in scored if score.completion is not None]
    choices = [len(score.num_choice_chars) for score in scored if score.gold is not None]
    return RunMetric(
        value=whole.value,
        unit=measure.unit,
        stderr=whole.stderr,
        ci95=wilson_ci95(whole.value, len(scored))
        if measure.is_binary
        else _interval(whole.value, whole.stderr, measure),
        average="micro",
        chance=mean([1 / num for num in choices]) if all(choices) and measure.is_binary and choices else None,
        num_scored=len(scored),
        num_failed=whole.num_failed,
        num_no_answer=sum(score.completion is not None and score.extracted is None for score in scored),
        num_cut_off=sum(completion.finish_reason == "length" for completion in completions),
        num_refused=sum(completion.finish_reason in ("refusal", "filtered") for completion in completions),
        num_truncated=sum(score.truncated for score in scored),
        num_fewer_shots=sum(score.num_shots_dropped > 0 for score in scored),
        num_ties=sum(is_tied(measure.compared(score)) for score in scored),
    )


def _interval(value: float, stderr: float | None, measure: Measure) -> tuple[float, float] | None:
    """The normal 95 % interval; only shares end at 0 and 1."""
    return ci95(value, stderr, most=1.0 if measure.unit == "share" else math.inf)

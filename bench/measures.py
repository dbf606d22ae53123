"""The metrics: what each makes of one sample, and how a run's number comes of its samples. Pure functions.

The numbers are lm-evaluation-harness 0.4.13's of the same names. What the name of a metric is known by here may be
asked for by a task's form (`metrics`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

from bench.records import Lane, Loglikelihood, PromptedSample, Score
from bench.stats import mean, sample_stderr
from bench.writing.written import corpus_score

_NUM_WORDS, _NUM_BYTES = "num_words", "num_bytes"  # in `Score.values` of a whole text

Average = Callable[[Sequence[Score]], tuple[float, float | None]]


@dataclass(frozen=True, slots=True)
class Measure:
    """How a metric reads scores.

    Attributes:
        lanes: in which it has a meaning.
        value: a scored sample's value; None where the run's number is no mean of such values.
        average: the number of several scored samples, and its standard error (None where none is known).
        unit: `share` (0 to 1), or a plain number.
        is_binary: each sample's value is 0 or 1.
        higher_is_better: lower is, for perplexities.
        compared: the numbers whose two best must not be equal, for ties.
    """

    lanes: tuple[Lane, ...]
    value: Callable[[Score], float] | None
    average: Average
    unit: Literal["share", "number"] = "share"
    is_binary: bool = False
    higher_is_better: bool = True
    compared: Callable[[Score], tuple[float, ...]] = attrgetter("loglikelihoods")


def length_normalised(values: Sequence[float], num_chars: Sequence[int]) -> tuple[float, ...]:
    """Each loglikelihood divided by its choice's length in characters.

    An empty choice gets minus infinity, as the division by zero gives in lm-evaluation-harness.
    """
    return tuple(value / num if num else -math.inf for value, num in zip(values, num_chars, strict=True))


def first_highest(values: Sequence[float], order: Sequence[int] = ()) -> int:
    """Index of the highest value; on a tie the first of them, in `order` where one is given."""
    return max(order or range(len(values)), key=values.__getitem__)


def is_tied(values: Sequence[float]) -> bool:
    """Whether the two highest values are exactly equal."""
    highest = max(values, default=0.0)
    return sum(value == highest for value in values) > 1


def sample_values(
    metrics: Sequence[str], prompted: PromptedSample, loglikelihoods: Sequence[Loglikelihood]
) -> dict[str, float]:
    """What a sample's score holds for metrics other than acc and acc_norm, from its loglikelihoods."""
    values: dict[str, float] = {}
    if "mc2" in metrics:
        values["mc2"] = _share_of_golds(prompted.sample.golds, [one.value for one in loglikelihoods])
    if _PER_TEXT.intersection(metrics):
        text = prompted.requests[0].continuation
        values |= {_NUM_WORDS: len(re.split(r"\s+", text)), _NUM_BYTES: len(text.encode())}
    return values


def _share_of_golds(golds: Sequence[int], values: Sequence[float]) -> float:
    """The right choices' share of the probability of all choices."""
    best = max(values)
    shares = [math.exp(value - best) for value in values]
    return sum(shares[gold] for gold in golds) / sum(shares)


def _mean_of(value: Callable[[Score], float]) -> Average:
    def average(scores: Sequence[Score]) -> tuple[float, float | None]:
        values = [value(score) for score in scores]
        return mean(values), sample_stderr(values)

    return average


def _mean(value: Callable[[Score], float], *lanes: Lane, **fields: object) -> Measure:
    return Measure(lanes, value, _mean_of(value), **fields)  # type: ignore[arg-type]


def _stored(name: str, *lanes: Lane, **fields: object) -> Measure:
    return _mean(lambda score: score.values[name], *lanes, **fields)


def _perplexity(scores: Sequence[Score]) -> tuple[float, float | None]:
    """Exp of minus the mean loglikelihood of a continuation; its standard error by the delta method."""
    values = [score.loglikelihoods[0] for score in scores]
    value, stderr = math.exp(-mean(values)), sample_stderr(values)
    return value, None if stderr is None else value * stderr


def _per(unit: str, finish: Callable[[float], float]) -> Average:
    """A number of the mean loglikelihood of a word or byte, all texts taken together."""

    def average(scores: Sequence[Score]) -> tuple[float, float | None]:
        total = sum(score.loglikelihoods[0] for score in scores)
        return finish(-total / sum(score.values[unit] for score in scores)), None

    return average


def _of_text(average: Average) -> Measure:
    return Measure(("likelihood",), None, average, "number", higher_is_better=False)


def _of_corpus(name: str) -> Measure:
    """A number of all completions together; its standard error is not known in closed form."""

    def average(scores: Sequence[Score]) -> tuple[float, float | None]:
        return corpus_score(name, [score.values for score in scores]), None

    return Measure(("generate",), None, average)


MEASURES: Mapping[str, Measure] = {
    "acc": _mean(lambda score: float(bool(score.correct)), "likelihood", "generate", is_binary=True),
    "acc_norm": _mean(
        lambda score: float(bool(score.correct_norm)),
        "likelihood",
        is_binary=True,
        compared=lambda score: length_normalised(score.loglikelihoods, score.num_choice_chars),
    ),
    "mc2": _stored("mc2", "likelihood"),
    "perplexity": _of_text(_perplexity),
    "word_perplexity": _of_text(_per(_NUM_WORDS, math.exp)),
    "byte_perplexity": _of_text(_per(_NUM_BYTES, math.exp)),
    "bits_per_byte": _of_text(_per(_NUM_BYTES, lambda nats: nats / math.log(2))),
    "exact_match": _stored("exact_match", "generate", is_binary=True),
    "squad_em": _stored("squad_em", "generate", is_binary=True),
    "squad_f1": _stored("squad_f1", "generate"),
    "pass_at_1": _stored("pass_at_1", "generate", is_binary=True),
    **{name: _stored(name, "generate") for name in ("rouge1", "rouge2", "rouge_l", "rouge_lsum")},
    **{name: _of_corpus(name) for name in ("bleu", "bleu_zh", "bleu_char", "chrf", "chrf_pp")},
}
_PER_TEXT = frozenset({"word_perplexity", "byte_perplexity", "bits_per_byte"})

"""What a comparison of runs is: who stands in it, which pairs were tested, and what came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.runs.reading import Run
from bench.stats.paired import Agreement, PairedDifference
from bench.stats.published import AgainstPublished


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked of a comparison.

    Attributes:
        baseline: a model's name or a run folder that all others are compared with; None: all with each other.
        allow_unlike: compare unlike settings, and mark them.
        cluster: a column of the task's rows; questions with equal values there are a cluster. None: as the task says.
        published: scores that were published, from 0 to 1, by what to call them; each run is tested against each.
    """

    baseline: str | None = None
    allow_unlike: bool = False
    cluster: str | None = None
    published: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """A run in a comparison.

    Attributes:
        run: the run.
        metric: its headline metric's name.
        value: its mean over the questions that all runs have a score for.
        ci95: Wilson's interval of it, or the clustered one; None where there is none.
        rank: the 95 % interval of its rank.
        num_failed: of the shared questions, those for which it has an error.
        num_no_answer: of the questions that all runs have a score for, those whose completion holds no answer.
        settings: what its settings are, in words, where they differ between the runs.
        groups: the tied groups it is in, numbered from 0; empty where there is a baseline.
    """

    run: Run
    metric: str
    value: float
    ci95: tuple[float, float] | None
    rank: tuple[int, int]
    num_failed: int
    num_no_answer: int
    settings: Mapping[str, str]
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Pair:
    """Two runs of a comparison, on the questions that both have a score for.

    Attributes:
        first: place among the entries of the one that stands lower, or, with a baseline, is not the baseline.
        second: the other's.
        difference: the first minus the second.
        agreement: in their answers, or, where these are not known, in what they get right; None for metrics that know
            no right and wrong.
        has_answers: whether it is of the answers.
        p_holm: the difference's p, adjusted for all tests of the command.
    """

    first: int
    second: int
    difference: PairedDifference
    agreement: Agreement | None
    has_answers: bool
    p_holm: float = 1.0


@dataclass(frozen=True, slots=True)
class PublishedTest:
    """A run against a published score, on the questions that all runs have a score for.

    Attributes:
        entry: the run's place among the entries.
        name: what the score is called.
        found: see `AgainstPublished`.
        p_holm: its p, adjusted as that of pairs is.
    """

    entry: int
    name: str
    found: AgainstPublished
    p_holm: float = 1.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """The runs of one task.

    Attributes:
        task: its name.
        unit: of the metric: `share` or `number`.
        entries: the best first.
        reference: the place of the baseline; of the best, without one.
        has_baseline: only comparisons with the baseline were made.
        pairs: all that were tested.
        published: tests against published scores.
        num_common: questions that all runs have a score for.
        num_shared: questions that all runs were put, failures included.
        num_left_out: further questions, put to some of the runs only.
        num_differing: questions of one id but different content, left out.
        num_clusters: clusters the questions come in; None where each is its own.
        num_tests: tests of the whole command, which Holm's adjustment is for.
    """

    task: str
    unit: str
    entries: tuple[Entry, ...]
    reference: int
    has_baseline: bool
    pairs: tuple[Pair, ...]
    published: tuple[PublishedTest, ...]
    num_common: int
    num_shared: int
    num_left_out: int
    num_differing: int
    num_clusters: int | None
    num_tests: int = 0

    @property
    def against_reference(self) -> list[Pair]:
        """The pairs with the reference."""
        return [pair for pair in self.pairs if pair.second == self.reference]


@dataclass(frozen=True, slots=True)
class Compared:
    """What a command compared.

    Attributes:
        tasks: one a task.
        alone: tasks of which there is a single run, so that there was nothing to compare.
    """

    tasks: tuple[Comparison, ...]
    alone: tuple[str, ...]

"""Scoring as a thing to measure: a task is put to a model again and again, by the very path that `bench run` takes.

Every repeat begins with prompts and ends with scores: it encodes, plans and scores all samples anew, in memory. What
the first one does besides (the self-check, compiling) is its warm-up. Loading, and measuring the machine's rate of
matrix products between packs, are not in a repeat's seconds, as they are not in a run's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config import EngineSpec
from bench.errors import ScoringError
from bench.local_model import LocalModel
from bench.runs.folder import RunShare
from bench.runs.journal import Journal
from bench.runs.names import identity
from bench.scoring import score_samples
from bench.speed.repeating import Repeats, repeat, summarise
from bench.speed.spec import SpeedSpec
from bench.stats.medians import quantile
from bench.tasks.job import Job
from bench.telemetry.summary import count_answers, sum_energy, summarise_energy

log = logging.getLogger(__name__)

_SPLIT = ("encode_s", "plan_s", "wait_s", "score_s")


@dataclass(frozen=True, slots=True)
class Scoring:
    """A task as a point of a speed run.

    Attributes:
        job: the task, its rows and prompts.
        key: its name in the journal, which ends in a hash of all that the work depends on besides the model.
    """

    job: Job
    key: str


def plan_scorings(jobs: Iterable[Job], engine: EngineSpec) -> list[Scoring]:
    """Tasks as points; rows, prompts and engine settings tell them apart."""
    told = engine.model_dump(mode="json")
    return [Scoring(job, f"scoring {job.title} {identity({**job.identity(), 'engine': told})[:8]}") for job in jobs]


class ScoringMeter:
    """Measures scoring with one model, which is loaded when it is first needed."""

    def __init__(self, model: LocalModel, spec: SpeedSpec) -> None:
        self._model = model
        self._spec = spec

    def measure(self, point: Scoring) -> dict[str, Any]:
        """What `points.jsonl` holds of a task: rates, the seconds' split, the floor, memory and energy.

        Raises:
            ScoringError: the task cannot be put to this model, or no sample got a score.
        """
        model, session = self._model, self._model.session
        if reason := model.refusal(point.job):
            raise ScoringError(reason)
        job = model.put(point.job)
        session.load()
        session.reset_peak_memory()
        made: list[_InMemory] = []

        def once() -> tuple[float, float]:
            folder = _InMemory()
            score_samples(session, job, folder, _Unheard())
            made.append(folder)
            return 0.0, folder.seconds

        repeats = repeat(once, self._spec)
        log.info("%s: %d repeats", point.key, len(repeats.spans))
        return describe_scoring(point, repeats, [folder.results for folder in made[1:]], made[-1])


class _Unheard:
    """Hears of progress and keeps it to itself: what is shown are points."""

    def plan(self, num_tokens: int, *, is_all: bool) -> None:
        """Do nothing."""

    def advance(self, num_tokens: int) -> None:
        """Do nothing."""


class _InMemory(RunShare):
    """The run folder of a repeat, which is none: scores and results stay here.

    Attributes:
        results: what a run.json would be given at the end.
    """

    def __init__(self) -> None:
        super().__init__(Path(), {}, Journal(), None)
        self.results: dict[str, Any] = {}

    @property
    def seconds(self) -> float:
        """From prompts to scores: the model scored, or stood idle for want of packs."""
        timing = self.results["timing"]
        return float(timing["wait_s"] + timing["score_s"])

    def update(self, changes: Mapping[str, Any]) -> None:
        """Keep what was decided on the way."""
        self.info |= changes

    def finish(self, order: object, results: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Keep the results."""
        self.results = {**results, "packs": {**self.info["packs"], **results["packs"]}}

    def keep(self, name: str, data: bytes) -> None:
        """Keep no readings: those of the last repeat are summed up in the results."""


def describe_scoring(point: Scoring, repeats: Repeats, results: list[dict[str, Any]], last: RunShare) -> dict[str, Any]:
    """A point's record.

    Args:
        point: the task.
        repeats: how it went.
        results: what each of the timed repeats came to, as a run.json has it.
        last: the last one's scores.
    """
    repeat_s = summarise(repeats.repeat_s)
    median_s, ends = repeat_s["p50"], repeat_s["median_ci95"]
    tokens, floor = results[-1]["tokens"], results[-1]["floor"]
    num = len(last.done)
    # Not the highest: these rates are taken amid the work, and move with the machine as the seconds do.
    flops_per_s = quantile([one["floor"]["matmul_flops_per_s"] for one in results], 0.5)
    share = floor["flops"] / flops_per_s / median_s
    return {
        "key": point.key,
        "phase": "scoring",
        "task": _describe_task(point.job),
        "num_questions": num,
        "num_failed": len(last.failed),
        "num_requests": results[-1]["requests"]["num"],
        "num_tokens": tokens,
        "warm_up_s": repeats.warm_up_s,
        "self_check_s": results[0]["timing"]["self_check_s"],
        "repeat_s": repeat_s,
        "split_s": {name: quantile([one["timing"][name] for one in results], 0.5) for name in _SPLIT},
        "questions_per_s": num / median_s,
        "questions_per_s_ci95": None if ends is None else [num / end for end in reversed(ends)],
        "tokens_per_s": tokens["distinct"] / median_s,
        "tokens_per_s_ci95": None if ends is None else [tokens["distinct"] / end for end in reversed(ends)],
        "logical_tokens_per_s": tokens["logical"] / median_s,
        "is_tight": repeats.is_tight,
        "flops": floor["flops"],
        "num_bytes": None,
        "matmul_flops_per_s": flops_per_s,
        "memory_bytes_per_s": None,
        "floor_s": floor["flops"] / flops_per_s,
        "share": share,
        "mfu": share,
        "mbu": None,
        "peak_memory_bytes": max(one["peak_memory_bytes"] for one in results),
        "memory": results[-1]["telemetry"]["memory"],
        "energy": _energy(results, last),
        "packs": results[-1]["packs"],
        "engine": results[-1]["engine"],
        "notes": list(dict.fromkeys(note for one in results for note in one["notes"])),
    }


def _describe_task(job: Job) -> dict[str, Any]:
    told = job.describe()
    names = ("name", "version", "scoring", "num_fewshot", "limit", "subjects", "num_samples", "prompt_hash")
    return {"title": job.title, **{name: told.get(name) for name in names}}


def _energy(results: list[dict[str, Any]], last: RunShare) -> dict[str, Any]:
    """What all timed repeats used, for each question and token of theirs."""
    sums: dict[str, Any] = {}
    for one in results:
        sums = sum_energy(sums, one["telemetry"])
    tokens = results[-1]["tokens"]
    each = {**count_answers(last.done.values()), "token": tokens["distinct"], "logical_token": tokens["logical"]}
    counts = {name: number * len(results) for name, number in each.items()}
    spent_s = sum(one["timing"]["score_s"] for one in results)
    return summarise_energy(sums, results[-1]["telemetry"], spent_s, counts)

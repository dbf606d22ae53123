"""A run by questions: samples go to a model, each is scored and journaled as soon as its answer is there.

Several processes may do so together, see `bench.team`: the samples still to be answered are dealt out in turn. Where
all ranks run each forward pass together, all answer all of them, and rank 0 journals.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, Protocol

from bench.engine.pipeline import Progress
from bench.errors import StoreError
from bench.records import PromptedSample, Score
from bench.runs.folder import RunShare
from bench.tasks.job import Job
from bench.team import ALONE, Team
from bench.telemetry.summary import count_answers, put_telemetry_together, sum_energy, summarise_energy

log = logging.getLogger(__name__)

_SAVE_EVERY_S = 2.0
_COUNTED = ("logical", "prompt", "completion")  # of `tokens`, those that energy is divided by

Answer = Callable[[Sequence[PromptedSample]], Iterator[Score]]
"""Scores samples, in any order; the clock runs from when it has returned."""


class Answerer(Protocol):
    """A model that answers a job's questions, as a run needs it."""

    def answering(self, info: Mapping[str, Any]) -> AbstractContextManager[Answer]:
        """What answers within this context; the model is loaded, or connected to, on entering it.

        Args:
            info: run.json as it stands: an earlier sitting may have left there what this one adds to.

        Raises:
            SteelyardError: the model cannot be loaded or reached.
        """

    def measured(self) -> Mapping[str, Any]:
        """What to merge into run.json, as of now and with earlier sittings: `engine`, `peak_memory_bytes`, ..."""

    def summed(self, scores: Sequence[Score]) -> Mapping[str, Any]:
        """What follows from all scores besides the metrics: `tokens`, ..."""


def answer_samples(answerer: Answerer, job: Job, folder: RunShare, progress: Progress, team: Team = ALONE) -> None:
    """Have what the run folder does not hold yet answered, and finish it.

    Raises:
        SteelyardError: the model cannot be had or goes on no longer, the disk is full, or no sample got a score.
    """
    run = _Run(answerer, job, folder, progress, team)
    try:
        run.answer()
        run.finish()
    except BaseException:  # an interrupt, too
        with contextlib.suppress(StoreError, RuntimeError):  # a full disk must not hide it
            run.save()
        raise


class _Run:
    """A run in progress."""

    def __init__(self, answerer: Answerer, job: Job, folder: RunShare, progress: Progress, team: Team) -> None:
        self.answerer = answerer
        self.job = job
        self.folder = folder
        self.progress = progress
        self.team = team
        self.began = self.saved = time.perf_counter()
        self.before: dict[str, float] = dict(folder.info.get("timing", {}))
        self.energy_before: dict[str, Any] = dict(folder.info.get("energy", {}))
        self.score_s = 0.0
        self.num_shown = 0
        self.num_done = 0  # in this sitting, by this process
        team.tell(0)

    def answer(self) -> None:
        """Have this process's share of what is pending answered; a score is on the disk before the next is awaited."""
        folder, team = self.folder, self.team
        pending = [sample for sample in self.job.samples if sample.sample.id not in folder.done]
        if team.is_first:
            self.progress.plan(len(self.job.samples), is_all=True)
        if not pending:
            return
        with contextlib.ExitStack() as stack:
            answer = team.agree(lambda: stack.enter_context(self.answerer.answering(folder.info)))
            self.progress.advance(len(self.job.samples) - len(pending))
            share = pending if team.is_lockstep else pending[team.rank :: team.size]
            team.agree(lambda: self._answer(answer, share), meanwhile=self._watch)

    def _answer(self, answer: Answer, share: Sequence[PromptedSample]) -> None:
        scores = answer(share)
        clock = time.perf_counter()
        for score in scores:
            self.score_s += time.perf_counter() - clock
            self.folder.append([score])
            self.num_done += 1
            self._watch()
            clock = time.perf_counter()

    def _watch(self) -> None:
        """Show, and now and then save, how far all processes are."""
        self.team.tell(self.num_done)
        if not self.team.is_first:
            return
        num_done = self.num_done if self.team.is_lockstep else sum(self.team.told())
        if num_done > self.num_shown:
            self.progress.advance(num_done - self.num_shown)
            self.num_shown = num_done
        if time.perf_counter() - self.saved > _SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        """Keep what has been measured so far, so that a killed run's sittings add up."""
        self.saved = time.perf_counter()
        measured = self.answerer.measured()
        self.folder.update({**measured, "timing": {**measured.get("timing", {}), **self._timing(self.score_s)}})
        if self.team.size == 1:  # of several, what one of them used would pass for the whole
            self.folder.update({"energy": sum_energy(self.energy_before, measured.get("telemetry", {}))})

    def _timing(self, score_s: float) -> dict[str, float]:
        sums = {"score_s": score_s, "total_s": time.perf_counter() - self.began}
        return {name: round(spent + self.before.get(name, 0.0), 4) for name, spent in sums.items()}

    def finish(self) -> None:
        """Write metrics and what was measured; `finished` comes last."""
        parts = self.team.gather([self.score_s, dict(self.answerer.measured())])
        if not self.team.is_first:
            return
        folder = self.folder
        folder.take_shares()
        order = [sample.sample.id for sample in self.job.samples]
        lines = folder.failed | folder.done
        scores = [lines[key] for key in order]
        measured = _together([own for _, own in parts])
        timing, summed = self._timing(max(seconds for seconds, _ in parts)), self.answerer.summed(scores)
        results = {
            **self.job.summarise(scores),
            **summed,
            **measured,
            **self._energy(measured.get("telemetry"), scores, summed.get("tokens", {}), timing["score_s"]),
            "timing": {**measured.get("timing", {}), **timing},
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        folder.finish(order, results)
        log.info("finished: %s", {name: metric["value"] for name, metric in results["metrics"].items()})

    def _energy(
        self, telemetry: dict[str, Any] | None, scores: Sequence[Score], tokens: Mapping[str, int], score_s: float
    ) -> dict[str, Any]:
        """The part `energy`, where the model ran on this machine and something was left to answer."""
        if not telemetry:
            return {}
        counts = count_answers(scores) | {f"{name}_token": tokens[name] for name in _COUNTED if name in tokens}
        sums = sum_energy(self.energy_before, telemetry)
        return {"energy": summarise_energy(sums, telemetry, score_s, counts)}


def _together(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the processes on a run measured, put together: the first one's, but the highest peak and all notes."""
    peaks = [part["peak_memory_bytes"] for part in parts if part.get("peak_memory_bytes")]
    notes = list(dict.fromkeys(note for part in parts for note in part.get("notes", ())))
    watched = [part["telemetry"] for part in parts if part.get("telemetry")]
    return {
        **parts[0],
        "notes": notes,
        **({"peak_memory_bytes": max(peaks)} if peaks else {}),
        **({"telemetry": put_telemetry_together(watched)} if watched else {}),
    }

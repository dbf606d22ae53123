"""A run in the lane `generate`: prompts go to a model that writes, each completion is scored and journaled at once.

Several processes may do so together, see `bench.team`: the prompts still to be completed are dealt out in turn. Where
all ranks run each forward pass together, all complete all of them, and rank 0 journals.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, Protocol

from bench.completer import Completer, GenerationSettings
from bench.engine.pipeline import Progress
from bench.errors import StoreError
from bench.metrics import failed_sample
from bench.records import Completion, Message, PromptedSample, Score
from bench.runs.folder import RunShare
from bench.tasks.job import Job
from bench.team import ALONE, Team
from bench.telemetry.summary import count_answers, put_telemetry_together, sum_energy, summarise_energy

log = logging.getLogger(__name__)

_SAVE_EVERY_S = 2.0


class Writer(Protocol):
    """A model that writes, as a run needs it."""

    def writing(self, info: Mapping[str, Any]) -> AbstractContextManager[Completer]:
        """What completes prompts within this context; the model is loaded, or connected to, on entering it.

        Args:
            info: run.json as it stands: an earlier sitting may have left there what this one adds to.

        Raises:
            SteelyardError: the model cannot be loaded or reached.
        """

    def fits(self, prompts: Sequence[tuple[Message, ...]], settings: GenerationSettings) -> Sequence[bool]:
        """Whether the model has room for each prompt and a completion of the most tokens; asked inside `writing`."""

    def measured(self) -> Mapping[str, Any]:
        """What to merge into run.json, as of now and with earlier sittings: `engine`, `peak_memory_bytes`, ..."""


def complete_samples(writer: Writer, job: Job, folder: RunShare, progress: Progress, team: Team = ALONE) -> None:
    """Complete and score what the run folder does not hold yet, and finish it.

    Raises:
        SteelyardError: the model cannot be had or goes on no longer, the disk is full, or no sample got a score.
    """
    run = _Run(writer, job, folder, progress, team)
    try:
        run.complete()
        run.finish()
    except BaseException:  # an interrupt, too
        with contextlib.suppress(StoreError, RuntimeError):  # a full disk must not hide it
            run.save()
        raise


class _Run:
    """A run in progress."""

    def __init__(self, writer: Writer, job: Job, folder: RunShare, progress: Progress, team: Team) -> None:
        self.writer = writer
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

    def complete(self) -> None:
        """Complete this process's share of what is pending; a score is on the disk before the next is waited for."""
        folder, team = self.folder, self.team
        pending = [sample for sample in self.job.samples if sample.sample.id not in folder.done]
        if team.is_first:
            self.progress.plan(len(self.job.samples), is_all=True)
        if not pending:
            return
        with contextlib.ExitStack() as stack:
            completer = team.agree(lambda: stack.enter_context(self.writer.writing(folder.info)))
            self.progress.advance(len(self.job.samples) - len(pending))
            share = pending if team.is_lockstep else pending[team.rank :: team.size]
            team.agree(lambda: self._complete(completer, share), meanwhile=self._watch)

    def _complete(self, completer: Completer, share: Sequence[PromptedSample]) -> None:
        settings, samples = self.job.settings, self._shortened(share)
        clock = time.perf_counter()
        results = completer.complete([self.job.conversation(sample.prompt) for sample, _ in samples], settings)
        for number, result in results:
            self.score_s += time.perf_counter() - clock
            self.folder.append([self._score(*samples[number], result)])
            self.num_done += 1
            self._watch()
            clock = time.perf_counter()

    def _shortened(self, samples: Sequence[PromptedSample]) -> list[tuple[PromptedSample, int]]:
        """Samples with as many shots as the model has room for, and how many each was left without."""
        num_dropped = [0] * len(samples)
        waiting = [place for place, sample in enumerate(samples) if sample.prompt.shots]
        while waiting:
            shorter = [samples[place].without_shots(num_dropped[place]) for place in waiting]
            fit = self.writer.fits([self.job.conversation(sample.prompt) for sample in shorter], self.job.settings)
            too_long = [place for place, does_fit in zip(waiting, fit, strict=True) if not does_fit]
            waiting = [place for place in too_long if num_dropped[place] < len(samples[place].prompt.shots)]
            for place in waiting:
                num_dropped[place] += 1
        return [(sample.without_shots(num), num) for sample, num in zip(samples, num_dropped, strict=True)]

    def _score(self, sample: PromptedSample, num_shots_dropped: int, result: Completion | str) -> Score:
        if isinstance(result, str):
            return failed_sample(sample, result)
        return self.job.score_completion(sample, result, num_shots_dropped)

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
        measured = self.writer.measured()
        self.folder.update({**measured, "timing": {**measured.get("timing", {}), **self._timing(self.score_s)}})
        if self.team.size == 1:  # of several, what one of them used would pass for the whole
            self.folder.update({"energy": sum_energy(self.energy_before, measured.get("telemetry", {}))})

    def _timing(self, score_s: float) -> dict[str, float]:
        sums = {"score_s": score_s, "total_s": time.perf_counter() - self.began}
        return {name: round(spent + self.before.get(name, 0.0), 4) for name, spent in sums.items()}

    def finish(self) -> None:
        """Write metrics and what was measured; `finished` comes last."""
        parts = self.team.gather([self.score_s, dict(self.writer.measured())])
        if not self.team.is_first:
            return
        folder = self.folder
        folder.take_shares()
        order = [sample.sample.id for sample in self.job.samples]
        lines = folder.failed | folder.done
        scores = [lines[key] for key in order]
        measured = _together([own for _, own in parts])
        timing, tokens = self._timing(max(seconds for seconds, _ in parts)), count_tokens(scores)
        results = {
            **self.job.summarise(scores),
            "tokens": tokens,
            "cost_usd": cost_usd(scores),
            **measured,
            **self._energy(measured.get("telemetry"), scores, tokens, timing["score_s"]),
            "timing": {**measured.get("timing", {}), **timing},
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        folder.finish(order, results)
        log.info("finished: %s", {name: metric["value"] for name, metric in results["metrics"].items()})

    def _energy(
        self, telemetry: dict[str, Any] | None, scores: Sequence[Score], tokens: Mapping[str, int], score_s: float
    ) -> dict[str, Any]:
        """The part `energy`, where the model ran on this machine and something was left to complete."""
        if not telemetry:
            return {}
        counts = {
            **count_answers(scores),
            "prompt_token": tokens["prompt"],
            "completion_token": tokens["completion"],
        }
        sums = sum_energy(self.energy_before, telemetry)
        return {"energy": summarise_energy(sums, telemetry, score_s, counts)}


def count_tokens(scores: Sequence[Score]) -> dict[str, int]:
    """The tokens of completions, as far as they were counted."""
    completions = [score.completion for score in scores if score.completion is not None]
    return {
        "prompt": sum(completion.num_prompt_tokens or 0 for completion in completions),
        "cached": sum(completion.num_cached_tokens for completion in completions),
        "completion": sum(completion.num_completion_tokens or 0 for completion in completions),
        "reasoning": sum(completion.num_reasoning_tokens for completion in completions),
    }


def cost_usd(scores: Sequence[Score]) -> float | None:
    """What the completions of scored samples cost; None where nothing was charged."""
    costs = [score.completion.cost_usd for score in scores if score.completion is not None]
    charged = [cost for cost in costs if cost is not None]
    return sum(charged) if charged else None


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

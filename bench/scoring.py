"""One model scores one task: blocks come ready from the host's threads, packs go through the model, scores to disk."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from bench.engine.estimate import USUAL_SHARE, Flops
from bench.engine.pack import Budget
from bench.engine.pipeline import Block, Progress, plan_blocks
from bench.engine.scorer import Outcome
from bench.errors import StoreError
from bench.job import Job
from bench.metrics import failed_sample, score_sample, summarise
from bench.records import Loglikelihood, PromptedSample, Score
from bench.session import Session
from bench.store import RunFolder
from bench.telemetry.matmul import MatmulProbe

log = logging.getLogger(__name__)

_SAVE_EVERY_S = 2.0


def score_samples(session: Session, job: Job, folder: RunFolder, progress: Progress) -> None:
    """Score what the run folder does not hold yet, and finish it.

    Raises:
        SteelyardError: the model cannot be loaded, the disk is full, or no sample got a score.
    """
    run = _Run(session, job, folder, progress)
    try:
        run.score()
    except BaseException:  # an interrupt, too
        with contextlib.suppress(StoreError):  # a full disk must not hide what went wrong
            run.save()
        raise
    run.finish()


class _Run:
    """A run in progress: what it has measured, and how results reach the run folder."""

    def __init__(self, session: Session, job: Job, folder: RunFolder, progress: Progress) -> None:
        self.session = session
        self.job = job
        self.folder = folder
        self.progress = progress
        self.began = time.perf_counter()
        self.saved = self.began
        self.before: dict[str, float] = dict(folder.info.get("timing", {}))
        self.forwarded_before: int = folder.info.get("tokens", {}).get("forwarded", 0)
        self.load_before_s, self.check_before_s = session.timing.load_s, session.timing.self_check_s
        self.timing = {"encode_s": 0.0, "plan_s": 0.0, "score_s": 0.0}
        self.notes: list[str] = []
        self.num_forwarded = self.num_halvings = 0
        self.num_done_before = 0  # distinct tokens that this sitting need not forward
        self.num_logical = self.num_distinct = self.num_requests = self.num_packs = 0
        self.flops = Flops(0, 0, 0)
        self.timed_flops: int = folder.info.get("floor", {}).get("timed_flops", 0)
        self.probe: MatmulProbe | None = None

    def score(self) -> None:
        """Score all blocks; a pack's scores are on the disk before the next pack, on a GPU the next but one, starts."""
        session, packs = self.session, self.folder.info.get("packs")
        budget: Future[Budget] = Future()
        blocks = plan_blocks(self.job.samples, session.encoder, budget, self.progress)
        try:
            session.load()  # while the first block is being encoded
            chosen = session.choose_budget((packs["max_batch_tokens"], packs["max_rows"]) if packs else None)
        except BaseException:
            budget.cancel()  # ends the thread that waits for it
            raise
        budget.set_result(chosen)
        self.folder.update({"packs": {"max_batch_tokens": chosen.tokens, "max_rows": chosen.rows}})
        for block in blocks:
            self._count(block)
            self._score_block(block, chosen)

    def _score_block(self, block: Block, budget: Budget) -> None:
        collector = _Collector(block, self.job, self.folder)
        self.folder.append(collector.unencodable())
        pending = collector.pending()
        to_do = sum(len(block.plan.packs[index].tokens) for index in block.plan.needed_for(pending))
        self.num_done_before += block.plan.num_distinct - to_do
        if not pending:
            self.progress.advance(block.plan.num_distinct)
            return
        if self.probe is None:
            self.probe = self.session.probe(min(budget.tokens, block.plan.num_distinct))
        scorer = self.session.scorer(block.requests, budget, lambda: self._expect_s(block))
        self.progress.advance(block.plan.num_distinct - to_do)  # the clock of the time left starts here
        forwarded, halvings = scorer.forward.num_forwarded, scorer.num_halvings
        clock = time.perf_counter()
        for scored in scorer.score(block.requests, block.plan, pending):
            self.folder.append(collector.take(scored.outcomes))
            if is_due := self.probe.is_due:
                self.probe.wait()  # for the next pack, which is under way; its time is scoring's
            now = time.perf_counter()
            self.timing["score_s"] += now - clock
            self.num_forwarded += scorer.forward.num_forwarded - forwarded
            forwarded = scorer.forward.num_forwarded
            if scored.pack is not None:
                self.timed_flops += self.session.cost.of([scored.pack]).total
            self.progress.advance(scored.num_tokens)
            if is_due:
                self.probe.measure()
            if now - self.saved > _SAVE_EVERY_S:
                self.save()
            clock = time.perf_counter()
        if scorer.num_halvings > halvings:
            self.num_halvings += scorer.num_halvings - halvings
            self.notes.append(f"memory ran out with {budget.tokens} tokens a pack; went on with {scorer.budget.tokens}")

    def _expect_s(self, block: Block) -> float:
        """Seconds that scoring what is not done yet should take, going by the first block to score."""
        assert self.probe is not None
        self.probe.measure()
        flops = self.session.cost.of(block.plan.packs).total / len(block.samples)
        num_left = len(self.job.samples) - len(self.folder.done)
        return num_left * flops / self.probe.flops_per_s / USUAL_SHARE

    def _count(self, block: Block) -> None:
        self.timing["encode_s"] += block.encode_s
        self.timing["plan_s"] += block.plan_s
        self.num_requests += len(block.requests)
        self.num_packs += len(block.plan.packs)
        self.num_logical += block.plan.num_logical
        self.num_distinct += block.plan.num_distinct
        self.flops = self.flops + self.session.cost.of(block.plan.packs)

    def save(self) -> None:
        """Keep what has been measured so far, so that a killed run's sittings add up."""
        self.saved = time.perf_counter()
        self.folder.update(self._measured())

    def _measured(self) -> dict[str, Any]:
        timing = {
            "load_s": self.session.timing.load_s - self.load_before_s,
            "self_check_s": self.session.timing.self_check_s - self.check_before_s,
            **self.timing,
            "total_s": time.perf_counter() - self.began,
        }
        return {
            "timing": {name: round(seconds + self.before.get(name, 0.0), 4) for name, seconds in timing.items()},
            # A killed sitting could not say what it forwarded last; it was no less than what need not be done again.
            "tokens": {"forwarded": max(self.forwarded_before, self.num_done_before) + self.num_forwarded},
            "floor": {"timed_flops": self.timed_flops},
        }

    def finish(self) -> None:
        """Write metrics and what was measured; `finished` comes last."""
        if self.probe is None:  # nothing was left to score in this sitting
            self.probe = self.session.probe(self.num_distinct)
        self.probe.measure()
        scores = {**self.folder.failed, **self.folder.done}
        order = [sample.sample.id for sample in self.job.samples]
        measured = self._measured()
        results = {
            **summarise([scores[key] for key in order], self.job.task.categories),
            "timing": measured["timing"],
            "tokens": {"logical": self.num_logical, "distinct": self.num_distinct, **measured["tokens"]},
            "requests": {"num": self.num_requests},
            "packs": {"num": self.num_packs},
            "floor": self._floor(self.probe, measured["timing"]["score_s"]),
            "engine": {**self.session.describe_engine(), "num_out_of_memory": self.num_halvings},
            "peak_memory_bytes": self.session.peak_memory_bytes(),
            "notes": list(dict.fromkeys([*self.session.notes, *self.notes])),
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self.folder.finish(order, results)
        log.info("finished: %s", {name: metric["value"] for name, metric in results["metrics"].items()})

    def _floor(self, probe: MatmulProbe, score_s: float) -> dict[str, Any]:
        """The least time this job could have taken on this machine, and how near scoring came to it."""
        timed_s = min(self.timed_flops, self.flops.total) / probe.flops_per_s
        return {
            "flops": self.flops.total,
            "attention_flops": self.flops.attention,
            "head_flops": self.flops.head,
            "timed_flops": self.timed_flops,
            "matmul_flops_per_s": probe.flops_per_s,
            "matmul_flops_per_s_lowest": min(probe.rates),
            "matmul_flops_per_s_highest": max(probe.rates),
            "num_matmul_measurements": len(probe.rates),
            "floor_s": self.flops.total / probe.flops_per_s,
            "share": timed_s / score_s if score_s else None,
        }


class _Collector:
    """Puts requests' outcomes together into samples' scores."""

    def __init__(self, block: Block, job: Job, folder: RunFolder) -> None:
        self.block = block
        self.delimiter = job.form.delimiter
        self.done, self.failed = folder.done, folder.failed
        self.outcomes: dict[int, dict[int, Outcome]] = {}

    def pending(self) -> set[int]:
        """Requests whose samples have no score yet."""
        samples = self.block.samples
        return {i for i, (owner, _) in enumerate(self.block.owners) if samples[owner].sample.id not in self.done}

    def unencodable(self) -> list[Score]:
        """Scores of samples that cannot be put to the model, as far as the run folder does not hold them yet."""
        pairs = zip(self.block.samples, self.block.encoded, strict=True)
        failed = [failed_sample(sample, encoded.error) for sample, encoded in pairs if encoded.error is not None]
        return [score for score in failed if self.failed.get(score.id) != score]

    def take(self, outcomes: Mapping[int, Outcome]) -> list[Score]:
        """Take in outcomes by request; return the scores of the samples they complete."""
        scores = []
        for request, outcome in sorted(outcomes.items()):
            owner, choice = self.block.owners[request]
            found = self.outcomes.setdefault(owner, {})
            found[choice] = outcome
            if len(found) == len(self.block.samples[owner].requests):
                scores.append(self._score(owner, [found[choice] for choice in sorted(found)]))
                del self.outcomes[owner]
        return scores

    def _score(self, owner: int, outcomes: Sequence[Outcome]) -> Score:
        sample, encoded = self.block.samples[owner], self.block.encoded[owner]
        used = tuple(replace(request, prompt=encoded.prompt) for request in sample.requests)
        prompted = PromptedSample(sample.sample, used)
        errors = [outcome for outcome in outcomes if isinstance(outcome, str)]
        if errors:
            return failed_sample(prompted, errors[0])
        return score_sample(
            prompted,
            [outcome for outcome in outcomes if isinstance(outcome, Loglikelihood)],
            delimiter=self.delimiter,
            truncated=encoded.num_cut_tokens > 0 or encoded.num_shots_dropped > 0,
            num_shots_dropped=encoded.num_shots_dropped,
        )

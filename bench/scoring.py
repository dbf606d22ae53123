"""One model scores one task: blocks come ready from the host's threads, packs go through the model, scores to disk.

Several processes may do so together, see `bench.team`: each works out the same plan, and scores and journals its share.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from bench.engine.deal import Share, deal
from bench.engine.estimate import USUAL_SHARE, Flops
from bench.engine.pack import Budget
from bench.engine.pipeline import Block, Progress, plan_blocks
from bench.engine.scorer import Outcome
from bench.errors import StoreError
from bench.measured import Measured, put_together
from bench.metrics import Shortening, add_windows, failed_sample
from bench.records import Loglikelihood, Score
from bench.runs.folder import RunShare
from bench.session import Session
from bench.tasks.job import Job
from bench.team import ALONE, Team
from bench.telemetry.matmul import MatmulProbe
from bench.telemetry.summary import count_answers, sum_energy, summarise_energy
from bench.watching import describe_telemetry, start_recorder

log = logging.getLogger(__name__)

_SAVE_EVERY_S = 2.0
_TELL_EVERY_S = 0.2


def score_samples(session: Session, job: Job, folder: RunShare, progress: Progress, team: Team = ALONE) -> None:
    """Score what the run folder does not hold yet, and finish it.

    Raises:
        SteelyardError: the model cannot be loaded, the disk is full, or no sample got a score.
    """
    run = _Run(session, job, folder, progress, team)
    try:
        blocks, budget = run.start()
        team.agree(lambda: run.score(blocks, budget), meanwhile=run.watch)
    except BaseException:  # an interrupt, too
        with contextlib.suppress(StoreError, RuntimeError):  # a full disk, or the launcher's end, must not hide it
            run.save()
        raise
    finally:
        run.recorder.stop()
    if team.is_first:
        run.finish()


class _Run:
    """A run in progress: what it has measured, and how results reach the run folder."""

    def __init__(self, session: Session, job: Job, folder: RunShare, progress: Progress, team: Team) -> None:
        self.session = session
        self.job = job
        self.folder = folder
        self.progress = progress
        self.team = team
        self.began = self.saved = self.told = time.perf_counter()
        self.before: dict[str, float] = dict(folder.info.get("timing", {}))
        self.forwarded_before: int = folder.info.get("tokens", {}).get("forwarded", 0)
        self.floor_before: dict[str, Any] = {"timed_flops": 0, "timed_floor_s": 0.0, **folder.info.get("floor", {})}
        self.load_before_s, self.check_before_s = session.timing.load_s, session.timing.self_check_s
        self.energy_before: dict[str, Any] = dict(folder.info.get("energy", {}))
        self.recorder = start_recorder(session)
        self.measured = Measured()
        self.num_shown = 0  # tokens of the progress bar, by all processes
        self.num_done_before = 0  # distinct tokens that this sitting need not forward
        self.num_logical = self.num_distinct = self.num_requests = self.num_packs = 0
        self.loads = [0] * team.size  # FLOPs dealt to each process
        self.flops = Flops(0, 0, 0)
        self.probe: MatmulProbe | None = None
        self.tell()

    def start(self) -> tuple[Iterator[Block], Budget]:
        """Start the host's threads and load the model meanwhile; all processes take the same budget."""
        session, packs = self.session, self.folder.info.get("packs")
        remembered = (packs["max_batch_tokens"], packs["max_rows"]) if packs else None
        budget: Future[Budget] = Future()
        blocks = plan_blocks(self.job.samples, session.encoder, budget, self.progress, session.kind.plan)

        def load() -> Budget:
            session.load()
            return session.choose_budget(remembered)

        try:
            own = self.team.agree(load)
            chosen = Budget(*map(min, zip(*self.team.gather([own.tokens, own.rows]), strict=True)))
        except BaseException:
            budget.cancel()  # ends the thread that waits for it
            raise
        budget.set_result(chosen)
        return blocks, chosen

    def score(self, blocks: Iterator[Block], budget: Budget) -> None:
        """Score this process's share of all blocks.

        A pack's scores are on the disk before the next pack starts; on a GPU, before the next but one.
        """
        self.folder.update({"packs": {"max_batch_tokens": budget.tokens, "max_rows": budget.rows}})
        for block in self._awaited(blocks):
            self._count(block)
            self._score_block(block, budget)
        if self.probe is None:  # nothing was left to score in this sitting
            self.probe = self.session.probe(self.num_distinct)
        self.probe.measure()
        self.recorder.stop()
        self.tell(is_due=True)
        self._keep_readings()

    def _awaited(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """The blocks; how long the model stood idle for want of one is counted."""
        clock = time.perf_counter()
        for block in blocks:
            self.measured.seconds["wait_s"] += time.perf_counter() - clock
            yield block
            clock = time.perf_counter()

    def _score_block(self, block: Block, budget: Budget) -> None:
        collector = _Collector(block, self.job, self.folder)
        if self.team.is_first:
            self.folder.append(collector.unencodable())
        pending = collector.pending()
        to_do = sum(block.plan.packs[index].num_tokens for index in block.plan.needed_for(pending))
        self.num_done_before += block.plan.num_distinct - to_do
        share = self._share(block, pending)
        if not share.requests:
            self._show(block.plan.num_distinct - to_do)
            return
        if self.probe is None:
            self.probe = self.session.probe(min(budget.tokens, block.plan.num_distinct))
            self.recorder.restart()
        scorer = self.session.scorer(block.requests, budget, lambda: self._expect_s(block))
        self._show(block.plan.num_distinct - to_do)  # the clock of the time left starts here
        shown_by_others = {id(block.plan.packs[index]) for index in share.packs if index not in share.own}
        forwarded, halvings = scorer.forward.num_forwarded, scorer.num_halvings
        clock = time.perf_counter()
        for scored in scorer.score(block.requests, block.plan, set(share.requests)):
            self.folder.append(collector.take(scored.outcomes))
            if is_due := self.probe.is_due:
                self.probe.wait()  # for the next pack, which is under way; its time is scoring's
            now = time.perf_counter()
            self.measured.seconds["score_s"] += now - clock
            self.recorder.count(clock, now)
            self.measured.num_forwarded += scorer.forward.num_forwarded - forwarded
            forwarded = scorer.forward.num_forwarded
            if scored.pack is not None:
                self.measured.timed_flops += self.session.cost.of([scored.pack]).total
            if id(scored.pack) not in shown_by_others:
                self.measured.num_shown += scored.num_tokens
            self.watch()
            if is_due:
                self.probe.measure()
            clock = time.perf_counter()
        if scorer.num_halvings > halvings:
            self.measured.num_halvings += scorer.num_halvings - halvings
            self.measured.notes.append(
                f"memory ran out with {budget.tokens} tokens a pack; went on with {scorer.budget.tokens}"
            )

    def _share(self, block: Block, pending: set[int]) -> Share:
        """What this process is to score of a block."""
        if self.team.size == 1 or self.team.is_lockstep:  # nothing to deal out
            packs = tuple(block.plan.needed_for(pending))
            return Share(frozenset(pending), packs, frozenset(packs), 0)
        costs = [self.session.cost.of([pack]).total for pack in block.plan.packs]
        shares = deal(block.plan, [owner for owner, _ in block.owners], pending, costs, self.loads)
        self.loads = [share.load for share in shares]
        return shares[self.team.rank]

    def _expect_s(self, block: Block) -> float:
        """Seconds that this process should take for what is not done yet, going by the first block to score."""
        assert self.probe is not None
        self.probe.measure()
        flops = self.session.cost.of(block.plan.packs).total / len(block.samples)
        num_left = (len(self.job.samples) - len(self.folder.done)) / (1 if self.team.is_lockstep else self.team.size)
        return num_left * flops / self.probe.flops_per_s / USUAL_SHARE

    def _count(self, block: Block) -> None:
        self.measured.seconds["encode_s"] += block.encode_s
        self.measured.seconds["plan_s"] += block.plan_s
        self.num_requests += len(block.requests)
        self.num_packs += len(block.plan.packs)
        self.num_logical += block.plan.num_logical
        self.num_distinct += block.plan.num_distinct
        self.flops = self.flops + self.session.cost.of(block.plan.packs)

    def _show(self, num_tokens: int) -> None:
        """Count tokens that no process had to forward; they are rank 0's to show."""
        self.measured.num_shown += num_tokens if self.team.is_first else 0
        self.watch(is_due=True)

    def watch(self, *, is_due: bool = False) -> None:
        """Tell the others how far this process is; rank 0 shows and, now and then, saves how far all are."""
        now = time.perf_counter()
        if self.team.size > 1 and not is_due and now - self.told < _TELL_EVERY_S:
            return
        self.told = now
        self.tell(is_due=self.team.size > 1)
        if self.team.is_first:
            num_shown = self._together().num_shown
            if is_due or num_shown > self.num_shown:
                self.progress.advance(num_shown - self.num_shown)
                self.num_shown = num_shown
            if now - self.saved > _SAVE_EVERY_S:
                self.save()

    def tell(self, *, is_due: bool = False) -> None:
        """Let the other processes know what this one has measured so far; telemetry only when it `is_due`."""
        if is_due:
            self.measured.telemetry = describe_telemetry(self.session, self.recorder)
        timing, seconds = self.session.timing, self.measured.seconds
        seconds["load_s"] = timing.load_s - self.load_before_s
        seconds["self_check_s"] = timing.self_check_s - self.check_before_s
        seconds["total_s"] = time.perf_counter() - self.began
        if self.probe is not None and self.probe.rates:
            rates = self.probe.rates
            self.measured.matmul_flops_per_s = [min(rates), self.probe.flops_per_s, max(rates)]
            self.measured.num_matmul_measurements = len(rates)
        self.measured.peak_memory_bytes = self.session.peak_memory_bytes()
        notes = [*self.session.notes, *self.measured.notes]
        self.team.tell({**asdict(self.measured), "notes": notes})

    def save(self) -> None:
        """Keep what has been measured so far, so that a killed run's sittings add up."""
        self.saved = time.perf_counter()
        self.tell(is_due=True)
        if self.team.is_first:
            self.folder.update(self._sums(self._together()))

    def _together(self) -> Measured:
        parts = [Measured(**told) for told in self.team.told()]
        return put_together(parts, is_lockstep=self.team.is_lockstep)

    def _sums(self, measured: Measured) -> dict[str, Any]:
        """What adds up over sittings."""
        seconds = {name: spent + self.before.get(name, 0.0) for name, spent in measured.seconds.items()}
        # A killed sitting could not say what it forwarded last; it was no less than what need not be done again.
        forwarded = max(self.forwarded_before, self.num_done_before) + measured.num_forwarded
        return {
            "timing": {name: round(spent, 4) for name, spent in seconds.items()},
            "tokens": {"forwarded": forwarded},
            "energy": sum_energy(self.energy_before, measured.telemetry),
            "floor": {
                "timed_flops": self.floor_before["timed_flops"] + measured.timed_flops,
                "timed_floor_s": self.floor_before["timed_floor_s"] + measured.timed_floor_s,
            },
        }

    def finish(self) -> None:
        """Write metrics and what was measured; `finished` comes last."""
        folder, measured = self.folder, self._together()
        folder.take_shares()
        scores = {**folder.failed, **folder.done}
        order = [sample.sample.id for sample in self.job.samples]
        sums = self._sums(measured)
        results = {
            **self.job.summarise([scores[key] for key in order]),
            "timing": sums["timing"],
            "tokens": {"logical": self.num_logical, "distinct": self.num_distinct, **sums["tokens"]},
            "requests": {"num": self.num_requests},
            "packs": {"num": self.num_packs},
            "floor": {**sums["floor"], **self._floor(measured, **sums["floor"], score_s=sums["timing"]["score_s"])},
            "energy": self._energy(measured, sums, scores.values()),
            "telemetry": measured.telemetry,
            "engine": {**self.session.describe_engine(), "num_out_of_memory": measured.num_halvings},
            "peak_memory_bytes": measured.peak_memory_bytes,
            "notes": measured.notes,
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        folder.finish(order, results)
        log.info("finished: %s", {name: metric["value"] for name, metric in results["metrics"].items()})

    def _energy(self, measured: Measured, sums: Mapping[str, Any], scores: Iterable[Score]) -> dict[str, Any]:
        """What scoring used, and what that makes for each question and token."""
        counts = {
            **count_answers(scores),
            "distinct_token": self.num_distinct,
            "logical_token": self.num_logical,
        }
        return summarise_energy(sums["energy"], measured.telemetry, sums["timing"]["score_s"], counts)

    def _keep_readings(self) -> None:
        """Write the readings beside run.json, which holds what is needed of them."""
        name = "telemetry.csv" if self.team.is_first else f"telemetry.rank{self.team.rank}.csv"
        with contextlib.suppress(StoreError):
            if readings := self.recorder.render_csv():
                self.folder.keep(name, readings.encode())

    def _floor(self, measured: Measured, timed_flops: int, timed_floor_s: float, score_s: float) -> dict[str, Any]:
        """The least time this job could have taken on this machine, and how near scoring came to it."""
        lowest, median, highest = measured.matmul_flops_per_s
        once = min(1.0, self.flops.total / timed_flops) if timed_flops else 0.0  # what was forwarded twice counts once
        return {
            "flops": self.flops.total,
            "attention_flops": self.flops.attention,
            "head_flops": self.flops.head,
            "matmul_flops_per_s": median,
            "matmul_flops_per_s_lowest": lowest,
            "matmul_flops_per_s_highest": highest,
            "num_matmul_measurements": measured.num_matmul_measurements,
            "floor_s": self.flops.total / median,
            "share": once * timed_floor_s / score_s if score_s else None,
        }


class _Collector:
    """Puts requests' outcomes together into samples' scores."""

    def __init__(self, block: Block, job: Job, folder: RunShare) -> None:
        self.block = block
        self.job = job
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
            if len(found) == len(self.block.encoded[owner].requests):
                scores.append(self._score(owner, [found[choice] for choice in sorted(found)]))
                del self.outcomes[owner]
        return scores

    def _score(self, owner: int, outcomes: Sequence[Outcome]) -> Score:
        encoded = self.block.encoded[owner]
        prompted = self.block.samples[owner].without_shots(encoded.num_shots_dropped)
        errors = [outcome for outcome in outcomes if isinstance(outcome, str)]
        if errors:
            return failed_sample(prompted, errors[0])
        loglikelihoods = [outcome for outcome in outcomes if isinstance(outcome, Loglikelihood)]
        return self.job.score(
            prompted,
            [add_windows(loglikelihoods)] if prompted.requests[0].is_whole else loglikelihoods,
            Shortening(encoded.num_shots_dropped, encoded.num_cut_tokens > 0),
        )

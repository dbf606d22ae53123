"""Scores requests pack by pack, and keeps going when memory runs out.

A GPU is given the next pack before the last one's results are read, so that it never waits for the host. At most one
pack is under way when another's results are handed out, and reading is the only place where the host waits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from bench.engine.attention.contract import to_device
from bench.engine.forward import Forward
from bench.engine.pack import AnyPack, Budget, Plan, Planner, TokenRequest, plan_packs
from bench.records import Loglikelihood

_ROWS_IN_CACHE = 32  # logits reduced at a time: their several passes then run in the cache
SMALLEST_BUDGET = 64  # tokens; a pack of that size that finds no memory is given up

Outcome = Loglikelihood | str
"""What becomes of a request: its loglikelihood, or why it has none."""


@dataclass(frozen=True, slots=True)
class PackScored:
    """One pack's result.

    Attributes:
        outcomes: requests that are complete with this pack, by index.
        num_tokens: distinct tokens this pack added.
        pack: the pack, None where it was given up.
    """

    outcomes: dict[int, Outcome]
    num_tokens: int
    pack: AnyPack | None


@dataclass(frozen=True, slots=True)
class _Read:
    """What is on its way from the device: log-probabilities of a pack's targets and whether each is the best, (2, K).

    Attributes:
        values: on the host; a GPU's are there once `event` has happened.
    """

    values: torch.Tensor
    event: torch.cuda.Event | None

    def wait(self) -> tuple[list[float], list[bool]]:
        """Both, when they are there."""
        if self.event is not None:
            self.event.synchronize()
        values, is_greedy = self.values
        return values.tolist(), is_greedy.bool().tolist()


@dataclass(slots=True)
class Scorer:
    """Scores planned requests with one model.

    Attributes:
        forward: how logits are computed.
        budget: what a pack may hold; halved when memory runs out.
        planner: makes the packs that `forward` takes.
        runs_ahead: whether a pack is started before the one before it is read; for devices that work by themselves.
        may_shrink: False where other processes are in the same forward pass and could not follow: running out of
            memory is an error then.
        num_halvings: how often the budget was halved.
    """

    forward: Forward
    budget: Budget
    planner: Planner = plan_packs
    runs_ahead: bool = False
    may_shrink: bool = True
    num_halvings: int = 0
    _sums: dict[int, list[tuple[float, bool]]] = field(default_factory=dict)

    def score(self, requests: Sequence[TokenRequest], plan: Plan[Any], pending: set[int]) -> Iterator[PackScored]:
        """Score the `pending` requests (indices) of a plan; yields after each pack.

        When memory runs out, the budget is halved and what is still pending is planned anew.
        """
        pending = set(pending)
        while pending:
            self._sums = {}
            self.forward.start(plan)
            failed = None
            for index, read in self._run(plan, pending):
                if read is None:
                    failed = index
                    break
                pack = plan.packs[index]
                outcomes = self._take(pack, read, requests, pending)
                pending -= outcomes.keys()
                yield PackScored(outcomes, pack.num_tokens, pack)
            if failed is None:
                return
            lost = self._shrink(plan, failed, pending)
            pending -= lost
            yield PackScored(dict.fromkeys(lost, "out of memory even in the smallest pack"), 0, None)
            plan = self.planner(requests, self.budget)

    def _run(self, plan: Plan[Any], pending: set[int]) -> Iterator[tuple[int, _Read | None]]:
        """Send the packs that `pending` needs through the model, in order; None, and the end, where memory ran out."""
        under_way: list[tuple[int, _Read | None]] = []
        for index in plan.needed_for(pending):
            try:
                under_way.append((index, self._start(plan.packs[index])))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or not self.may_shrink:
                    raise
                under_way.append((index, None))
                break
            if len(under_way) > self.runs_ahead:
                yield under_way.pop(0)
        yield from under_way

    def _take(
        self, pack: AnyPack, read: _Read, requests: Sequence[TokenRequest], pending: set[int]
    ) -> dict[int, Outcome]:
        """Add a pack's results up; returns the pending requests that they complete."""
        outcomes: dict[int, Outcome] = {}
        for request, value, is_greedy in zip(pack.target_requests.tolist(), *read.wait(), strict=True):
            tokens = self._sums.setdefault(request, [])
            tokens.append((value, is_greedy))
            if len(tokens) == len(requests[request].targets):
                outcomes[request] = _outcome(self._sums.pop(request))
        return {request: outcome for request, outcome in outcomes.items() if request in pending}

    @torch.inference_mode()
    def _start(self, pack: AnyPack) -> _Read:
        """Send a pack through the model, and its results towards the host."""
        logits = self.forward.logits(pack).float()
        if not len(pack.rows):
            return _Read(torch.empty(2, 0), None)
        rows, tokens = (to_device(places, logits.device) for places in (pack.target_rows, pack.target_tokens))
        at_once = _ROWS_IN_CACHE if logits.device.type == "cpu" else len(logits)
        parts = [(torch.logsumexp(part, dim=-1), part.argmax(dim=-1)) for part in torch.split(logits, at_once)]
        lse, greedy = (torch.cat(column) for column in zip(*parts, strict=True))
        found = torch.stack(((logits[rows, tokens] - lse[rows]).double(), (greedy[rows] == tokens).double()))
        if logits.device.type == "cpu":
            return _Read(found, None)
        values = torch.empty(found.shape, dtype=found.dtype, pin_memory=True)
        values.copy_(found, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(logits.device))
        return _Read(values, event)

    def _shrink(self, plan: Plan[Any], index: int, pending: set[int]) -> set[int]:
        """Halve the budget; return the requests given up because it cannot get smaller."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.budget.tokens // 2 >= SMALLEST_BUDGET:
            self.budget = Budget(self.budget.tokens // 2, max(1, self.budget.rows // 2))
            self.num_halvings += 1
            return set()
        lost_packs = {index}
        for place in range(index + 1, len(plan.packs)):
            if plan.packs[place].parent in lost_packs:
                lost_packs.add(place)
        return pending & {request for place in lost_packs for request in plan.packs[place].target_requests.tolist()}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU or on the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _outcome(tokens: Sequence[tuple[float, bool]]) -> Outcome:
    total = float(np.sum([value for value, _ in tokens], dtype=np.float64))
    if not np.isfinite(total):
        return f"the model returned {total} instead of a loglikelihood"
    return Loglikelihood(total, all(is_greedy for _, is_greedy in tokens), len(tokens))

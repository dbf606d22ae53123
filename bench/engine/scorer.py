"""Scores requests pack by pack, and keeps going when memory runs out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

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


@dataclass(slots=True)
class Scorer:
    """Scores planned requests with one model.

    Attributes:
        forward: how logits are computed.
        budget: what a pack may hold; halved when memory runs out.
        planner: makes the packs that `forward` takes.
        may_shrink: False where other processes are in the same forward pass and could not follow: running out of
            memory is an error then.
        num_halvings: how often the budget was halved.
    """

    forward: Forward
    budget: Budget
    planner: Planner = plan_packs
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
            for index in plan.needed_for(pending):
                pack = plan.packs[index]
                try:
                    outcomes = {key: value for key, value in self._score_pack(pack, requests).items() if key in pending}
                except (MemoryError, RuntimeError) as error:
                    if not is_out_of_memory(error) or not self.may_shrink:
                        raise
                    lost = self._shrink(plan, index, pending)
                    pending -= lost
                    yield PackScored(dict.fromkeys(lost, "out of memory even in the smallest pack"), 0, None)
                    break
                pending -= outcomes.keys()
                yield PackScored(outcomes, pack.num_tokens, pack)
            else:
                return
            plan = self.planner(requests, self.budget)

    def _score_pack(self, pack: AnyPack, requests: Sequence[TokenRequest]) -> dict[int, Outcome]:
        outcomes: dict[int, Outcome] = {}
        for request, value, is_greedy in zip(pack.target_requests.tolist(), *self._read(pack), strict=True):
            tokens = self._sums.setdefault(request, [])
            tokens.append((value, is_greedy))
            if len(tokens) == len(requests[request].targets):
                outcomes[request] = _outcome(self._sums.pop(request))
        return outcomes

    @torch.inference_mode()
    def _read(self, pack: AnyPack) -> tuple[list[float], list[bool]]:
        """Log-probability of each target token, and whether it is the most probable one."""
        logits = self.forward.logits(pack).float()
        if not len(pack.rows):
            return [], []
        rows = torch.from_numpy(pack.target_rows).to(logits.device)
        tokens = torch.from_numpy(pack.target_tokens).to(logits.device)
        at_once = _ROWS_IN_CACHE if logits.device.type == "cpu" else len(logits)
        parts = [(torch.logsumexp(part, dim=-1), part.argmax(dim=-1)) for part in torch.split(logits, at_once)]
        lse, greedy = (torch.cat(column) for column in zip(*parts, strict=True))
        values = logits[rows, tokens] - lse[rows]
        is_greedy = greedy[rows] == tokens
        return values.double().tolist(), is_greedy.tolist()

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

"""Packs dealt out to several processes, so that all of them finish together. Ints only; no tensor, no model.

The plan stays the one that a single process follows: what is dealt out is its packs, so the numbers are the same bits.
Packs go out in runs that are contiguous in depth-first order, so that most trunks are needed by one process only. A
trunk that several need is forwarded by each of them, and counted for each. Which of several subtrees comes first is
free, and how well an order can be cut is luck, so a few are tried.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bench.engine.pack import Plan

_NUM_ORDERS = 8
_PRECISION = 500  # loads are balanced to this part of all that is dealt out


@dataclass(frozen=True, slots=True)
class Share:
    """What one process scores of a plan.

    Attributes:
        requests: its requests, all of a sample or none.
        packs: the packs it forwards for them, in order.
        own: those of them that no earlier process forwards, too.
        load: what its packs of this plan and all plans before cost.
    """

    requests: frozenset[int]
    packs: tuple[int, ...]
    own: frozenset[int]
    load: int


@dataclass(frozen=True, slots=True)
class _Piece:
    """The smallest thing that is dealt out: the samples whose last pack is the same one, and all packs they take."""

    requests: frozenset[int]
    packs: frozenset[int]


def deal(
    plan: Plan, samples: Sequence[int], pending: set[int], costs: Sequence[int], loads: Sequence[int]
) -> list[Share]:
    """Deal out the `pending` requests of a plan, so that the heaviest load after it is as light as it can be.

    Args:
        plan: the plan, the same in every process.
        samples: the sample of each request.
        pending: requests to deal out, all of a sample or none.
        costs: what each pack costs to forward.
        loads: what each process was dealt of earlier plans, see `Share.load`.

    Returns:
        One share for each of `loads`; the same in every process.
    """
    pieces = _pieces(plan, samples, pending)
    lightest_first = sorted(range(len(loads)), key=loads.__getitem__)
    cuts = (_cut(order, costs, sorted(loads)) for order in _orders(plan, pieces))
    _, runs = min(cuts, key=lambda cut: cut[0])
    dealt = dict(zip(lightest_first, runs, strict=True))
    shares: list[Share] = []
    taken: set[int] = set()
    for rank, load in enumerate(loads):
        packs = frozenset[int]().union(*(piece.packs for piece in dealt[rank]))
        requests = frozenset[int]().union(*(piece.requests for piece in dealt[rank]))
        shares.append(Share(requests, tuple(sorted(packs)), packs - taken, load + _cost(packs, costs)))
        taken |= packs
    return shares


def _pieces(plan: Plan, samples: Sequence[int], pending: set[int]) -> list[_Piece]:
    """Cut the pending requests into pieces, in the plan's order."""
    needed: dict[int, set[int]] = {}  # by sample
    for index, pack in enumerate(plan.packs):
        for request in pack.target_requests.tolist():
            if request in pending:
                needed.setdefault(samples[request], set()).add(index)
    packs: dict[int, set[int]] = {}  # by last pack
    for own in needed.values():
        packs.setdefault(max(own), set()).update(own)
    requests: dict[int, set[int]] = {last: set() for last in packs}
    for request in pending:
        requests[max(needed[samples[request]])].add(request)
    return [_Piece(frozenset(requests[last]), _with_trunks(plan, packs[last])) for last in sorted(packs)]


def _with_trunks(plan: Plan, packs: Iterable[int]) -> frozenset[int]:
    found: set[int] = set()
    for pack in packs:
        index = pack
        while index >= 0 and index not in found:
            found.add(index)
            index = plan.packs[index].parent
    return frozenset(found)


def _orders(plan: Plan, pieces: Sequence[_Piece]) -> Iterator[Sequence[_Piece]]:
    """The pieces in the plan's order, then in some in which the subtrees of each trunk are shuffled."""
    yield pieces
    generator = random.Random(0)
    for _ in range(_NUM_ORDERS - 1):
        place = [generator.random() for _ in plan.packs]
        yield sorted(pieces, key=lambda piece: [(place[pack], pack) for pack in sorted(piece.packs)])


def _cut(
    pieces: Sequence[_Piece], costs: Sequence[int], loads: Sequence[int]
) -> tuple[int, Sequence[Sequence[_Piece]]]:
    """Cut `pieces` into one run for each of `loads` (ascending); returns the least limit found, and the runs."""
    total = sum(_cost(piece.packs, costs) for piece in pieces)
    too_low, limit = loads[0] - 1, loads[-1] + total
    runs = _fill(pieces, costs, loads, limit) or []
    while limit - too_low > max(1, total // _PRECISION):
        middle = (too_low + limit) // 2
        found = _fill(pieces, costs, loads, middle)
        if found is None:
            too_low = middle
        else:
            limit, runs = middle, found
    return limit, runs


def _fill(
    pieces: Sequence[_Piece], costs: Sequence[int], loads: Sequence[int], limit: int
) -> list[list[_Piece]] | None:
    """Give each process in turn as many pieces as keep it within `limit`; None if pieces are left over."""
    runs: list[list[_Piece]] = []
    place = 0
    for start in loads:
        run: list[_Piece] = []
        load, packs = start, set[int]()
        while place < len(pieces):
            load += _cost(pieces[place].packs - packs, costs)
            if load > limit:
                break
            packs |= pieces[place].packs
            run.append(pieces[place])
            place += 1
        runs.append(run)
    return runs if place == len(pieces) else None


def _cost(packs: Iterable[int], costs: Sequence[int]) -> int:
    return sum(costs[pack] for pack in packs)

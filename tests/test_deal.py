"""Packs dealt out: every sample to one process, no process with more than it must have."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from helpers import budgets, few_shot_requests, token_requests
from hypothesis import given
from hypothesis import strategies as st

from bench.engine.deal import Share, deal
from bench.engine.pack import Budget, Plan, plan_packs


def tokens(plan: Plan) -> list[int]:
    return [len(pack.tokens) for pack in plan.packs]


def check(plan: Plan, samples: list[int], pending: set[int], loads: list[int], shares: list[Share]) -> None:
    """What holds of every deal."""
    costs = tokens(plan)
    assert len(shares) == len(loads)
    dealt = [request for share in shares for request in share.requests]
    assert sorted(dealt) == sorted(pending)  # each once
    owners = [{samples[request] for request in share.requests} for share in shares]
    assert sum(map(len, owners)) == len(set().union(*owners))  # no sample with two
    seen: set[int] = set()
    for share, load in zip(shares, loads, strict=True):
        assert list(share.packs) == plan.needed_for(set(share.requests))
        assert share.load == load + sum(costs[pack] for pack in share.packs)
        assert share.own == set(share.packs) - seen
        seen |= set(share.packs)
    assert seen == set(plan.needed_for(pending))


@given(token_requests(14), budgets, st.lists(st.integers(0, 30), min_size=1, max_size=4), st.data())
def test_all_is_dealt_once(requests, budget, loads, data) -> None:
    plan = plan_packs(requests, budget)
    samples = [data.draw(st.integers(0, 5)) for _ in requests]
    done = {sample for sample in set(samples) if data.draw(st.booleans())}
    pending = {index for index, sample in enumerate(samples) if sample not in done}
    check(plan, samples, pending, loads, deal(plan, samples, pending, tokens(plan), loads))


@pytest.mark.parametrize("num", [2, 3, 5])
@pytest.mark.parametrize("budget", [20, 40, 90])
def test_the_heaviest_load_is_no_more_than_contiguous_runs_of_the_plans_order_allow(num: int, budget: int) -> None:
    """Against trying all ways to cut the plan's order."""
    requests = few_shot_requests(500, num_passages=4)
    plan = plan_packs(requests, Budget(budget, 1000))
    samples = list(range(len(requests)))
    last = [max(i for i, pack in enumerate(plan.packs) if r in pack.target_requests) for r in samples]
    homes = sorted(set(last))
    costs = tokens(plan)

    def load(part: list[int]) -> int:
        return sum(costs[i] for i in plan.needed_for({r for r in samples if last[r] in part}))

    cuts = [(0, *inner, len(homes)) for k in range(num) for inner in combinations(range(1, len(homes)), k)]
    best = min(max(load(homes[a:b]) for a, b in pairwise(cut)) for cut in cuts)
    shares = deal(plan, samples, set(samples), costs, [0] * num)
    check(plan, samples, set(samples), [0] * num, shares)
    assert sum(costs) / num <= max(share.load for share in shares) <= best


def test_what_one_got_more_before_others_get_now() -> None:
    requests = few_shot_requests(500, num_passages=8)
    plan = plan_packs(requests, Budget(40, 1000))
    costs = tokens(plan)
    for loads in ([0, 60, 0], [90, 0, 45]):
        shares = deal(plan, list(range(len(requests))), set(range(len(requests))), costs, loads)
        check(plan, list(range(len(requests))), set(range(len(requests))), loads, shares)
        found = [share.load for share in shares]
        assert max(found) - min(found) <= 60, found
    busy = deal(plan, list(range(len(requests))), set(range(len(requests))), costs, [10**6, 0])
    assert not busy[0].requests


def test_nothing_to_do_gives_nobody_anything() -> None:
    plan = plan_packs([], Budget(10, 10))
    assert deal(plan, [], set(), [], [3, 1]) == [Share(frozenset(), (), frozenset(), load) for load in (3, 1)]

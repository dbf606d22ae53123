from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from helpers import Path, budgets, make_request, pack_paths, plan_paths, prefixes, token_requests, visible
from hypothesis import given
from hypothesis import strategies as st

from bench.engine.pack import Budget, TokenRequest, plan_packs


def all_prefixes(requests: list[TokenRequest]) -> set[Path]:
    return prefixes([request.inputs.tolist() for request in requests])


@given(token_requests(), budgets)
def test_every_distinct_token_is_forwarded_once(requests: list[TokenRequest], budget: Budget) -> None:
    plan = plan_packs(requests, budget)
    forwarded = [path for paths in plan_paths(plan) for path in paths]
    assert len(forwarded) == len(set(forwarded)) == plan.num_distinct
    assert set(forwarded) == all_prefixes(requests)
    assert plan.num_logical == sum(len(request.inputs) for request in requests)


@given(token_requests(), budgets)
def test_every_target_is_asked_for_once_after_its_own_inputs(requests: list[TokenRequest], budget: Budget) -> None:
    plan = plan_packs(requests, budget)
    asked: Counter[tuple[int, Path, int]] = Counter()
    for pack, paths in zip(plan.packs, plan_paths(plan), strict=True):
        rows = pack.rows.tolist()
        assert rows == sorted(set(rows))
        assert sorted(set(pack.target_rows.tolist())) == list(range(len(rows)))
        for row, token, request in zip(pack.target_rows, pack.target_tokens, pack.target_requests, strict=True):
            asked[int(request), paths[rows[row]], int(token)] += 1
    expected: Counter[tuple[int, Path, int]] = Counter()
    for index, request in enumerate(requests):
        inputs, num = request.inputs.tolist(), len(request.targets)
        for place, token in enumerate(request.targets):
            expected[index, tuple(inputs[: len(inputs) - num + place + 1]), token] += 1
    assert asked == expected


@given(token_requests(), budgets)
def test_packs_keep_to_the_budget(requests: list[TokenRequest], budget: Budget) -> None:
    for pack in plan_packs(requests, budget).packs:
        assert 0 < len(pack.tokens) <= budget.tokens
        assert len(pack.rows) <= budget.rows


@given(token_requests(), budgets)
def test_subtree_end_is_the_ancestor_relation(requests: list[TokenRequest], budget: Budget) -> None:
    plan = plan_packs(requests, budget)
    for pack, paths in zip(plan.packs, plan_paths(plan), strict=True):
        place = np.arange(len(paths))
        sees = (place[None, :] <= place[:, None]) & (place[:, None] < pack.subtree_end[None, :])
        assert np.array_equal(sees, visible(paths))
        assert pack.num_context == sum(map(len, paths))


@given(token_requests(), budgets, st.data())
def test_one_buffer_indexed_by_depth_holds_the_trunk_above_each_pack(
    requests: list[TokenRequest], budget: Budget, data: st.DataObject
) -> None:
    """Also when only the packs that some requests need are run, as after a resume."""
    plan = plan_packs(requests, budget)
    chosen = data.draw(st.sets(st.integers(0, len(requests) - 1)))
    buffer: dict[int, Path] = {}
    for index in plan.needed_for(chosen):
        pack = plan.packs[index]
        above = tuple(buffer[depth][-1] for depth in range(pack.prefix_length))
        assert all(buffer[depth] == above[: depth + 1] for depth in range(pack.prefix_length))
        paths = pack_paths(pack, above)
        assert set(paths) <= all_prefixes(requests)
        if pack.is_trunk:
            assert pack.positions.tolist() == list(range(pack.prefix_length, pack.prefix_length + len(paths)))
            buffer.update(zip(pack.positions.tolist(), paths, strict=True))


@given(token_requests(), budgets, st.data())
def test_needed_for_is_the_targets_packs_and_the_trunks_above(
    requests: list[TokenRequest], budget: Budget, data: st.DataObject
) -> None:
    plan = plan_packs(requests, budget)
    chosen = data.draw(st.sets(st.integers(0, len(requests) - 1)))
    expected: set[int] = set()
    for index, pack in enumerate(plan.packs):
        if chosen & set(pack.target_requests.tolist()):
            while index >= 0:
                expected.add(index)
                index = plan.packs[index].parent  # noqa: PLW2901
    assert plan.needed_for(chosen) == sorted(expected)


@given(token_requests(), budgets)
def test_the_plan_follows_from_requests_and_budget(requests: list[TokenRequest], budget: Budget) -> None:
    one, other = plan_packs(requests, budget), plan_packs(list(requests), budget)
    assert (one.num_logical, one.num_distinct, len(one.packs)) == (
        other.num_logical,
        other.num_distinct,
        len(other.packs),
    )
    for a, b in zip(one.packs, other.packs, strict=True):
        for name in a.__slots__:
            assert np.array_equal(getattr(a, name), getattr(b, name)), name


def test_what_fits_is_one_pack() -> None:
    requests = [make_request([1, 2, 3, n], [9]) for n in range(4)]
    (pack,) = plan_packs(requests, Budget(7, 4)).packs
    assert (pack.parent, pack.prefix_length, pack.is_trunk) == (-1, 0, False)
    assert pack.tokens.tolist() == [1, 2, 3, 0, 1, 2, 3]
    assert pack.positions.tolist() == [0, 1, 2, 3, 3, 3, 3]
    assert pack.subtree_end.tolist() == [7, 7, 7, 4, 5, 6, 7]


def test_a_trunk_longer_than_the_budget_is_cut_into_a_chain_of_packs() -> None:
    requests = [make_request([*range(10), 50 + n], [9]) for n in range(2)]
    plan = plan_packs(requests, Budget(6, 4))
    shape = [(pack.parent, pack.prefix_length, pack.is_trunk, pack.tokens.tolist()) for pack in plan.packs]
    assert shape == [
        (-1, 0, True, [0, 1, 2, 3, 4, 5]),
        (0, 6, True, [6, 7, 8, 9]),
        (1, 10, False, [50, 51]),
    ]


def test_the_last_pack_of_a_long_sequence_is_no_trunk() -> None:
    plan = plan_packs([make_request(range(10), [1])], Budget(4, 4))
    assert [pack.is_trunk for pack in plan.packs] == [True, True, False]


def test_siblings_are_spread_evenly_over_packs() -> None:
    """Nine equal subtrees and room for eight make packs of five and four, not of eight and one."""
    requests = [make_request([0, n, n], [1]) for n in range(1, 10)]
    assert [len(pack.tokens) for pack in plan_packs(requests, Budget(16, 100)).packs] == [1, 10, 8]


def test_the_first_scores_of_a_long_job_come_soon() -> None:
    requests = [make_request([0, *[n] * 20], [1]) for n in range(1, 81)]
    sizes = [len(pack.tokens) for pack in plan_packs(requests, Budget(600, 100)).packs]
    assert sizes == [1, 240, 540, 540, 280]
    assert [len(pack.tokens) for pack in plan_packs(requests, Budget(801, 100)).packs] == [1, 800, 800]
    assert {len(pack.tokens) for pack in plan_packs(requests, Budget(40, 100)).packs} == {1, 40}  # small anyway


def test_rows_of_logits_bound_a_pack_as_tokens_do() -> None:
    requests = [make_request([0, n], [1]) for n in range(1, 7)]
    assert [len(pack.rows) for pack in plan_packs(requests, Budget(100, 2)).packs] == [0, 2, 2, 2]
    whole = make_request(range(6), [1, 2, 3, 4, 5])
    assert [len(pack.rows) for pack in plan_packs([whole], Budget(100, 2)).packs] == [2, 2, 1]


def test_options_of_one_token_share_a_row() -> None:
    requests = [make_request([1, 2, 3], [token]) for token in (7, 8, 7)]
    (pack,) = plan_packs(requests, Budget(10, 1)).packs
    assert (pack.rows.tolist(), pack.target_rows.tolist(), pack.target_tokens.tolist()) == ([2], [0, 0, 0], [7, 8, 7])


def test_deepest_subtrees_come_first() -> None:
    """So that running out of memory shows at once: in one pack, over packs, and over trunks."""
    lengths = [3, 9, 5, 7]
    requests = [make_request([n] * length, [1]) for n, length in enumerate(lengths)]
    (pack,) = plan_packs(requests, Budget(24, 100)).packs
    assert pack.tokens.tolist() == [1] * 9 + [3] * 7 + [2] * 5 + [0] * 3
    assert [len(pack.tokens) for pack in plan_packs(requests, Budget(9, 100)).packs] == [9, 7, 8]
    starts = [pack.tokens.tolist()[0] for pack in plan_packs(requests, Budget(2, 100)).packs if not pack.prefix_length]
    assert starts == [1, 3, 2, 0]


@pytest.mark.parametrize("budget", [Budget(4, 4), Budget(1000, 1000)])
def test_no_requests_make_no_packs(budget: Budget) -> None:
    plan = plan_packs([], budget)
    assert (plan.packs, plan.num_logical, plan.num_distinct, plan.needed_for(set())) == ((), 0, 0, [])

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from helpers import budgets, few_shot_requests, plan_paths, token_requests, visible
from hypothesis import given

from bench.engine.levels import AttentionPlan, Block, Limits, Span, plan_attention
from bench.engine.pack import Budget, Pack, TokenRequest, plan_packs

LIMITS = (Limits(0, 0), Limits(8, 0), Limits(8, 3), Limits(0, 4), Limits(8, 3, 4), Limits(0, 4, 3), Limits(96, 32, 16))


def looked_at(plan: AttentionPlan, sees: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """How often each (query, key) pair is computed, straight from what blocks and spans mean."""
    times = np.zeros(sees.shape, dtype=int)
    for block in plan.blocks:
        here = slice(block.start, block.stop)
        if not block.keys:
            times[here, here] += np.tri(block.stop - block.start, dtype=bool)
        for start, stop in block.keys:
            times[here, start:stop] += sees[here, start:stop]
    for span in (span for level in plan.levels for span in level):
        times[span.query_start : span.query_stop, span.key_start : span.key_stop] += 1
    return times


def check(pack: Pack, sees: np.ndarray, limits: Limits) -> None:  # type: ignore[type-arg]
    plan = plan_attention(pack.positions, pack.subtree_end, limits)
    assert np.array_equal(looked_at(plan, sees), sees.astype(int))
    assert [block.start for block in plan.blocks] == [0, *(block.stop for block in plan.blocks[:-1])]
    assert plan.blocks[-1].stop == len(pack.tokens)
    for block in (block for block in plan.blocks if block.keys):
        *above, (own_start, own_stop) = block.keys
        num_above = sum(stop - start for start, stop in above)
        assert block.stop - block.start <= max(limits.dense, limits.short)
        assert all(stop - start <= limits.short for start, stop in above)
        assert own_start == block.start
        assert 0 <= own_stop - block.stop < limits.vector
        assert (num_above + own_stop - own_start) % limits.vector == 0 or own_stop == len(pack.tokens)
    for level in plan.levels:  # one variable-length call each: spans in order, none overlapping
        assert all(a.query_stop <= b.query_start for a, b in pairwise(level))
    spans_over = np.zeros(len(pack.tokens), dtype=int)
    for span in (span for level in plan.levels for span in level):
        spans_over[span.query_start : span.query_stop] += 1
    assert len(plan.levels) == spans_over.max(), "more calls than the tree is deep"


@given(token_requests(), budgets)
def test_each_visible_pair_is_computed_once_and_no_other(requests: list[TokenRequest], budget: Budget) -> None:
    plan = plan_packs(requests, budget)
    for pack, paths in zip(plan.packs, plan_paths(plan), strict=True):
        for limits in LIMITS:
            check(pack, visible(paths), limits)


@pytest.mark.parametrize("limits", [*LIMITS, Limits(1, 1), Limits(20, 2), Limits(20, 100), Limits(10_000, 0)])
@pytest.mark.parametrize("tokens", [25, 60, 10_000])
def test_each_visible_pair_of_a_benchmarks_tree_is_computed_once(tokens: int, limits: Limits) -> None:
    plan = plan_packs(few_shot_requests(50, shared=120, passage=30, own=12), Budget(tokens, 1000))
    for pack, paths in zip(plan.packs, plan_paths(plan), strict=True):
        check(pack, visible(paths), limits)


POSITIONS = np.array([0, 1, 2, 3, 4, 3, 4, 5, 2])  # 0-1, below it (2, below it 3-4 and 3-5), and 2
ENDS = np.array([9, 9, 8, 5, 5, 8, 8, 8, 9])


def test_without_masks_there_is_a_block_for_each_node_and_a_level_for_each_depth_of_branching() -> None:
    plan = plan_attention(POSITIONS, ENDS, Limits())
    assert [(block.start, block.stop) for block in plan.blocks] == [(0, 2), (2, 3), (3, 5), (5, 8), (8, 9)]
    assert not any(block.keys for block in plan.blocks)
    assert plan.levels == ((Span(2, 9, 0, 2),), (Span(3, 8, 2, 3),))


def test_small_subtrees_become_one_masked_block() -> None:
    assert plan_attention(POSITIONS, ENDS, Limits(7)) == AttentionPlan(
        (Block(0, 2), Block(2, 9, ((2, 9),))), ((Span(2, 9, 0, 2),),)
    )
    assert plan_attention(POSITIONS, ENDS, Limits(9)) == AttentionPlan((Block(0, 9, ((0, 9),)),), ())


def test_short_nodes_are_looked_at_by_the_masked_blocks_below_them() -> None:
    """Of the tree above: 0-1 and 2 are short, so there is no level; what hangs from them looks at them itself."""
    assert plan_attention(POSITIONS, ENDS, Limits(5, 2)) == AttentionPlan(
        (Block(0, 5, ((0, 5),)), Block(5, 9, ((0, 2), (2, 3), (5, 9)))), ()
    )


def test_long_chains_look_at_the_short_nodes_above_them_without_a_mask() -> None:
    assert plan_attention(POSITIONS, ENDS, Limits(0, 2)) == AttentionPlan(
        (Block(0, 2, ((0, 2),)), Block(2, 3, ((0, 2), (2, 3))), Block(3, 5), Block(5, 8), Block(8, 9)),
        ((Span(3, 5, 0, 2), Span(5, 8, 0, 2), Span(8, 9, 0, 2)), (Span(3, 5, 2, 3), Span(5, 8, 2, 3))),
    )


def test_keys_of_masked_blocks_fill_vectors_as_far_as_there_are_tokens() -> None:
    assert plan_attention(POSITIONS, ENDS, Limits(5, 2, 4)) == AttentionPlan(
        (Block(0, 5, ((0, 8),)), Block(5, 9, ((0, 2), (2, 3), (5, 9)))), ()
    )


def test_a_long_chain_needs_neither_mask_nor_level() -> None:
    for dense in (0, 4):
        assert plan_attention(np.arange(5), np.full(5, 5), Limits(dense, 3)) == AttentionPlan((Block(0, 5),), ())

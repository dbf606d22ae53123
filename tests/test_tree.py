from __future__ import annotations

import numpy as np
import pytest
from helpers import prefixes
from hypothesis import given
from hypothesis import strategies as st

from bench.engine.tree import PrefixTree, build_tree

tokens = st.sampled_from([0, 1, 2, 255, 256, 65_536, 2**32 - 1])
sequences = st.lists(st.lists(tokens, max_size=8), max_size=12)


def build(lists: list[list[int]]) -> PrefixTree:
    return build_tree([np.array(ids, dtype=np.uint32) for ids in lists])


def path(tree: PrefixTree, node: int) -> tuple[int, ...]:
    """Tokens from the root to the node's end."""
    own = tuple(tree.tokens(node).tolist()) if node else ()
    return path(tree, tree.parent[node]) + own if node else own


@given(sequences)
def test_holds_each_distinct_token_once(lists: list[list[int]]) -> None:
    tree = build(lists)
    held = []
    for node in range(1, len(tree.end)):
        whole = path(tree, node)
        assert len(whole) == tree.end[node] > tree.start(node)
        held += [whole[: depth + 1] for depth in range(tree.start(node), tree.end[node])]
    assert len(held) == len(set(held)) == tree.num_tokens
    assert set(held) == prefixes(lists)


@given(sequences)
def test_each_sequence_is_the_path_to_its_terminal_node(lists: list[list[int]]) -> None:
    tree = build(lists)
    assert [path(tree, node) for node in tree.terminal] == [tuple(ids) for ids in lists]


@given(sequences)
def test_is_path_compressed_and_in_depth_first_order(lists: list[list[int]]) -> None:
    tree = build(lists)
    terminal = set(tree.terminal)
    order: list[int] = []

    def walk(node: int) -> None:
        order.append(node)
        for child in tree.children[node]:
            assert tree.parent[child] == node
            walk(child)

    walk(0)
    assert order == list(range(len(tree.end)))
    for node in range(1, len(tree.end)):
        assert len(tree.children[node]) != 1 or node in terminal
        first = [tree.tokens(child)[0] for child in tree.children[node]]
        assert len(first) == len(set(first))


@given(sequences)
def test_the_deepest_subtrees_come_first(lists: list[list[int]]) -> None:
    tree = build(lists)

    def deepest(node: int) -> int:
        return max([tree.end[node], *map(deepest, tree.children[node])])

    for children in tree.children:
        depths = [deepest(child) for child in children]
        assert depths == sorted(depths, reverse=True)


@given(sequences, st.randoms())
def test_does_not_depend_on_the_order_of_the_sequences(lists: list[list[int]], random: object) -> None:
    shuffled = list(lists)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = build(lists), build(shuffled)
    assert (one.parent, one.end, one.children) == (other.parent, other.end, other.children)
    assert [path(one, node) for node in range(len(one.end))] == [path(other, node) for node in range(len(other.end))]


def test_a_sequence_that_starts_another_ends_inside_it() -> None:
    tree = build([[1, 2, 3, 4], [1, 2], [1, 2, 9], []])
    assert tree.num_tokens == 5
    assert tree.end == [0, 2, 4, 3]
    assert tree.terminal == [2, 1, 3, 0]


@pytest.mark.parametrize("lists", [[], [[]], [[], []]])
def test_of_nothing_is_the_root(lists: list[list[int]]) -> None:
    tree = build(lists)
    assert (tree.num_tokens, tree.end, tree.terminal) == (0, [0], [0] * len(lists))


def test_is_not_limited_by_depth() -> None:
    """Each sequence goes on from the one before: as many nodes on one path as Python's stack has no room for."""
    tree = build([[7] * n for n in range(1, 1501)])
    assert tree.num_tokens == 1500
    assert tree.terminal == list(range(1, 1501))

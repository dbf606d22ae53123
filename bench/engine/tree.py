"""The prefix tree: all token sequences of a job, each shared token held once.

Built on tokens, never on "the few-shot prefix": whatever two sequences share from their first token on is one path,
be it an instruction, shots, a passage, a left-truncated prompt or an option's first words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """A path-compressed token trie. Node 0 is the empty root; parents come before their children.

    Attributes:
        parent: parent of each node; the root's is itself.
        end: depth in tokens at which each node ends; it starts where its parent ends.
        witness: for each node, a sequence (index into `sequences`) that runs through it and so holds its tokens.
        terminal: for each sequence, the node it ends in (it always ends at that node's end).
        children: for each node its children, the deepest subtree first.
        sequences: the token ids the tree was built from.
    """

    parent: list[int]
    end: list[int]
    witness: list[int]
    terminal: list[int]
    children: list[list[int]]
    sequences: Sequence[Ids]

    @property
    def num_tokens(self) -> int:
        """Distinct tokens: what has to be computed."""
        return sum(self.end) - sum(self.end[p] for p in self.parent[1:])

    def start(self, node: int) -> int:
        """Depth in tokens at which the node starts."""
        return self.end[self.parent[node]] if node else 0

    def tokens(self, node: int) -> Ids:
        """The node's own token ids."""
        return self.sequences[self.witness[node]][self.start(node) : self.end[node]]


def build_tree(sequences: Sequence[Ids]) -> PrefixTree:
    """Build the tree from sequences of token ids.

    Sorting them lexicographically makes neighbours share the most, so the tree follows from the lengths of their
    common prefixes in one pass with a stack: O(total tokens) after the sort.
    """
    keys = [ids.astype(">u4").tobytes() for ids in sequences]  # big-endian bytes compare as the numbers do
    order = sorted(range(len(sequences)), key=keys.__getitem__)
    parent, end, witness = [0], [0], [-1]
    terminal = [0] * len(sequences)
    stack = [0]
    previous = -1

    def add(at: int, depth: int, sequence: int) -> int:
        parent.append(at)
        end.append(depth)
        witness.append(sequence)
        return len(end) - 1

    for index in order:
        ids = sequences[index]
        shared = 0 if previous < 0 else _common_prefix(sequences[previous], ids)
        below = -1
        while end[stack[-1]] > shared:
            below = stack.pop()
        if end[stack[-1]] < shared:  # the two part inside `below`: split it
            middle = add(stack[-1], shared, witness[below])
            parent[below] = middle
            stack.append(middle)
        if len(ids) > end[stack[-1]]:
            stack.append(add(stack[-1], len(ids), index))
        terminal[index] = stack[-1]
        previous = index
    return _ordered(parent, end, witness, terminal, sequences)


def _common_prefix(a: Ids, b: Ids) -> int:
    size = min(len(a), len(b))
    differs = a[:size] != b[:size]
    first = int(differs.argmax()) if size else 0
    return first if size and differs[first] else size


def _ordered(
    parent: list[int], end: list[int], witness: list[int], terminal: list[int], sequences: Sequence[Ids]
) -> PrefixTree:
    """Renumber so that parents precede children, and put the deepest subtrees first."""
    children: list[list[int]] = [[] for _ in end]
    for node in range(1, len(end)):
        children[parent[node]].append(node)
    order = list(_preorder(children))
    deepest = list(end)
    for node in reversed(order):
        if node:
            deepest[parent[node]] = max(deepest[parent[node]], deepest[node])
    for siblings in children:
        siblings.sort(key=lambda node: (-deepest[node], node))
    order = list(_preorder(children))
    new = [0] * len(order)
    for position, node in enumerate(order):
        new[node] = position
    return PrefixTree(
        parent=[new[parent[node]] for node in order],
        end=[end[node] for node in order],
        witness=[witness[node] for node in order],
        terminal=[new[node] for node in terminal],
        children=[[new[child] for child in children[node]] for node in order],
        sequences=sequences,
    )


def _preorder(children: Sequence[Sequence[int]]) -> Iterable[int]:
    stack = [0]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(children[node]))

"""How a pack attends, as a list of plain attention calls. Ints only.

In depth-first order the descendants of a node are one contiguous range. So tree attention splits, exactly, into

- *blocks*: a range that attends to itself (causally where it is one chain, under the tree's mask where it is a small
  subtree not worth cutting further), and
- *levels*: for each node above other tokens, its descendants attend to all of it, with no mask at all; nodes of one
  level never overlap, so a level can be one variable-length call.

Every token is in exactly one block, and partial results are merged by their log-sum-exps. What the trunk path above
the pack contributes is one more unmasked call: all tokens of the pack attend to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from bench.engine.pack import Ints


@dataclass(frozen=True, slots=True)
class Block:
    """Tokens [start, stop) attend to themselves; `is_chain` says that the mask is plain causal."""

    start: int
    stop: int
    is_chain: bool


@dataclass(frozen=True, slots=True)
class Span:
    """Queries [query_start, query_stop) attend to all keys [key_start, key_stop)."""

    query_start: int
    query_stop: int
    key_start: int
    key_stop: int


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """Blocks in order, covering all tokens, and the levels from the top of the tree down."""

    blocks: tuple[Block, ...]
    levels: tuple[tuple[Span, ...], ...]


def plan_attention(positions: Ints, subtree_end: Ints, dense_limit: int) -> AttentionPlan:
    """Plan a pack's attention from its tokens' depths (T,) and subtree ends (T,).

    Neighbouring subtrees of together at most `dense_limit` tokens become one masked block; 0 gives one block per node.
    """
    blocks: list[Block] = []
    levels: dict[int, list[Span]] = {}
    above: list[int] = []  # ends of the subtrees we are inside of
    is_open = False  # whether the last block may still take in the next small subtree
    for start, stop, end in _segments(positions, subtree_end):
        if blocks and start < blocks[-1].stop:
            continue  # inside a subtree that became one block
        while above and above[-1] <= start:
            above.pop()
        if end - start > dense_limit:
            blocks.append(Block(start, stop, is_chain=True))
            is_open = False
            if end > stop:
                levels.setdefault(len(above), []).append(Span(stop, end, start, stop))
                above.append(end)
        elif is_open and end - blocks[-1].start <= dense_limit:
            blocks[-1] = Block(blocks[-1].start, end, is_chain=False)
        else:
            blocks.append(Block(start, end, is_chain=stop == end))
            is_open = True
    return AttentionPlan(tuple(blocks), tuple(tuple(levels[level]) for level in sorted(levels)))


def _segments(positions: Ints, subtree_end: Ints) -> Iterator[tuple[int, int, int]]:
    """Yield (start, stop, end of subtree) of each node in the pack."""
    starts_new = (positions[1:] != positions[:-1] + 1) | (subtree_end[1:] != subtree_end[:-1])
    bounds = [0, *(starts_new.nonzero()[0] + 1).tolist(), len(positions)]
    for start, stop in pairwise(bounds):
        yield start, stop, int(subtree_end[start])

"""How a pack attends, as a list of plain attention calls. Ints only.

In depth-first order the descendants of a node are one contiguous range. So tree attention splits, exactly, into

- *blocks*: a range that attends to itself, causally where it is one long chain, else under the tree's mask, which then
  covers what few tokens of short nodes stand above it, too; and
- *levels*: for each long node above other tokens, its descendants attend to all of it, with no mask at all; nodes of
  one level never overlap, so a level can be one variable-length call.

Every token is in exactly one block, and partial results are merged by their log-sum-exps. What the trunk path above
the pack contributes is one more unmasked call: all tokens of the pack attend to it. Questions that begin with the same
two or three words make many short nodes; a level of each would cost a call and a merge over all that hangs from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from bench.engine.pack import Ints


@dataclass(frozen=True, slots=True)
class Limits:
    """What an attention backend prefers.

    Attributes:
        dense: neighbouring subtrees of together at most so many tokens become one masked block; 0: a block per node.
        short: nodes of at most so many tokens are attended to by masked blocks, not by a level of their own.
        vector: masked blocks look at a multiple of so many keys, as far as the pack has them.
    """

    dense: int = 0
    short: int = 0
    vector: int = 1


@dataclass(frozen=True, slots=True)
class Block:
    """Tokens [start, stop) attend to themselves.

    Attributes:
        start, stop: the block's tokens.
        keys: the ranges of tokens they look at under the tree's mask: short nodes above some of them, and themselves
            with those of the tokens after them that fill the last vector, which none of them sees. Empty where they
            are one chain, whose mask is plain causal.
    """

    start: int
    stop: int
    keys: tuple[tuple[int, int], ...] = ()


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


def plan_attention(positions: Ints, subtree_end: Ints, limits: Limits) -> AttentionPlan:
    """Plan a pack's attention from its tokens' depths (T,) and subtree ends (T,)."""
    blocks: list[Block] = []
    levels: dict[int, list[Span]] = {}
    inside: list[int] = []  # ends of the subtrees of long nodes that we are inside of
    short: list[tuple[int, int, int]] = []  # start, stop and end of subtree of the short nodes that we are below
    is_open = False  # whether the last block may still take in what comes next
    for start, stop, end in _segments(positions, subtree_end):
        if blocks and start < blocks[-1].stop:
            continue  # inside a subtree that became one block
        while inside and inside[-1] <= start:
            inside.pop()
        while short and short[-1][2] <= start:
            short.pop()
        is_small = end - start <= limits.dense
        is_short = stop < end and stop - start <= limits.short
        if is_small or is_short:
            upto = end if is_small else stop
            if is_open and upto - blocks[-1].start <= limits.dense:
                block = blocks.pop()
                blocks.append(_masked(block.start, upto, block.keys[:-1], len(positions), limits))
            else:
                above = tuple((first, last) for first, last, _ in short)
                blocks.append(_masked(start, upto, above, len(positions), limits))
            if not is_small:
                short.append((start, stop, end))
            is_open = True
        else:
            blocks.append(Block(start, stop))
            for level, (first, last, _) in enumerate(short, len(inside)):
                levels.setdefault(level, []).append(Span(start, stop, first, last))
            is_open = False
            if end > stop:
                levels.setdefault(len(inside), []).append(Span(stop, end, start, stop))
                inside.append(end)
    return AttentionPlan(tuple(blocks), tuple(tuple(levels[level]) for level in sorted(levels)))


def _masked(start: int, stop: int, above: tuple[tuple[int, int], ...], num_tokens: int, limits: Limits) -> Block:
    num_keys = stop - start + sum(last - first for first, last in above)
    filled = min(stop + -num_keys % limits.vector, num_tokens)
    return Block(start, stop, (*above, (start, filled)))


def _segments(positions: Ints, subtree_end: Ints) -> Iterator[tuple[int, int, int]]:
    """Yield (start, stop, end of subtree) of each node in the pack."""
    starts_new = (positions[1:] != positions[:-1] + 1) | (subtree_end[1:] != subtree_end[:-1])
    bounds = [0, *(starts_new.nonzero()[0] + 1).tolist(), len(positions)]
    for start, stop in pairwise(bounds):
        yield start, stop, int(subtree_end[start])

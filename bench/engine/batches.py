"""Padded batches without waste, for models whose attention looks both ways and so can share no prefix. Ints only.

Sequences are sorted by length, so neighbours pad each other little, and a batch is as many of them as a budget of
tokens allows, padding counted. The longest come first, so that lack of memory shows at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.engine.pack import Budget, Ints
from bench.engine.tree import Ids

_MOST_PADDING = 1 / 16  # of a batch's tokens, once the batch is large enough to keep the processor busy
_LARGE_ENOUGH = 1 / 16  # of the budget


def gather(lengths: Sequence[int], num_rows: Sequence[int], budget: Budget) -> list[list[int]]:
    """Gather sequences into batches within `budget`; a sequence longer than that is a batch of its own.

    Args:
        lengths: tokens of each sequence.
        num_rows: rows of logits each is asked for.
        budget: `tokens` bounds a batch's size times its longest sequence, `rows` its rows of logits.

    Returns:
        The batches as lists of places in `lengths`, the longest sequence of each first.
    """
    batches: list[list[int]] = []
    tokens = rows = longest = 0
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        size = (len(batches[-1]) + 1) * longest if batches else 0
        padding = size - tokens - lengths[place]
        is_wasteful = size > budget.tokens * _LARGE_ENOUGH and padding > size * _MOST_PADDING
        is_full = size > budget.tokens or rows + num_rows[place] > budget.rows
        if not batches or is_full or is_wasteful:
            batches.append([])
            tokens, rows, longest = 0, 0, lengths[place]
        batches[-1].append(place)
        tokens += lengths[place]
        rows += num_rows[place]
    return batches


def pad(sequences: Sequence[Ids | Sequence[int]]) -> Ints:
    """Stack sequences of token ids (N, longest), zeros after the shorter ones."""
    padded = np.zeros((len(sequences), max(map(len, sequences))), dtype=np.int64)
    for row, ids in enumerate(sequences):
        padded[row, : len(ids)] = ids
    return padded


def mask_of(lengths: Ints) -> Ints:
    """1 for tokens, 0 for padding, (N, longest)."""
    return (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)

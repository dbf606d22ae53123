"""What every attention backend is given and returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.engine.levels import AttentionPlan
from bench.engine.pack import Pack


@dataclass(frozen=True, slots=True)
class PackLayout:
    """A pack's tensors on the device, shared by all layers.

    Attributes:
        pack: the plan it was made from.
        positions: depth of each token, (T,).
        subtree_end: end of each token's subtree in the pack, (T,).
        attention: blocks and levels of this pack.
        places: of the keys of all blocks that look at several ranges of them, block after block.
        keys: which of `places` are a block's, by block start.
        masks: for each block with one, its boolean mask over its keys (True = may attend), by block start.
        cache: what a backend derives once for all layers (for example cumulative lengths), by name.
    """

    pack: Pack
    positions: torch.Tensor
    subtree_end: torch.Tensor
    attention: AttentionPlan
    places: torch.Tensor
    keys: dict[int, slice]
    masks: dict[int, torch.Tensor]
    cache: dict[str, Any]

    @property
    def depth(self) -> int:
        """One more than the deepest position a token of the pack can have."""
        return self.pack.prefix_length + len(self.pack.tokens)


@dataclass(frozen=True, slots=True)
class AttentionInputs:
    """One layer's attention over one pack.

    Attributes:
        query: (Hq, T, D).
        key, value: of the pack's own tokens, (Hkv, T, D).
        prefix_key, prefix_value: of the trunk path above, (Hkv, P, D); P may be 0.
        scale: factor on the scores.
        window: a token sees only the last `window` positions, itself included; None for all.
        softcap: scores s become `softcap * tanh(s / softcap)`; None for none.
        key_bias: what is added to the scores, by query head and position of the key, (Hq, P + depth of the pack), in
            fp64, since it is large where it does not matter; None for nothing. A constant added to a head's row
            changes nothing.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    prefix_key: torch.Tensor
    prefix_value: torch.Tensor
    scale: float
    window: int | None = None
    softcap: float | None = None
    key_bias: torch.Tensor | None = None


AttentionBackend = Callable[[AttentionInputs, PackLayout], torch.Tensor]
"""Takes one layer's inputs and returns its output, (Hq, T, D)."""


def make_layout(pack: Pack, attention: AttentionPlan, device: torch.device) -> PackLayout:
    """Move a pack's layout to `device` and build the masks of its small subtrees."""
    positions = to_device(pack.positions, device)
    subtree_end = to_device(pack.subtree_end, device)
    found: list[NDArray[Any]] = []
    keys: dict[int, slice] = {}
    num_places = 0
    for block in attention.blocks:
        if len(block.keys) > 1:
            found.append(np.concatenate([np.arange(start, stop) for start, stop in block.keys]))
            keys[block.start] = slice(num_places, num_places := num_places + len(found[-1]))
    places = to_device(np.concatenate(found) if found else np.arange(0), device)
    masks = {}
    for block in attention.blocks:
        if block.keys:
            seen = places[keys[block.start]] if block.start in keys else torch.arange(*block.keys[0], device=device)
            masks[block.start] = tree_mask(subtree_end, torch.arange(block.start, block.stop, device=device), seen)
    return PackLayout(pack, positions, subtree_end, attention, places, keys, masks, {})


def tree_mask(subtree_end: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Return the mask of tokens at `queries` over those at `keys`: token i sees j iff j <= i < subtree_end[j]."""
    return (keys[None, :] <= queries[:, None]) & (queries[:, None] < subtree_end[None, keys])


def to_device(values: NDArray[Any], device: torch.device) -> torch.Tensor:
    """Move numbers to `device` without waiting for what it is doing: a GPU fetches them from pinned memory."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)

"""The plain mathematics of tree attention in fp32: every feature, no shortcut. The others are tested against it."""

from __future__ import annotations

import torch

from bench.engine.attention.contract import AttentionInputs, PackLayout

_QUERIES_AT_ONCE = 512  # bounds the score matrix


def attend(inputs: AttentionInputs, layout: PackLayout) -> torch.Tensor:
    """Softmax attention of all tokens over the trunk path and, under the tree's mask, the pack; (Hq, T, D)."""
    num_groups = inputs.query.shape[0] // inputs.key.shape[0]
    key = torch.cat((inputs.prefix_key, inputs.key), dim=1).float().repeat_interleave(num_groups, dim=0)
    value = torch.cat((inputs.prefix_value, inputs.value), dim=1).float().repeat_interleave(num_groups, dim=0)
    prefix_positions = torch.arange(inputs.prefix_key.shape[1], device=layout.positions.device)
    key_positions = torch.cat((prefix_positions, layout.positions))
    outputs = []
    for start in range(0, inputs.query.shape[1], _QUERIES_AT_ONCE):
        query = inputs.query[:, start : start + _QUERIES_AT_ONCE].float()
        scores = query @ key.transpose(1, 2) * inputs.scale
        if inputs.softcap is not None:
            scores = inputs.softcap * torch.tanh(scores / inputs.softcap)
        if inputs.key_bias is not None:
            bias = inputs.key_bias[:, key_positions] - inputs.key_bias[:, len(prefix_positions), None]
            scores += bias.float()[:, None]
        mask = _mask(layout, key_positions, start, start + query.shape[1], inputs.window)
        scores = scores.masked_fill(~mask, float("-inf"))
        outputs.append(torch.softmax(scores, dim=-1) @ value)
    return torch.cat(outputs, dim=1).to(inputs.query.dtype)


def _mask(layout: PackLayout, key_positions: torch.Tensor, start: int, stop: int, window: int | None) -> torch.Tensor:
    """Mask of queries [start, stop) over the prefix and the pack, (stop - start, P + T)."""
    device = layout.positions.device
    query_place = torch.arange(start, stop, device=device)[:, None]
    key_place = torch.arange(len(layout.positions), device=device)[None, :]
    own = (key_place <= query_place) & (query_place < layout.subtree_end[None, :])
    mask = torch.cat((own.new_ones(stop - start, len(key_positions) - len(layout.positions)), own), dim=1)
    if window is not None:
        mask &= layout.positions[start:stop, None] - key_positions[None, :] < window
    return mask

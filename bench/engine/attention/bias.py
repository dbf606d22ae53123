"""A bias by key position (ALiBi and its kin), folded into a few more dimensions of query and key.

With the bias appended to each key and a constant to each query, their product is score plus bias: any attention kernel
will do. Half precision holds the bias in three parts, 24 bits together; it is taken relative to the place where the
pack hangs from its trunk, so that what is large and unimportant, not what is near, loses precision.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn.functional import pad

from bench.engine.attention.contract import AttentionInputs, PackLayout

_NUM_DIMENSIONS = 8  # kernels like multiples of eight; three are used
_NUM_PARTS = 3
_QUERY_PART = 16.0  # exact in any dtype, and keeps the keys' parts within the range of fp16


def fold_key_bias(inputs: AttentionInputs, layout: PackLayout) -> AttentionInputs:
    """Return the same attention without bias, over `D + 8` dimensions of which the last 8 of values are zero."""
    if inputs.key_bias is None:
        return inputs
    key = f"folded {inputs.query.dtype}"
    if key not in layout.cache:
        layout.cache[key] = _parts(inputs, layout)
    prefix_part, own_part = layout.cache[key]
    num_heads, length, _ = inputs.query.shape
    query_part = inputs.query.new_zeros(_NUM_DIMENSIONS)
    query_part[:_NUM_PARTS] = _QUERY_PART
    groups = num_heads // inputs.key.shape[0]  # the bias is each query head's own, so keys can no longer be shared
    prefix_key, own_key = (part.repeat_interleave(groups, dim=0) for part in (inputs.prefix_key, inputs.key))
    prefix_value, value = (part.repeat_interleave(groups, dim=0) for part in (inputs.prefix_value, inputs.value))
    return replace(
        inputs,
        query=torch.cat((inputs.query, query_part.expand(num_heads, length, -1)), dim=-1),
        key=torch.cat((own_key, own_part), dim=-1),
        value=pad(value, (0, _NUM_DIMENSIONS)),
        prefix_key=torch.cat((prefix_key, prefix_part), dim=-1),
        prefix_value=pad(prefix_value, (0, _NUM_DIMENSIONS)),
        key_bias=None,
    )


def _parts(inputs: AttentionInputs, layout: PackLayout) -> tuple[torch.Tensor, torch.Tensor]:
    """What to append to the prefix's keys, (Hq, P, 8), and to the pack's own, (Hq, T, 8)."""
    assert inputs.key_bias is not None
    prefix_length = inputs.prefix_key.shape[1]
    rest = (inputs.key_bias - inputs.key_bias[:, prefix_length, None]) / (inputs.scale * _QUERY_PART)
    parts = rest.new_zeros((*rest.shape, _NUM_DIMENSIONS), dtype=inputs.query.dtype)
    for number in range(_NUM_PARTS):
        parts[..., number] = rest.to(parts.dtype)
        rest = rest - parts[..., number].double()
    return parts[:, :prefix_length], parts[:, layout.positions]

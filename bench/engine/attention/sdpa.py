"""CPU: the attention plan through PyTorch's CPU flash kernel, partial results merged by their log-sum-exps.

The kernel is the one behind `scaled_dot_product_attention`; it is called by its own name because only there does it
return the log-sum-exp. What the trunk gives is computed first and everything else merged into it, the blocks last: a
block's part is still in the cache then, and as each token is in one block, its log-sum-exp need not be kept.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from torch.nn.functional import pad

from bench.engine.attention.bias import fold_key_bias
from bench.engine.attention.contract import AttentionInputs, PackLayout
from bench.engine.device import lacks_instructions
from bench.engine.levels import Limits

_VECTOR = 16  # numbers of fp32; where it does not divide the number of keys, the kernel does the last few one by one
LIMITS = Limits(dense=96, short=32, vector=_VECTOR)  # one small masked call beats several smaller ones


def attend(inputs: AttentionInputs, layout: PackLayout) -> torch.Tensor:
    """Attention of a pack, (Hq, T, D)."""
    if lacks_instructions(inputs.query.dtype, inputs.query.device):
        return attend(_widened(inputs), layout).to(inputs.query.dtype)
    num_dimensions, scale = inputs.value.shape[2], inputs.scale
    inputs = fold_key_bias(inputs, layout)
    query = inputs.query[None]
    key, value, prefix_key, prefix_value = (
        _for_heads(tensor[None], query.shape[1])
        for tensor in (inputs.key, inputs.value, inputs.prefix_key, inputs.prefix_value)
    )
    if num_above := prefix_key.shape[2]:
        fill = (0, 0, 0, -num_above % _VECTOR)  # takes 8 % off this call
        output, lse = _flash(query, pad(prefix_key, fill), pad(prefix_value, fill), scale, _prefix_bias(layout, query))
    else:
        output = torch.zeros_like(query)
        lse = query.new_full(query.shape[:3], float("-inf"), dtype=torch.float32)
    for level in layout.attention.levels:
        for span in level:
            asking, seen = slice(span.query_start, span.query_stop), slice(span.key_start, span.key_stop)
            found = _flash(query[:, :, asking], key[:, :, seen], value[:, :, seen], scale)
            merge_(output[:, :, asking], lse[:, :, asking], *found)
    whole = query.new_empty(query.transpose(1, 2).shape).transpose(1, 2)  # token by token, as the model takes it
    gathered = [_at(tensor, layout.places) for tensor in (key, value)]
    biases = _biases(layout, query)
    blocks = layout.attention.blocks
    sizes = [block.stop - block.start for block in blocks]
    views = (torch.split(tensor, sizes, dim=2) for tensor in (query, output, lse, whole))
    for block, block_query, block_output, block_lse, block_whole in zip(blocks, *views, strict=True):
        if len(block.keys) > 1:
            keys, values = (tensor[:, :, layout.keys[block.start]] for tensor in gathered)
        else:
            seen = slice(*block.keys[0]) if block.keys else slice(block.start, block.stop)
            keys, values = key[:, :, seen], value[:, :, seen]
        bias = biases.get(block.start)
        part, part_lse = _flash(block_query, keys, values, scale, bias, is_causal=bias is None)
        torch.lerp(block_output, part, _share(block_lse, part_lse, part.dtype), out=block_whole)
    return whole[0, ..., :num_dimensions]


def _at(tensor: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The places of (1, H, T, D), whose heads lie side by side in memory: one copy of whole rows."""
    return tensor.transpose(1, 2).index_select(1, places).transpose(1, 2)


def _biases(layout: PackLayout, query: torch.Tensor) -> dict[int, torch.Tensor]:
    """The masks of blocks as what is added to scores, made once for all layers."""
    name = f"biases {query.dtype}"
    if name not in layout.cache:
        layout.cache[name] = {
            start: query.new_zeros(mask.shape).masked_fill_(~mask, float("-inf"))
            for start, mask in layout.masks.items()
        }
    found: dict[int, torch.Tensor] = layout.cache[name]
    return found


def _prefix_bias(layout: PackLayout, query: torch.Tensor) -> torch.Tensor | None:
    """What hides the keys that fill the last vector of the prefix, (1, P and those); made once for all layers."""
    num_above = layout.pack.prefix_length
    if num_above % _VECTOR == 0:
        return None
    name = f"prefix bias {query.dtype}"
    if name not in layout.cache:
        bias = query.new_zeros(1, num_above + -num_above % _VECTOR)
        bias[:, num_above:] = float("-inf")
        layout.cache[name] = bias
    found: torch.Tensor = layout.cache[name]
    return found


def _widened(inputs: AttentionInputs) -> AttentionInputs:
    """The same in fp32."""
    names = ("query", "key", "value", "prefix_key", "prefix_value")
    return replace(inputs, **{name: getattr(inputs, name).float() for name in names})


def merge_(output: torch.Tensor, lse: torch.Tensor, part: torch.Tensor, part_lse: torch.Tensor) -> None:
    """Merge attention over further keys into `output` (..., D) and `lse` (...), in place."""
    output.lerp_(part, _share(lse, part_lse, part.dtype))
    torch.logaddexp(lse, part_lse, out=lse)


def _share(lse: torch.Tensor, part_lse: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What weight attention over further keys has beside what is known, (..., 1).

    Softmax over the union of two sets of keys weighs their results by exp(lse): the share of the second is
    sigmoid(part_lse - lse).
    """
    return (part_lse - lse).sigmoid_().unsqueeze(-1).to(dtype)


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    bias: torch.Tensor | None = None,
    *,
    is_causal: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend with query (1, Hq, t, D) to key (1, Hkv, n, D) and value; returns (1, Hq, t, D) and its lse (1, Hq, t)."""
    found: tuple[torch.Tensor, torch.Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, is_causal, attn_mask=bias, scale=scale
    )
    return found


def _for_heads(tensor: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Keys or values, (1, Hkv, n, D), for so many query heads."""
    num_groups = num_heads // tensor.shape[1]
    return tensor if num_groups == 1 or _shares_key_heads() else tensor.repeat_interleave(num_groups, dim=1)


@cache
def _shares_key_heads() -> bool:
    """Whether the kernel lets query heads share a key head, as torch 2.13's does.

    Earlier ones read on past the keys without a word. With one key, attention is its value: here 1, and behind it 0.
    """
    values = torch.tensor([1.0, 0.0]).repeat_interleave(8).view(1, 2, 1, 8)
    output, _ = _flash(values, values[:, :1], values[:, :1], 1.0)
    return bool((output == 1).all())

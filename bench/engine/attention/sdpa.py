"""CPU: the attention plan through PyTorch's CPU flash kernel, partial results merged by their log-sum-exps.

The kernel is the one behind `scaled_dot_product_attention`; it is called by its own name because only there does it
return the log-sum-exp. Query heads that share a key head are a dimension of their own, over which keys are expanded, so
that nothing is copied; only small blocks ever see a mask.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from bench.engine.attention.bias import fold_key_bias
from bench.engine.attention.contract import AttentionInputs, PackLayout
from bench.engine.device import lacks_instructions
from bench.engine.levels import Limits

LIMITS = Limits(dense=96, short=32)  # one small masked call beats several smaller ones


def attend(inputs: AttentionInputs, layout: PackLayout) -> torch.Tensor:
    """Attention of a pack, (Hq, T, D)."""
    if lacks_instructions(inputs.query.dtype, inputs.query.device):
        return attend(_widened(inputs), layout).to(inputs.query.dtype)
    num_dimensions = inputs.value.shape[2]
    inputs = fold_key_bias(inputs, layout)
    num_heads, length, size = inputs.query.shape
    num_kv_heads = inputs.key.shape[0]
    query = inputs.query.view(num_kv_heads, num_heads // num_kv_heads, length, size)
    output = query.new_empty(length, *query.shape[:2], size).permute(1, 2, 0, 3)
    lse = query.new_empty(query.shape[:3], dtype=torch.float32)
    own = (inputs.key, inputs.value)
    gathered = [_at(tensor, layout.places) for tensor in own]
    biases = _biases(layout, query)
    for block in layout.attention.blocks:
        here = slice(block.start, block.stop)
        if block.above:
            key, value = (tensor[:, layout.keys[block.start]] for tensor in gathered)
        else:
            key, value = (tensor[:, here] for tensor in own)
        asking = query[:, :, here]
        if block.is_chain and block.above:
            above, below = slice(block.num_above), slice(block.num_above, None)
            part = _flash(asking, key[:, below], value[:, below], inputs.scale, is_causal=True)
            merge_(*part, *_flash(asking, key[:, above], value[:, above], inputs.scale))
        else:
            bias = biases.get(block.start)
            part = _flash(asking, key, value, inputs.scale, bias, is_causal=bias is None)
        output[:, :, here], lse[:, :, here] = part
    for level in layout.attention.levels:
        for span in level:
            there, keys = slice(span.query_start, span.query_stop), slice(span.key_start, span.key_stop)
            more = _flash(query[:, :, there], inputs.key[:, keys], inputs.value[:, keys], inputs.scale)
            merge_(output[:, :, there], lse[:, :, there], *more)
    if inputs.prefix_key.shape[1]:
        merge_(output, lse, *_flash(query, inputs.prefix_key, inputs.prefix_value, inputs.scale))
    return output.flatten(0, 1)[..., :num_dimensions]


def _at(tensor: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The places of (Hkv, T, D), whose heads lie side by side in memory: one copy of whole rows."""
    return tensor.transpose(0, 1).index_select(0, places).transpose(0, 1)


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


def _widened(inputs: AttentionInputs) -> AttentionInputs:
    """The same in fp32."""
    names = ("query", "key", "value", "prefix_key", "prefix_value")
    return replace(inputs, **{name: getattr(inputs, name).float() for name in names})


def merge_(output: torch.Tensor, lse: torch.Tensor, part: torch.Tensor, part_lse: torch.Tensor) -> None:
    """Merge attention over further keys into `output` (..., D) and `lse` (...), in place.

    Softmax over the union of two sets of keys weighs their results by exp(lse): the share of the second is
    sigmoid(part_lse - lse).
    """
    share = torch.sigmoid(part_lse - lse).unsqueeze(-1)
    output.lerp_(part, share.to(output.dtype))
    torch.logaddexp(lse, part_lse, out=lse)


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    bias: torch.Tensor | None = None,
    *,
    is_causal: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend with query (Hkv, G, t, D) to key (Hkv, n, D) and value; returns (Hkv, G, t, D) and its lse (Hkv, G, t)."""
    key, value = (tensor.unsqueeze(1).expand(-1, query.shape[1], -1, -1) for tensor in (key, value))
    found: tuple[torch.Tensor, torch.Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, is_causal, attn_mask=bias, scale=scale
    )
    return found

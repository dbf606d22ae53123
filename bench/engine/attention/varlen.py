"""CUDA: the attention plan as variable-length calls, one for all nodes' own tokens and one for each tree level.

`torch.nn.attention.varlen.varlen_attn` runs FlashAttention and returns the log-sum-exp. fp16 and bf16 only.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from bench.engine.attention.bias import fold_key_bias
from bench.engine.attention.contract import AttentionInputs, PackLayout, to_device
from bench.engine.attention.sdpa import merge_


@dataclass(frozen=True, slots=True)
class _Call:
    """One variable-length call: which tokens ask, which keys answer, and where one segment ends and the next begins."""

    queries: torch.Tensor | None  # places in the pack; None for all
    keys: torch.Tensor | None
    query_bounds: torch.Tensor  # cumulative lengths, int32
    key_bounds: torch.Tensor
    max_query: int
    max_key: int


def attend(inputs: AttentionInputs, layout: PackLayout) -> torch.Tensor:
    """Attention of a pack, (Hq, T, D)."""
    if "calls" not in layout.cache:
        layout.cache["calls"] = _calls(layout)
    calls: list[_Call] = layout.cache["calls"]
    num_dimensions = inputs.value.shape[2]
    inputs = fold_key_bias(inputs, layout)
    own, *levels = calls
    query, key, value = (tensor.transpose(0, 1) for tensor in (inputs.query, inputs.key, inputs.value))  # (T, H, D)
    output, lse = _run(own, query, key, value, inputs.scale, is_causal=True)
    for call in levels:
        part, part_lse = _run(call, query, key, value, inputs.scale, is_causal=False)
        there = output[call.queries], lse[call.queries]
        merge_(*there, part, part_lse)
        output[call.queries], lse[call.queries] = there
    prefix_length = inputs.prefix_key.shape[1]
    if prefix_length:
        if "prefix call" not in layout.cache:
            layout.cache["prefix call"] = _prefix_call(len(query), prefix_length, query.device)
        call = layout.cache["prefix call"]
        prefix_key, prefix_value = inputs.prefix_key.transpose(0, 1), inputs.prefix_value.transpose(0, 1)
        merge_(output, lse, *_run(call, query, prefix_key, prefix_value, inputs.scale, is_causal=False))
    return output[..., :num_dimensions].transpose(0, 1)


def _calls(layout: PackLayout) -> list[_Call]:
    device = layout.positions.device
    lengths = [block.stop - block.start for block in layout.attention.blocks]
    own = _bounds(lengths, device)
    calls = [_Call(None, None, own, own, max(lengths), max(lengths))]
    for level in layout.attention.levels:
        num_queries = [span.query_stop - span.query_start for span in level]
        num_keys = [span.key_stop - span.key_start for span in level]
        calls.append(
            _Call(
                queries=_places([(span.query_start, span.query_stop) for span in level], device),
                keys=_places([(span.key_start, span.key_stop) for span in level], device),
                query_bounds=_bounds(num_queries, device),
                key_bounds=_bounds(num_keys, device),
                max_query=max(num_queries),
                max_key=max(num_keys),
            )
        )
    return calls


def _prefix_call(length: int, prefix_length: int, device: torch.device) -> _Call:
    return _Call(None, None, _bounds([length], device), _bounds([prefix_length], device), length, prefix_length)


def _bounds(lengths: Sequence[int], device: torch.device) -> torch.Tensor:
    return to_device(np.cumsum([0, *lengths], dtype=np.int32), device)


def _places(ranges: Sequence[tuple[int, int]], device: torch.device) -> torch.Tensor:
    return to_device(np.concatenate([np.arange(start, stop) for start, stop in ranges]), device)


def _run(
    call: _Call, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, *, is_causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run one call; returns the output (t, Hq, D) and its log-sum-exp (t, Hq)."""
    attention = _varlen_attn()
    if call.queries is not None:
        query = query[call.queries]
    if call.keys is not None:
        key, value = key[call.keys], value[call.keys]
    groups = query.shape[1] // key.shape[1]
    options: dict[str, Any] = {}
    if groups > 1 and takes_groups(attention):
        options["enable_gqa"] = True
    elif groups > 1:
        key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    output, lse = attention(
        *(_with_dense_rows(tensor) for tensor in (query, key, value)),
        call.query_bounds,
        call.key_bounds,
        call.max_query,
        call.max_key,
        return_aux=_lse_request(),
        scale=scale,
        window_size=(-1, 0) if is_causal else (-1, -1),
        **options,
    )
    return output, lse.transpose(0, 1)


def _with_dense_rows(tensor: torch.Tensor) -> torch.Tensor:
    """The kernel takes any strides but the last dimension's."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


@cache
def takes_groups(attention: Callable[..., Any]) -> bool:
    """Whether `varlen_attn` lets query heads share a key head: torch 2.12 and later; before, keys are copied out."""
    return "enable_gqa" in inspect.signature(attention).parameters


def _varlen_attn() -> Callable[..., Any]:
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn


def _lse_request() -> Any:
    from torch.nn.attention.varlen import AuxRequest

    return AuxRequest(lse=True)

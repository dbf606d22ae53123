"""CUDA: sliding windows, soft caps and key biases in one FlexAttention call over the trunk and the pack.

`varlen_attn` knows neither soft caps nor windows on a tree. FlexAttention takes the score's change and the mask as
functions and compiles them into a kernel of FlashAttention's kind; blocks of 128 × 128 that nobody sees are skipped, as
a *block mask* says. That mask is worked out once a pack and window, on the device, for some thousand queries at a time:
exact, one elementwise pass over the pairs of tokens, and no table of all of them in anybody's memory. (Compiling
`create_block_mask` would do the same for another compilation; tables of segments would need a case for each way in
which a window may cut a segment.)

All that changes from pack to pack reaches the kernel as tensors, and small packs are padded to two blocks, since a
length of one token or one block would be compiled for itself. So each model compiles it once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import pad

from bench.engine.attention import reference
from bench.engine.attention.contract import AttentionInputs, PackLayout

log = logging.getLogger(__name__)

_BLOCK = 128  # FlexAttention's own default
_SHORTEST = _BLOCK + 1  # tokens; two blocks
_BLOCKS_AT_ONCE = 8  # rows of blocks of the mask that are worked out together
_MOST_COMPILED = 64  # models in one process; beyond torch's own limit of 8 it would go on without compiling
_ModFunction = Callable[..., torch.Tensor]


@dataclass(slots=True)
class FlexOrReference:
    """FlexAttention where it can be compiled, else the plain mathematics, and a note that says so.

    Attributes:
        notes: where the note goes.
        is_broken: whether compiling has failed; it is not tried again.
    """

    notes: list[str]
    is_broken: bool = False

    def attend(self, inputs: AttentionInputs, layout: PackLayout) -> torch.Tensor:
        """Attention of a pack, (Hq, T, D)."""
        if not self.is_broken:
            try:
                return attend(inputs, layout)
            except TorchDynamoException as error:  # of compiling: no compiler, no Triton, a head size it cannot do
                self.is_broken = True
                log.warning("FlexAttention cannot be compiled: %s", error)
                inner = getattr(error, "inner_exception", error)
                reason = next(iter(str(inner).strip().splitlines()), type(inner).__name__)
                self.notes.append(
                    f"FlexAttention cannot be compiled here ({reason}); layers with a sliding window or soft cap are "
                    "computed the plain way, which is slower"
                )
        return reference.attend(inputs, layout)


def attend(inputs: AttentionInputs, layout: PackLayout) -> torch.Tensor:
    """Attention of a pack, (Hq, T, D)."""
    name = f"block mask {inputs.window}"
    if name not in layout.cache:
        layout.cache[name] = block_mask(layout, inputs.prefix_key.shape[1], inputs.window)
    output: torch.Tensor = _flex(inputs.query.device.type)(
        _padded(inputs.query),
        _padded(inputs.prefix_key, inputs.key),
        _padded(inputs.prefix_value, inputs.value),
        score_mod=_score_mod(inputs, layout),
        block_mask=layout.cache[name],
        scale=inputs.scale,
        enable_gqa=inputs.query.shape[0] > inputs.key.shape[0],
    )
    return output[0, :, : inputs.query.shape[1]]


@cache
def _flex(device_type: str) -> Callable[..., Any]:
    """Compiled on CUDA; on a CPU, where only tests call it, as plain operations."""
    if device_type != "cuda":
        return flex_attention
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_COMPILED)
    return torch.compile(flex_attention, dynamic=True)


def _padded(*parts: torch.Tensor) -> torch.Tensor:
    """Parts (H, n, D) one after the other, (1, H, at least `_SHORTEST`, D)."""
    whole = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
    return pad(whole, (0, 0, 0, max(0, _SHORTEST - whole.shape[1])))[None]


def block_mask(layout: PackLayout, prefix_length: int, window: int | None) -> BlockMask:
    """Work out which tokens of a pack see which keys, of the trunk's `prefix_length` ones and its own."""
    sees = _mask_mod(layout, prefix_length, window)
    num_queries = max(_SHORTEST, len(layout.positions))
    num_keys = max(_SHORTEST, prefix_length + len(layout.positions))
    keys = torch.arange(num_keys, device=layout.positions.device)
    counts = []  # of pairs in each block of which the query sees the key
    for start in range(0, num_queries, _BLOCK * _BLOCKS_AT_ONCE):
        queries = torch.arange(start, min(start + _BLOCK * _BLOCKS_AT_ONCE, num_queries), device=keys.device)
        seen = sees(None, None, queries[:, None], keys[None, :])
        seen = pad(seen, (0, -num_keys % _BLOCK, 0, -len(queries) % _BLOCK))
        counts.append(seen.view(len(seen) // _BLOCK, _BLOCK, -1, _BLOCK).sum((1, 3)))
    seen_pairs = torch.cat(counts)
    is_full = seen_pairs == _BLOCK * _BLOCK
    return BlockMask.from_kv_blocks(
        *_listed((seen_pairs > 0) & ~is_full),
        *_listed(is_full),
        BLOCK_SIZE=_BLOCK,
        mask_mod=sees,
        seq_lengths=(num_queries, num_keys),
    )


def _listed(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each row of blocks, how many of them, (1, 1, rows), and which, these first, (1, 1, rows, columns)."""
    blocks = blocks.int()
    which = torch.argsort(blocks, dim=1, descending=True, stable=True)
    return blocks.sum(1, dtype=torch.int32)[None, None], which.int()[None, None].contiguous()


def _mask_mod(layout: PackLayout, prefix_length: int, window: int | None) -> _ModFunction:
    """The tree's mask as FlexAttention asks for it: queries by place in the pack, keys with the trunk's first.

    A query sees a key from the key's own place on, to the end of its subtree, as far as the window reaches back.
    """
    length, device = len(layout.positions), layout.positions.device
    place, trunk = torch.arange(length, device=device), torch.arange(prefix_length, device=device)
    begin = torch.cat((torch.zeros_like(trunk), place))
    end = torch.cat((torch.full_like(trunk, length), layout.subtree_end))
    position = torch.cat((trunk, layout.positions))
    first = torch.zeros_like(place) if window is None else layout.positions - window + 1
    missing = max(0, _SHORTEST - len(begin))
    begin, end, position = (pad(one, (0, missing)) for one in (begin, end, position))  # ends at 0: seen by nobody
    first = pad(first, (0, max(0, _SHORTEST - length)))

    def sees(batch: Any, head: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
        is_seen: torch.Tensor = (begin[key] <= query) & (query < end[key]) & (first[query] <= position[key])
        return is_seen

    return sees


def _score_mod(inputs: AttentionInputs, layout: PackLayout) -> _ModFunction | None:
    """What is done to a score: soft cap, then the bias of the key's position relative to where the pack hangs."""
    if inputs.key_bias is None:
        return None if inputs.softcap is None else _soft_cap(inputs.softcap)
    if "flex bias" not in layout.cache:
        prefix_length = inputs.prefix_key.shape[1]
        relative = (inputs.key_bias - inputs.key_bias[:, prefix_length, None]).float()
        whole = torch.cat((relative[:, :prefix_length], relative[:, layout.positions]), dim=1)
        layout.cache["flex bias"] = pad(whole, (0, max(0, _SHORTEST - whole.shape[1])))
    bias, cap = layout.cache["flex bias"], inputs.softcap

    def with_bias(score: torch.Tensor, batch: Any, head: Any, query: Any, key: Any) -> torch.Tensor:  # noqa: ARG001
        changed: torch.Tensor = bias[head, key] + (score if cap is None else cap * torch.tanh(score / cap))
        return changed

    return with_bias


@cache
def _soft_cap(cap: float) -> _ModFunction:
    def capped(score: torch.Tensor, batch: Any, head: Any, query: Any, key: Any) -> torch.Tensor:  # noqa: ARG001
        return cap * torch.tanh(score / cap)

    return capped

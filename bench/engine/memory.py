"""How much memory a model needs, from its configuration, before any of its weights is read.

weights   parameters × bytes of their dtype; of linear layers, × what quantisation makes of them
pack      activations of one forward pass, and its rows of logits in fp32
trunk     2 (keys and values) × layers × key heads × head size × depth, kept while what hangs from it is scored
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bench.telemetry.machine import available_memory_bytes


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes a model needs on its device."""

    weights_bytes: int
    pack_bytes: int
    trunk_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.pack_bytes + self.trunk_bytes


def weights_bytes(skeleton: nn.Module, dtype: torch.dtype, linear: float | None = None) -> int:
    """Bytes of a model's parameters and buffers.

    Args:
        skeleton: the model, on the meta device.
        dtype: of its weights.
        linear: bytes of a linear layer's weight where they are not those of `dtype`; the output embedding stays.
    """
    head = skeleton.get_output_embeddings()  # type: ignore[operator]
    apart = set()
    if linear is not None:
        apart = {id(module.weight) for module in skeleton.modules() if isinstance(module, nn.Linear)}
        apart -= {id(head.weight)} if head is not None else set()
    size = sum(
        parameter.numel() * (linear if linear is not None and id(parameter) in apart else dtype.itemsize)
        for parameter in skeleton.parameters()
    )
    return round(size) + sum(buffer.numel() * buffer.element_size() for buffer in skeleton.buffers())


def activation_bytes(config: Any, dtype: torch.dtype, num_kept: int = 0) -> int:
    """Bytes of activations that are alive at a time, for one token of a pack.

    `num_kept` numbers of each token stay until all of the pack is scored.
    """
    text = config.get_text_config()
    wide = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    return int(dtype.itemsize * (16 * text.hidden_size + 4 * wide + num_kept))


def pack_bytes(config: Any, token_bytes: int, num_tokens: int, num_rows: int) -> int:
    """Bytes of one forward pass over a pack: activations, `token_bytes` for each token, and rows of logits."""
    return num_tokens * token_bytes + 4 * num_rows * int(config.get_text_config().vocab_size)


def trunk_bytes(config: Any, dtype: torch.dtype, depth: int) -> int:
    """Bytes of the keys and values of a trunk of `depth` tokens."""
    text = config.get_text_config()
    heads = text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // heads
    key_heads = getattr(text, "num_key_value_heads", None) or heads
    return int(2 * dtype.itemsize * text.num_hidden_layers * key_heads * head_size * depth)


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device, or in the host for `cpu`."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory_bytes()

"""BLOOM: ALiBi, a bias on the scores that grows with a key's position, by a slope of each head's own.

transformers adds it in the model's dtype; in bf16 that is far off for steep heads at position 2,000. Here it is exact.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.models.bloom.modeling_bloom import BloomAttention, BloomGelu, BloomModel, build_alibi_tensor

from bench.engine.attention.interface import ScoreRule, attend
from bench.engine.fuse import gelu_tanh


class PackedBloomModel(BloomModel):  # type: ignore[misc]
    """BLOOM without the biases that transformers makes in each forward pass, for which a GPU would be waited for."""

    def build_alibi_tensor(
        self,
        attention_mask: torch.Tensor,
        num_heads: int,  # noqa: ARG002
        dtype: torch.dtype,
    ) -> torch.Tensor:
        """Nothing: `PackedBloomAttention` does not look at it."""
        return attention_mask.new_empty(0, dtype=dtype)


class PackedBloomAttention(BloomAttention):  # type: ignore[misc]
    """BLOOM's attention over a pack."""

    def forward(
        self, hidden_states: torch.Tensor, residual: torch.Tensor, **_: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend and add the residual; hidden states are (1, T, d)."""
        query, key, value = self._reshape(self.query_key_value(hidden_states))
        output = attend(self, query, key, value, ScoreRule(scale=self.inv_norm_factor, key_bias=self._key_bias))
        output = output.transpose(1, 2).flatten(2)
        if self.pretraining_tp > 1 and self.slow_but_exact:  # summed over the training's ranks, as there
            parts, weights = (tensor.chunk(self.pretraining_tp, -1) for tensor in (output, self.dense.weight))
            output = torch.stack([nn.functional.linear(*pair) for pair in zip(parts, weights, strict=True)]).sum(0)
        else:
            output = self.dense(output)
        return output + residual, None

    def _key_bias(self, length: int, device: torch.device) -> torch.Tensor:
        slopes: torch.Tensor = build_alibi_tensor(torch.ones(1, 2, device=device), self.num_heads, torch.float32)[
            ..., 1
        ]
        return slopes.double() * torch.arange(length, device=device)


class FusedBloomGelu(BloomGelu):  # type: ignore[misc]
    """BLOOM's activation in one pass."""

    forward = gelu_tanh


REPLACEMENTS = {BloomModel: PackedBloomModel, BloomAttention: PackedBloomAttention, BloomGelu: FusedBloomGelu}

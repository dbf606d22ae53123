"""Falcon: rotary embedding, or ALiBi in the first models; three ways of laying out query, key and value."""

from __future__ import annotations

from typing import Any

import torch
from transformers.models.falcon.modeling_falcon import FalconAttention, apply_rotary_pos_emb, build_alibi_tensor

from bench.engine.attention.interface import ScoreRule, attend


class PackedFalconAttention(FalconAttention):  # type: ignore[misc]
    """Falcon's attention over a pack."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        alibi: torch.Tensor | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        """Attend; hidden states are (1, T, d)."""
        query, key, value = (part.transpose(1, 2) for part in self._split_heads(self.query_key_value(hidden_states)))
        if position_embeddings is not None and alibi is None:
            query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        key_bias = None if alibi is None else self._key_bias
        output = attend(self, query, key, value, ScoreRule(scale=self.inv_norm_factor, key_bias=key_bias))
        return self.dense(output.transpose(1, 2).flatten(2)), None

    def _split_heads(self, fused_qkv: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """As transformers', but key heads stay as few as they are: (1, T, heads, head size) each."""
        if not self.new_decoder_architecture:
            return super()._split_heads(fused_qkv)  # type: ignore[no-any-return]
        groups = self.num_heads // self.num_kv_heads
        fused = fused_qkv.view(*fused_qkv.shape[:2], self.num_kv_heads, groups + 2, self.head_dim)
        return fused[:, :, :, :-2].flatten(2, 3), fused[:, :, :, -2], fused[:, :, :, -1]

    def _key_bias(self, length: int, device: torch.device) -> torch.Tensor:
        """ALiBi as these models were trained with it: rounded to bf16, and scaled like the scores."""
        ones = torch.ones(1, length, dtype=torch.long, device=device)
        alibi: torch.Tensor = build_alibi_tensor(ones, self.num_heads, torch.float32)[:, 0]
        scaled: torch.Tensor = alibi.double() * self.inv_norm_factor
        return scaled


REPLACEMENTS = {FalconAttention: PackedFalconAttention}

"""MPT: ALiBi, with slopes of its own kind."""

from __future__ import annotations

from typing import Any

import torch
from transformers.models.mpt.modeling_mpt import MptAttention, MptModel, build_mpt_alibi_tensor

from bench.engine.attention.interface import ScoreRule, attend


class PackedMptModel(MptModel):  # type: ignore[misc]
    """MPT, which converts the mask it builds and so cannot do without one."""

    def forward(self, *arguments: Any, **options: Any) -> Any:
        """As the model's own; a mask of four dimensions is taken for a ready one, and nobody reads it."""
        return super().forward(*arguments, **{**options, "attention_mask": torch.zeros(1, 1, 1, 1)})


class PackedMptAttention(MptAttention):  # type: ignore[misc]
    """MPT's attention over a pack."""

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor, None]:
        """Attend; hidden states are (1, T, d)."""
        fused = self.Wqkv(hidden_states)
        if self.clip_qkv:
            fused = fused.clamp(min=-self.clip_qkv, max=self.clip_qkv)
        query, key, value = fused.unflatten(2, (3, self.n_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        output = attend(self, query, key, value, ScoreRule(scale=self.softmax_scale, key_bias=self._key_bias))
        return self.out_proj(output.transpose(1, 2).flatten(2)), None

    def _key_bias(self, length: int, device: torch.device) -> torch.Tensor:
        # MPT's own alibi_bias_max is read by nobody in transformers, which always takes the default
        below: torch.Tensor = build_mpt_alibi_tensor(self.n_heads, 2, device=device)[
            :, :, 0
        ]  # the bias one place below the last
        return -below.double() * torch.arange(length, device=device)


REPLACEMENTS = {MptModel: PackedMptModel, MptAttention: PackedMptAttention}

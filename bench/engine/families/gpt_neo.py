"""GPT-Neo: scores are not scaled, and every other layer sees the last `window_size` tokens only."""

from __future__ import annotations

import torch
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention

from bench.engine.attention.interface import ScoreRule, attend


class PackedGPTNeoSelfAttention(GPTNeoSelfAttention):  # type: ignore[misc]
    """GPT-Neo's attention over a pack."""

    def _attn(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,  # noqa: ARG002  # the pack says who sees whom
    ) -> tuple[torch.Tensor, None]:
        window = self.config.window_size if self.attention_type == "local" else None
        return attend(self, query, key, value, ScoreRule(scale=1.0, window=window)), None


REPLACEMENTS = {GPTNeoSelfAttention: PackedGPTNeoSelfAttention}

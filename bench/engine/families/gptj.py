"""GPT-J: `_attn` takes query, key and value after the rotary embedding, which goes by position ids."""

from __future__ import annotations

import torch
from transformers.models.gptj.modeling_gptj import GPTJAttention

from bench.engine.attention.interface import ScoreRule, attend


class PackedGPTJAttention(GPTJAttention):  # type: ignore[misc]
    """GPT-J's attention over a pack."""

    def _attn(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,  # noqa: ARG002  # the pack says who sees whom
    ) -> tuple[torch.Tensor, None]:
        return attend(self, query, key, value, ScoreRule(scale=1 / self.scale_attn)), None


REPLACEMENTS = {GPTJAttention: PackedGPTJAttention}

"""CodeGen: GPT-J's attention with one product for query, key and value."""

from __future__ import annotations

import torch
from transformers.models.codegen.modeling_codegen import CodeGenAttention

from bench.engine.attention.interface import ScoreRule, attend


class PackedCodeGenAttention(CodeGenAttention):  # type: ignore[misc]
    """CodeGen's attention over a pack."""

    def _attn(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,  # noqa: ARG002  # the pack says who sees whom
    ) -> tuple[torch.Tensor, None]:
        return attend(self, query, key, value, ScoreRule(scale=1 / float(self.scale_attn))), None


REPLACEMENTS = {CodeGenAttention: PackedCodeGenAttention}

"""CodeGen: GPT-J's attention with one product for query, key and value."""

from __future__ import annotations

from transformers.models.codegen.modeling_codegen import CodeGenAttention

from bench.engine.attention.interface import ScoreRule, attention_method


class PackedCodeGenAttention(CodeGenAttention):  # type: ignore[misc]
    """CodeGen's attention over a pack."""

    _attn = attention_method(lambda module: ScoreRule(scale=1 / module.scale_attn))


REPLACEMENTS = {CodeGenAttention: PackedCodeGenAttention}

"""GPT-J: `_attn` takes query, key and value after the rotary embedding, which goes by position ids."""

from __future__ import annotations

from transformers.models.gptj.modeling_gptj import GPTJAttention

from bench.engine.attention.interface import ScoreRule, attention_method


class PackedGPTJAttention(GPTJAttention):  # type: ignore[misc]
    """GPT-J's attention over a pack."""

    _attn = attention_method(lambda module: ScoreRule(scale=1 / module.scale_attn))


REPLACEMENTS = {GPTJAttention: PackedGPTJAttention}

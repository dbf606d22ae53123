"""GPT-Neo: scores are not scaled, and every other layer sees the last `window_size` tokens only."""

from __future__ import annotations

from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention

from bench.engine.attention.interface import ScoreRule, attention_method


def _rule(module: GPTNeoSelfAttention) -> ScoreRule:
    return ScoreRule(scale=1.0, window=module.config.window_size if module.attention_type == "local" else None)


class PackedGPTNeoSelfAttention(GPTNeoSelfAttention):  # type: ignore[misc]
    """GPT-Neo's attention over a pack."""

    _attn = attention_method(_rule)


REPLACEMENTS = {GPTNeoSelfAttention: PackedGPTNeoSelfAttention}

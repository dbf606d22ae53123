"""Which kind of model a configuration describes, settled without its weights."""

from __future__ import annotations

from typing import Any

from bench.config import ModelSpec
from bench.errors import ModelInputError
from bench.hf import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
)

AUTO_CLASSES = {"causal": AutoModelForCausalLM, "seq2seq": AutoModelForSeq2SeqLM, "masked": AutoModelForMaskedLM}
"""transformers' door to each kind of model."""

# transformers lists some architectures as several kinds: BART denoises, too. The first of these is meant.
_NAMES = {
    "seq2seq": MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "masked": MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "causal": MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
}
_OVERFLOWS_IN_FLOAT16 = {"longt5", "mt5", "switch_transformers", "t5", "umt5"}


def settle_kind(spec: ModelSpec, config: Any) -> str:
    """Name the kind of a model: what the plan says, else what its checkpoint is, else what its type usually is.

    A checkpoint's `architectures` name the class it was saved from: a BERT saved as `BertLMHeadModel` is causal.

    Raises:
        ModelInputError: the plan says a kind that the model cannot be.
    """
    usual = _usual_kind(config)
    if spec.kind in ("auto", usual):
        return usual
    is_known = any(config.model_type in names for names in _NAMES.values())
    sees_both_ways = usual == "masked" and spec.kind == "causal"
    if (is_known and config.model_type not in _NAMES[spec.kind]) or sees_both_ways:
        raise ModelInputError(
            f"model {spec.name}: kind {spec.kind} is not what this {config.model_type} is; use {usual}"
        )
    return spec.kind


def _usual_kind(config: Any) -> str:
    for saved_as in getattr(config, "architectures", None) or ():
        for kind, classes in _NAMES.items():
            if saved_as in classes.values():
                return kind
    remote = getattr(config, "auto_map", None) or {}
    for kind, auto_class in AUTO_CLASSES.items():
        if auto_class.__name__ in remote:
            return kind
    if getattr(config, "is_decoder", False):
        return "causal"
    return next((kind for kind, classes in _NAMES.items() if config.model_type in classes), "causal")


def overflows_in_float16(config: Any) -> bool:
    """Whether activations of the architecture exceed what float16 holds, as T5's do."""
    return config.model_type in _OVERFLOWS_IN_FLOAT16

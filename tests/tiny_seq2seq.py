"""Tiny encoder-decoders with random weights and small tokenizers, as folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizer_kinds import TEXT, train_bpe
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "relative_attention_num_buckets": 8}
_T5 |= {"relative_attention_max_distance": 20, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
_BART = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 48, "decoder_ffn_dim": 40}
_BART |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 512}
_BART |= {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2, "init_std": 0.2}

CONFIGS: dict[str, dict[str, Any]] = {
    "t5": {**_T5, "num_decoder_layers": 3},
    "t5-gated": {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "mt5": {**_T5, "feed_forward_proj": "gated-gelu", "num_decoder_layers": 1, "tie_word_embeddings": False},
    "umt5": _T5,
    "bart": _BART,
    "pegasus": {**_BART, "decoder_start_token_id": 0},
    "marian": {**_BART, "decoder_start_token_id": 1},
    "m2m_100": _BART,
    "blenderbot": _BART,
}
"""Configurations by model type and variant."""

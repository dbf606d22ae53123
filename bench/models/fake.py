"""The built-in fake model: a tiny LLaMA with random weights and a byte tokenizer. No file, no network.

It goes through every part of the engine that a real model does; its scores mean nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from bench.hf import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

_SEED = 20261121


def fake_config() -> Any:
    """Configuration of the fake model: 4 layers, grouped-query attention, 257 tokens."""
    return AutoConfig.for_model(
        "llama",
        vocab_size=257,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        bos_token_id=256,
        eos_token_id=256,
        initializer_range=0.3,
        tie_word_embeddings=False,
    )


def fake_model(config: Any) -> Any:
    """Build the model; the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return AutoModelForCausalLM.from_config(config).eval()


def fake_tokenizer() -> Any:
    """Build a tokenizer of one token per UTF-8 byte; `</s>` is 256."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="</s>", eos_token="</s>")

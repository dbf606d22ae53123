"""Tiny encoder-decoders and masked language models with random weights, their tokenizers, and both as folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizer_kinds import adds, byte_level, train_bpe
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CONFIG_MAPPING, PreTrainedTokenizerFast

from bench.models.kind import AUTO_CLASSES

VOCAB = 101
TEXT_OF_OUR_OWN = (Path(__file__).parents[1] / "tasks" / "pocket.csv").read_text(encoding="utf-8")

_T5 = {
    "d_model": 32,
    "d_kv": 6,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
_BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "max_position_embeddings": 1024,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "init_std": 0.2,
}
_GEMMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "sliding_window": 9,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
}

SEQ2SEQ: dict[str, dict[str, Any]] = {
    "t5": {**_T5, "num_decoder_layers": 3},
    "t5-gated": {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "mt5": {**_T5, "feed_forward_proj": "gated-gelu", "num_decoder_layers": 1},
    "umt5": _T5,
    "longt5": {**_T5, "local_radius": 8},
    "switch_transformers": {**_T5, "num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
    "bart": _BART,
    "pegasus": {**_BART, "decoder_start_token_id": 0},
    "marian": _BART,
    "m2m_100": _BART,
    "mbart": _BART,
    "plbart": _BART,
    "blenderbot": _BART,
    "blenderbot-small": _BART,
    "led": {
        **{key: value for key, value in _BART.items() if key != "max_position_embeddings"},
        "attention_window": [8, 8],
        "max_encoder_position_embeddings": 512,
        "max_decoder_position_embeddings": 512,
    },
    "t5gemma": {"encoder": _GEMMA, "decoder": {**_GEMMA, "is_decoder": True}},
}
"""Configurations of encoder-decoders by model type and variant, with several of everything that can be counted."""

_BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 130,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
_ROBERTA = {**_BERT, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "max_position_embeddings": 132}
_DEBERTA = {**_BERT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}

MASKED: dict[str, dict[str, Any]] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "roberta-prelayernorm": _ROBERTA,
    "camembert": _ROBERTA,
    "distilbert": {
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 48,
        "max_position_embeddings": 130,
        "initializer_range": 0.2,
    },
    "albert": {**_BERT, "embedding_size": 16, "num_hidden_layers": 4},
    "electra": {**_BERT, "embedding_size": 16},
    "deberta": {**_DEBERTA, "max_relative_positions": -1},
    "deberta-new": {**_DEBERTA, "legacy": False},
    "deberta-v2": {**_DEBERTA, "position_buckets": 16, "share_att_key": True, "norm_rel_ebd": "layer_norm"},
    "modernbert": {
        **_BERT,
        "local_attention": 16,
        "global_attn_every_n_layers": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
    },
    "mpnet": _ROBERTA,
    "mobilebert": {**_BERT, "embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    "big_bird": {**_BERT, "attention_type": "original_full"},
    "rembert": {**_BERT, "input_embedding_size": 16, "output_embedding_size": 20},
    "ernie": _BERT,
    "nomic_bert": {**_BERT, "head_dim": 8},
    "eurobert": {**_BERT, "num_key_value_heads": 2},
    "longformer": {**_ROBERTA, "attention_window": 8},
    "convbert": {**_BERT, "embedding_size": 16, "head_ratio": 2},
    "fnet": {**_BERT, "tpu_short_seq_length": 130},
}
"""Configurations of masked language models, likewise."""

_VARIANTS = {"t5-gated": "t5", "deberta-new": "deberta"}


def tiny(kind: str, name: str, vocab_size: int = VOCAB, **changes: Any) -> Any:
    """Build a model of a kind in fp32. Vectors (norms, biases) are random as well, so that none can be left out."""
    values: dict[str, Any] = {"vocab_size": vocab_size, **{"seq2seq": SEQ2SEQ, "masked": MASKED}[kind][name], **changes}
    for part in ("encoder", "decoder"):
        if part in values:
            values[part] = {**values[part], "vocab_size": vocab_size}
    config = CONFIG_MAPPING[_VARIANTS.get(name, name)](**values)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        attention = "eager" if name == "umt5" else None  # as `load_model` does
        model = AUTO_CLASSES[kind].from_config(config, attn_implementation=attention).float().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def t5_tokenizer() -> Any:
    """A unigram tokenizer as T5's: `</s>` ends each text, there is no BOS."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    names = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=names, unk_token="<unk>", show_progress=False)
    backend.train_from_iterator([TEXT_OF_OUR_OWN], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=adds(backend, "$A </s>"), pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def bart_tokenizer() -> Any:
    """A byte-level tokenizer as BART's: texts stand between `<s>` and `</s>`."""
    backend = adds(train_bpe(byte_level(uses_regex=True)), "<s> $A </s>")
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def bert_tokenizer() -> Any:
    """A tokenizer as BERT's: words in pieces, the later ones marked by `##`; texts stand between [CLS] and [SEP]."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=names, show_progress=False)
    backend.train_from_iterator([TEXT_OF_OUR_OWN], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=adds(backend, "[CLS] $A [SEP]"),
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        pad_token="[PAD]",
        unk_token="[UNK]",
    )


def roberta_tokenizer() -> Any:
    """A byte-level tokenizer as RoBERTa's, with a mask."""
    tokenizer = bart_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    return tokenizer


def write_folder(folder: Path, model: Any, tokenizer: Any) -> Path:
    """A model and its tokenizer as transformers saves them."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

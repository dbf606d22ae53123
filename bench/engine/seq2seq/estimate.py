"""How much arithmetic an encoder-decoder's job is.

encoder     2 × its weights, and the decoder's that turn its output into keys and values, × contexts' tokens
decoder     2 × its other weights × distinct decoder tokens
attention   4 × width of all layers' queries × query-key pairs, in the encoder and in the decoder's two attentions
head        2 × hidden size × vocabulary × rows of logits
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bench.engine.estimate import Flops, multiplied, multiplied_weights
from bench.engine.seq2seq.pack import Seq2SeqPack

_ACROSS = re.compile(r"EncDecAttention|encoder_attn|cross_?attn|crossattention", re.IGNORECASE)
_QUERY = re.compile(r"\.(q|q_proj|query|query_proj)\.weight$")
_KEY_OR_VALUE = re.compile(r"\.(k|v|k_proj|v_proj|key|value|key_proj|value_proj)\.weight$")


@dataclass(frozen=True, slots=True)
class Seq2SeqCost:
    """What a token, a query-key pair and a row of logits cost in floating-point operations."""

    per_encoder_token: int
    per_decoder_token: int
    per_encoder_pair: int
    per_decoder_pair: int
    per_row: int

    def of(self, packs: Iterable[Seq2SeqPack]) -> Flops:
        """Sum over packs."""
        weights = attention = rows = 0
        for pack in packs:
            weights += pack.num_encoder_tokens * self.per_encoder_token
            weights += pack.num_decoder_tokens * self.per_decoder_token
            attention += pack.num_pairs[0] * self.per_encoder_pair + pack.num_pairs[1] * self.per_decoder_pair
            rows += len(pack.rows)
        return Flops(weights, attention, rows * self.per_row)


def seq2seq_cost(model: Any, config: Any) -> Seq2SeqCost:
    """Derive the cost from a model, whose weights may be on the meta device."""
    encoder = {id(weight) for weight in model.get_encoder().parameters()}
    own: list[tuple[str, Any]] = []
    others: list[tuple[str, Any]] = []
    for name, weight in multiplied_weights(model):
        is_of_context = id(weight) in encoder or (_ACROSS.search(name) and _KEY_OR_VALUE.search(name))
        (own if is_of_context else others).append((name, weight))
    return Seq2SeqCost(
        per_encoder_token=2 * round(sum(multiplied(name, weight, config) for name, weight in own)),
        per_decoder_token=2 * round(sum(multiplied(name, weight, config) for name, weight in others)),
        per_encoder_pair=4 * sum(len(weight) for name, weight in own if _QUERY.search(name)),
        per_decoder_pair=4 * sum(len(weight) for name, weight in others if _is_own_query(name)),
        per_row=2 * model.get_output_embeddings().weight.numel(),
    )


def num_kept(config: Any) -> int:
    """Numbers the decoder keeps of each token of a context: a key and a value in every layer."""
    decoder = getattr(config, "decoder", None) or config
    layers = [getattr(decoder, name, None) for name in ("num_decoder_layers", "decoder_layers", "num_hidden_layers")]
    heads, size = getattr(decoder, "num_heads", None), getattr(decoder, "d_kv", None)
    width = heads * size if heads and size else decoder.hidden_size
    return int(2 * width * next((num for num in layers if num), 0))


def _is_own_query(name: str) -> bool:
    """Whether a weight makes the queries of a decoder's attention to itself; those to the context are as wide."""
    return bool(_QUERY.search(name)) and not _ACROSS.search(name)

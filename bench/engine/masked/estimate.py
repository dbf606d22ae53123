"""How much arithmetic a masked language model's job is: as a causal model's, but every token sees all others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bench.engine.estimate import Flops, multiplied, multiplied_weights
from bench.engine.masked.pack import MaskedPack


@dataclass(frozen=True, slots=True)
class MaskedCost:
    """What a token, a query-key pair and a row of logits cost in floating-point operations."""

    per_token: int
    per_pair: int
    per_row: int

    def of(self, packs: Iterable[MaskedPack]) -> Flops:
        """Sum over packs."""
        tokens = pairs = rows = 0
        for pack in packs:
            tokens += pack.num_tokens
            pairs += pack.num_pairs
            rows += len(pack.rows)
        return Flops(tokens * self.per_token, pairs * self.per_pair, rows * self.per_row)


def masked_cost(model: Any, config: Any) -> MaskedCost:
    """Derive the cost from a model (weights may be on the meta device) and its configuration."""
    text = config.get_text_config()
    head = model.get_output_embeddings()
    size = head.weight.numel() if head is not None else text.vocab_size * text.hidden_size
    weights = [multiplied(name, weight, text) * _times(name, text) for name, weight in multiplied_weights(model)]
    return MaskedCost(
        per_token=2 * round(sum(weights)),
        per_pair=4 * text.num_hidden_layers * text.hidden_size,
        per_row=2 * size,
    )


def _times(name: str, config: Any) -> float:
    """How often a token meets a weight: ALBERT's layers are one layer, used again and again."""
    num_groups = getattr(config, "num_hidden_groups", None)
    return float(config.num_hidden_layers / num_groups) if num_groups and "layer_groups" in name else 1.0

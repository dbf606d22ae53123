"""How much arithmetic a job is: floating-point operations of a plan, from the model's shapes.

weights     2 × multiplied parameters × distinct tokens
attention   4 × layers × query heads × head size × (token, visible token) pairs
head        2 × hidden size × vocabulary (what the output embedding holds) × rows of logits
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from bench.engine.pack import Pack

USUAL_SHARE = 0.7
"""Share of the floor that scoring usually reaches; the predicted time is the floor divided by it."""

COMPILE_S = 30.0
"""What compiling a model's repeated block is taken to cost; measured: 18 s for LLaMA's on two CPU cores."""

SAVED_BY_COMPILING = {"cuda": 0.1, "cpu": 0.0}
"""Share of scoring time that it is taken to save. On a GPU, from bytes moved and memory bandwidth: elementwise work
takes 17 to 25 % of the time of the matrix products of an 8B LLaMA on an H200 or H100, and 4 % when fused. On a CPU it
saved nothing in fp32, measured."""


def repays_compiling(score_s: float, device_type: str) -> bool:
    """Whether a job of `score_s` seconds gains more by compiled blocks than compiling them takes."""
    return score_s * SAVED_BY_COMPILING.get(device_type, 0.0) > COMPILE_S


_FIRST_NUMBER = re.compile(r"\.(\d+)\.")  # in a parameter's name: its block


@dataclass(frozen=True, slots=True)
class Flops:
    """Floating-point operations of a job, by kind."""

    weights: int
    attention: int
    head: int

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.weights + other.weights, self.attention + other.attention, self.head + other.head)

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.attention + self.head


class Costing(Protocol):
    """Counts the operations of a kind of model's packs."""

    def of(self, packs: Iterable[Any]) -> Flops:
        """Sum over packs; padding is not counted, since it is not needed."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one token, one query-key pair and one row of logits cost in floating-point operations."""

    per_token: int
    per_pair: int
    per_row: int

    def of(self, packs: Iterable[Pack]) -> Flops:
        """Sum over packs."""
        tokens = pairs = rows = 0
        for pack in packs:
            tokens += len(pack.tokens)
            pairs += pack.num_context
            rows += len(pack.rows)
        return Flops(tokens * self.per_token, pairs * self.per_pair, rows * self.per_row)


def model_cost(model: Any, config: Any) -> Cost:
    """Derive the cost from a model (weights may be on the meta device) and its configuration."""
    text = config.get_text_config()
    heads = text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // heads
    return Cost(
        per_token=2 * round(sum(multiplied(name, weight, text) for name, weight in multiplied_weights(model))),
        per_pair=4 * text.num_hidden_layers * heads * head_size,
        per_row=2 * model.get_output_embeddings().weight.numel(),
    )


def block_shapes(model: Any) -> list[tuple[int, int]]:
    """Shapes (out, in) of the weights of the first repeated block, for measuring the rate of matrix products."""
    matrices = [(name, weight) for name, weight in multiplied_weights(model) if weight.ndim == 2]
    numbers = [_FIRST_NUMBER.search(name) for name, _ in matrices]
    first = [weight for (_, weight), number in zip(matrices, numbers, strict=True) if number and number[1] == "0"]
    return [(weight.shape[0], weight.shape[1]) for weight in first or [weight for _, weight in matrices]]


def multiplied_weights(model: Any) -> list[tuple[str, Any]]:
    """The parameters every token is multiplied with: matrices outside the embeddings, which are looked up."""
    head = model.get_output_embeddings()
    return [
        (f"{module_name}.{name}", weight)
        for module_name, module in model.named_modules()
        if "Embedding" not in type(module).__name__ and "norm" not in module_name.split(".")[-1] and module is not head
        for name, weight in module.named_parameters(recurse=False)
        if weight.ndim >= 2
    ]


def multiplied(name: str, weight: Any, config: Any) -> float:
    """How many of a weight's numbers a token meets: of a mixture's experts, only those it is sent to."""
    num_experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    if num_experts and ".experts." in name:
        return float(weight.numel() * getattr(config, "num_experts_per_tok", 1) / num_experts)
    return float(weight.numel())

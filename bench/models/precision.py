"""What a model's weights are computed with, as run.json and the tables say it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Precision:
    """How exact a model's weights are.

    Attributes:
        dtype: `float32`, `bfloat16` or `float16`: of activations, and of the weights that are not quantised.
        quantization: of the linear layers, `bnb-4bit` or `gptq-4bit`; None if they are not quantised.
        stored: how a GGUF file held the weights, which were dequantised from it: `Q4_K_M`; None for others.
        has_adapter: a LoRA adapter was merged into them.
    """

    dtype: str
    quantization: str | None = None
    stored: str | None = None
    has_adapter: bool = False

    def __str__(self) -> str:
        stored = self.stored and f"GGUF {self.stored}"
        parts = [self.dtype, stored, self.quantization, "LoRA" if self.has_adapter else None]
        return ", ".join(part for part in parts if part)

"""Logits only where they are asked for, in fp32."""

from __future__ import annotations

import torch
from torch import nn

_VOCABULARY_AT_ONCE = 16384  # rows of a half-precision head that are widened to fp32 at a time


class NeededRowsHead(nn.Module):
    """Stands in for a model's output embedding: takes the rows of hidden states that are needed and multiplies in fp32.

    In bf16 the two best of four options tie exactly on a fifth of MMLU's questions when the logits are rounded to bf16;
    the same hidden states multiplied in fp32 give none. A head that is itself quantised multiplies as it does.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        is_plain = isinstance(head, nn.Linear) and type(head.weight.data) is torch.Tensor
        self.quantised = None if is_plain and head.weight.is_floating_point() else head  # type: ignore[operator]
        self.weight: torch.Tensor = getattr(head, "weight", None)  # type: ignore[assignment]  # possibly tied
        self.bias: torch.Tensor | None = getattr(head, "bias", None)
        self.rows: torch.Tensor | None = None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map hidden states (..., d) to fp32 logits: (R, V) of `rows` of the flattened states, or all of them."""
        if self.rows is not None:
            hidden = hidden.flatten(0, -2).index_select(0, self.rows)
        if self.quantised is not None:
            found: torch.Tensor = self.quantised(hidden)
            return found.float()
        hidden = hidden.float()
        bias = None if self.bias is None else self.bias.float()
        if self.weight.dtype == torch.float32:
            return nn.functional.linear(hidden, self.weight, bias)
        parts = [nn.functional.linear(hidden, part.float()) for part in torch.split(self.weight, _VOCABULARY_AT_ONCE)]
        logits = torch.cat(parts, dim=-1)
        return logits if bias is None else logits + bias

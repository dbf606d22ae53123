"""Half precision on a CPU that has no instructions for it.

PyTorch then multiplies bf16 matrices in scalar code, nine times slower than fp32 ones (measured: 20 against 180 GFLOP/s
on two AVX2 cores), or emulates them, five times slower (58 against 293 on two AVX-512 cores). Hardware that has the
instructions multiplies the bf16 values exactly, sums in fp32 and rounds the sum to bf16. Widening both operands to
fp32, multiplying there and rounding the result is the same arithmetic, at fp32 speed; it costs the memory of fp32
weights.
"""

from __future__ import annotations

import torch
from torch import nn

from bench.hf import Conv1D


class WideLinear(nn.Linear):
    """A linear layer with fp32 weights that takes and gives half precision."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Multiply in fp32, round to the input's dtype."""
        return nn.functional.linear(input.float(), self.weight, self.bias).to(input.dtype)


class WideConv1D(Conv1D):  # type: ignore[misc]
    """GPT-2's transposed linear layer, likewise."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply in fp32, round to the input's dtype."""
        product: torch.Tensor = super().forward(x.float())
        return product.to(x.dtype)


def widen(model: nn.Module) -> None:
    """Make a half-precision model's linear layers compute in fp32; the values of its weights stay the same."""
    wide: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: WideLinear, Conv1D: WideConv1D}
    for module in model.modules():
        if type(module) in wide:
            module.__class__ = wide[type(module)]
            for name, parameter in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(parameter.float(), requires_grad=False))

"""Half precision on a CPU that has no instructions for it.

PyTorch then multiplies bf16 matrices in scalar code, nine times slower than fp32 ones (measured: 20 against 180 GFLOP/s
on two AVX2 cores), or emulates them, five times slower (58 against 293 on two AVX-512 cores). Hardware that has the
instructions multiplies the bf16 values exactly, sums in fp32 and rounds the sum to bf16. Widening both operands to
fp32, multiplying there and rounding the result is the same arithmetic, at fp32 speed; it costs the memory of fp32
weights.
"""

from __future__ import annotations

import platform
from collections.abc import Callable

import torch
from torch import nn

from bench.hf import Conv1D


def _multiplies_bf16() -> bool:
    """Whether this processor has products of bf16; oneDNN says yes of any with AVX-512, on which it emulates them."""
    if platform.machine() in ("x86_64", "AMD64"):
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


_SUPPORTED: dict[torch.dtype, Callable[[], bool]] = {
    torch.bfloat16: _multiplies_bf16,
    torch.float16: lambda: bool(torch.ops.mkldnn._is_mkldnn_fp16_supported()),
}


def lacks_instructions(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether `device` is a processor without instructions for products of `dtype`."""
    return device.type == "cpu" and dtype in _SUPPORTED and not _SUPPORTED[dtype]()


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

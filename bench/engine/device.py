"""What a device can do, and where a model takes its input if its weights are not all in one place."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import torch


def input_device(model: Any) -> torch.device:
    """Where a model takes its input; of one whose weights wait elsewhere, where they are brought."""
    hook = getattr(model, "_hf_hook", None)  # accelerate's
    if model.device.type == "meta" and hook is not None:
        return torch.device(hook.execution_device)
    return model.device  # type: ignore[no-any-return]


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

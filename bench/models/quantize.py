"""Weights in fewer bits than the dtype has: made so when they are loaded, or stored so in the checkpoint.

transformers does the loading. Here stands what a plan may ask for, what each way needs, and how a reader calls it.

All of them quantise weights only: activations stay in the dtype. bitsandbytes would round activations to eight bits as
well, except for columns in which any token of the forward pass has an outlier. A token's state would then depend on
what shares its pack (by 0.8 a token of SmolLM2's loglikelihoods), so its layers multiply with dequantised weights here.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from bench.config import ModelSpec
from bench.errors import ModelInputError

BYTES_PER_WEIGHT = {
    "bnb-8bit": 1.0,
    "bnb-4bit": 0.5 + 4 / 64,
    "torchao-int8": 1.0,
    "torchao-int4": 0.5 + 4 / 128,
    "torchao-fp8": 1.0,
}
"""What a plan may ask for, with the bytes of a linear layer's weight then, its share of the scales included."""

_PACKAGES = {
    "bnb": ["bitsandbytes"],
    "torchao": ["torchao"],
    "gptq": ["gptqmodel", "optimum"],
    "awq": ["gptqmodel"],
    "compressed-tensors": ["compressed_tensors"],
}
"""What the ways of quantising need, by the start of their names, which is also what of Steelyard to install."""

_SHORT = {"bitsandbytes": "bnb"}  # the names of methods in checkpoints that we call otherwise
_DEQUANTISED_ON_CPU = ("fp8", "mxfp4")  # transformers turns these into bf16 where there is no GPU


def stored_quantization(config: Any) -> str | None:
    """How a checkpoint's weights are quantised, by its own configuration: `gptq-4bit`, `fp8`; None if they are not."""
    about = _own(config)
    if about is None:
        return None
    said = about.get("quant_method")
    method = str(getattr(said, "value", said))  # loading turns the name into an enumeration's member
    method = _SHORT.get(method, method)
    if about.get("load_in_8bit") or about.get("load_in_4bit"):
        return f"bnb-{8 if about.get('load_in_8bit') else 4}bit"
    bits = about.get("bits") or about.get("w_bit")
    return f"{method}-{bits}bit" if bits else method


def check_quantization(spec: ModelSpec, config: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse what cannot be loaded here, before any weight is read.

    Raises:
        ModelInputError: a package is not installed, or the plan asks for what does not go together.
    """
    who, stored = f"model {spec.name}", stored_quantization(config)
    if spec.quantization != "none":
        if spec.source == "fake":
            raise ModelInputError(f"{who}: the fake model cannot be quantised")
        if stored is not None:
            raise ModelInputError(
                f"{who}: its checkpoint is quantised already ({stored}); leave out quantization: {spec.quantization}"
            )
        if spec.quantization == "torchao-int4" and (device.type != "cuda" or dtype != torch.bfloat16):
            raise ModelInputError(f"{who}: torchao-int4 needs CUDA and bfloat16; bnb-4bit runs anywhere")
    _check_packages(who, stored or spec.quantization)


def _check_packages(who: str, quantization: str) -> None:
    extra = next((name for name in _PACKAGES if quantization.startswith(name)), None)
    missing = [name for name in _PACKAGES.get(extra or "", ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelInputError(f'{who}: {quantization} needs {" and ".join(missing)}: pip install "steelyard[{extra}]"')


def loading_options(spec: ModelSpec, dtype: torch.dtype) -> dict[str, Any]:
    """What transformers is to be told of a model's quantisation; nothing for one that is not quantised on load."""
    if spec.quantization == "none":
        return {}
    from bench.hf import BitsAndBytesConfig, TorchAoConfig

    if spec.quantization == "bnb-8bit":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    if spec.quantization == "bnb-4bit":
        return {
            "quantization_config": BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
            )
        }
    import torchao.quantization as ao

    kinds = {"torchao-int8": ao.Int8WeightOnlyConfig, "torchao-fp8": ao.Float8WeightOnlyConfig}
    kinds["torchao-int4"] = partial(ao.Int4WeightOnlyConfig, group_size=128, int4_packing_format="tile_packed_to_4d")
    return {"quantization_config": TorchAoConfig(kinds[spec.quantization]())}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within this context the packages do not tell of kernels for other machines, of their own old calls and steps."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def check_quantised(spec: ModelSpec, model: nn.Module) -> None:
    """Make sure that a model is quantised as its plan says.

    Raises:
        ModelInputError: it has no layers that can be.
    """
    if spec.quantization != "none" and all(_is_plain(weight) for weight in model.parameters()):
        raise ModelInputError(f"model {spec.name}: none of its layers can be quantised by {spec.quantization}")


def _is_plain(weight: torch.Tensor) -> bool:
    return type(weight) in (torch.Tensor, nn.Parameter) and type(weight.data) is torch.Tensor


def multiply_dequantised(model: nn.Module) -> None:
    """Let bitsandbytes' layers multiply their inputs, as they are, with their weights dequantised."""
    if not any(type(module).__module__.startswith("bitsandbytes") for module in model.modules()):
        return
    import bitsandbytes as bnb

    class Linear8bit(bnb.nn.Linear8bitLt):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scale = self.weight.SCB if self.weight.SCB is not None else self.state.SCB
            weight = self.weight.data.float().mul_(scale.unsqueeze(-1) / 127)
            return nn.functional.linear(x, weight.to(x.dtype), self.bias)

    class Linear4bit(bnb.nn.Linear4bit):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weight = bnb.functional.dequantize_4bit(self.weight.data, self.weight.quant_state)
            return nn.functional.linear(x, weight.to(x.dtype), self.bias)

    exact: dict[type[nn.Module], type[nn.Module]] = {bnb.nn.Linear8bitLt: Linear8bit, bnb.nn.Linear4bit: Linear4bit}
    for module in model.modules():
        if type(module) in exact:
            module.__class__ = exact[type(module)]


def is_dequantised(config: Any, device: torch.device) -> bool:
    """Whether a quantised checkpoint's weights are turned into half precision on this device."""
    about = _own(config) or {}
    return device.type == "cpu" and about.get("quant_method") in _DEQUANTISED_ON_CPU


def _own(config: Any) -> dict[str, Any] | None:
    """A checkpoint's description of its quantisation; loading replaces the mapping by an object."""
    about = getattr(config, "quantization_config", None)
    if about is None or isinstance(about, dict):
        return about
    return dict(about.to_dict())

"""Weights in fewer bits than the dtype has: made so when they are loaded, or stored so in the checkpoint.

transformers does the loading. Here stands what a plan may ask for, what each way needs, and how a reader calls it.

All of them quantise weights only: activations stay in the dtype. bitsandbytes would round activations to eight bits as
well, except for columns in which any token of the forward pass has an outlier. A token's state would then depend on
what shares its pack (by 0.8 a token of SmolLM2's loglikelihoods), so its layers multiply with dequantised weights here.

gptqmodel, which reads GPTQ and AWQ, chooses its product by the CPU, and those for four bits round activations to half
precision whatever the dtype. On CPUs its layers therefore become plain ones, with the same weights in the dtype.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from bench.config import ModelSpec
from bench.errors import ModelInputError, ModelLoadError, one_of

_GROUP = 128  # inputs of a row of weights that share a scale in torchao-int4

BYTES_PER_WEIGHT = {
    "bnb-8bit": 1.0,
    "bnb-4bit": 0.5 + 4 / 64,
    "torchao-int8": 1.0,
    "torchao-int4": 0.5 + 4 / _GROUP,
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

_STORED = ("awq", "bitsandbytes", "compressed-tensors", "fp8", "gptq", "mxfp4", "torchao")  # methods of checkpoints
_SHORT = {"bitsandbytes": "bnb"}  # those that we call otherwise
_PLAIN = {"F64", "F32", "F16", "BF16"}  # as safetensors calls dtypes
_DEQUANTISED_ON_CPU = ("awq", "fp8", "gptq", "mxfp4")  # the others keep their packed weights there
_ON_GPU = {"awq": (torch.float16,), "gptq": (torch.float16, torch.bfloat16)}  # what gptqmodel's kernels compute in


def stored_quantization(config: Any) -> str | None:
    """How a checkpoint's weights are quantised, by its own configuration: `gptq-4bit`, `fp8`; None if they are not."""
    about = _own(config)
    if about is None:
        return None
    method = _method(config)
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
        if spec.quantization == "torchao-int4" and device.type == "cuda" and dtype != torch.bfloat16:
            raise ModelInputError(f"{who}: torchao-int4 needs bfloat16 on CUDA; bnb-4bit takes any dtype")
    elif stored is not None and (method := _method(config)) not in _STORED:
        raise ModelInputError(
            f"{who}: its checkpoint is quantised with {method!r}, which is not supported; {one_of(method, _STORED)}"
        )
    _check_packages(who, stored or spec.quantization)
    computed = gpu_dtypes(config) if device.type == "cuda" else ()
    if computed and dtype not in computed:
        names = " or ".join(str(one).removeprefix("torch.") for one in computed)
        raise ModelInputError(f"{who}: {stored} is computed in {names} on GPUs; say dtype: {names}")


def _check_packages(who: str, quantization: str) -> None:
    extra = next((name for name in _PACKAGES if quantization.startswith(name)), None)
    missing = [name for name in _PACKAGES.get(extra or "", ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelInputError(f'{who}: {quantization} needs {" and ".join(missing)}: pip install "steelyard[{extra}]"')


def gpu_dtypes(config: Any) -> tuple[torch.dtype, ...]:
    """The dtypes in which a quantised checkpoint can be computed on GPUs; none said where any will do."""
    return _ON_GPU.get(_method(config), ())


def check_stored(config: Any, folder: Path) -> None:
    """Make sure that a checkpoint which says that it is quantised is: transformers would load plain weights as well.

    What compressed-tensors stores may be rounded and yet be floating-point numbers, and a pickle cannot be looked into.

    Raises:
        ValueError: all of its safetensors are floating-point numbers of 16 bits or more.
    """
    stored = stored_quantization(config)
    files = sorted(folder.glob("*.safetensors"))
    if stored is None or _method(config) == "compressed-tensors" or not files:
        return
    for path in files:
        with safe_open(path, framework="pt") as file:
            if any(file.get_slice(name).get_dtype() not in _PLAIN for name in file.keys()):  # noqa: SIM118
                return
    raise ValueError(f"its weights are not quantised ({stored})")


def loading_options(spec: ModelSpec, config: Any, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """What transformers is to be told of how a model is quantised, beyond what its checkpoint says."""
    if spec.quantization == "none":
        return _own_kernels(_method(config)) if device.type == "cpu" else {}
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
    if spec.quantization == "torchao-int4" and device.type == "cpu":
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

        return {"quantization_config": TorchAoConfig(PrototypeInt4WeightOnlyConfig(group_size=_GROUP))}
    kinds["torchao-int4"] = partial(ao.Int4WeightOnlyConfig, group_size=_GROUP, int4_packing_format="tile_packed_to_4d")
    return {"quantization_config": TorchAoConfig(kinds[spec.quantization]())}


def _own_kernels(method: str) -> dict[str, Any]:
    """Ask for gptqmodel's layers that hold weights as the file does; transformers takes nothing else from this."""
    if method not in {"gptq", "awq"}:
        return {}
    from bench.hf import AwqConfig, GPTQConfig

    return {
        "quantization_config": GPTQConfig(4, backend="torch") if method == "gptq" else AwqConfig(backend="torch_awq")
    }


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within this context the packages do not tell of kernels for other machines, of their own old calls and steps."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def check_quantised(spec: ModelSpec, model: nn.Module) -> None:
    """Make sure that a model is quantised as its plan says.

    Raises:
        ModelInputError: it has no layers that can be, or torchao left out some for their size.
    """
    if spec.quantization == "none":
        return
    if all(_is_plain(weight) for weight in model.parameters()):
        raise ModelInputError(f"model {spec.name}: none of its layers can be quantised by {spec.quantization}")
    head = model.get_output_embeddings()  # type: ignore[operator]
    layers = [module for module in model.modules() if isinstance(module, nn.Linear) and module is not head]
    left = [layer for layer in layers if layer.in_features % _GROUP and _is_plain(layer.weight)]
    if spec.quantization == "torchao-int4" and left:
        raise ModelInputError(
            f"model {spec.name}: torchao-int4 quantises {_GROUP} inputs at a time, into which {len(left)} of its "
            f"{len(layers)} linear layers do not divide (one has {left[0].in_features}); bnb-4bit takes any"
        )


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
    """Whether a quantised checkpoint's weights are turned into plain ones on this device."""
    return device.type == "cpu" and _method(config) in _DEQUANTISED_ON_CPU


def dequantise(spec: ModelSpec, model: nn.Module, dtype: torch.dtype) -> None:
    """Turn layers of GPTQ and AWQ checkpoints, as gptqmodel has them, into plain ones.

    Raises:
        ModelLoadError: a layer's tensors are not those of the bits and groups that the configuration says.
    """
    if not any(type(module).__module__.startswith("gptqmodel.") for module in model.modules()):
        return
    from gptqmodel.nn_modules.qlinear import BaseQuantLinear

    for name, layer in list(model.named_modules()):
        if not isinstance(layer, BaseQuantLinear):
            continue
        try:
            weight = _plain_weight(layer).T.to(dtype).contiguous()
        except RuntimeError as error:
            raise ModelLoadError(
                f"model {spec.name} cannot be loaded: the tensors of {name} do not fit what its configuration says of "
                "bits and group size"
            ) from error
        plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, "meta", dtype)
        plain.weight = nn.Parameter(weight, requires_grad=False)
        if layer.bias is not None:
            plain.bias = nn.Parameter(layer.bias.to(dtype), requires_grad=False)
        model.set_submodule(name, plain)


def _plain_weight(layer: Any) -> torch.Tensor:
    """What a layer of gptqmodel stands for, in fp32: (inputs, outputs)."""
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm

    weight: torch.Tensor
    scales = layer.scales.float()
    if isinstance(layer, TorchLinear):
        layer.scales = scales
        weight = TorchLinear.dequantize_weight(layer)  # the class's: the layer's own would be compiled first
    else:
        weight = dequantize_gemm(layer.qweight, layer.qzeros, scales, layer.bits, layer.group_size)
    return weight


def _method(config: Any) -> str:
    """What a checkpoint calls its way of quantising; empty for one that is not quantised."""
    about = _own(config) or {}
    if about.get("load_in_8bit") or about.get("load_in_4bit"):
        return "bitsandbytes"
    said = about.get("quant_method", "")
    return str(getattr(said, "value", said))  # loading turns the name into an enumeration's member


def _own(config: Any) -> dict[str, Any] | None:
    """A checkpoint's description of its quantisation; loading replaces the mapping by an object."""
    about = getattr(config, "quantization_config", None)
    if about is None or isinstance(about, dict):
        return about
    return dict(about.to_dict())

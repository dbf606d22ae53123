"""Where a model's weights go: to one device, layer by layer to several, or a part of every layer to each rank."""

from __future__ import annotations

from typing import Any

import torch

from bench.config import ModelSpec
from bench.errors import ModelInputError
from bench.models.kind import settle_kind
from bench.models.quantize import stored_quantization


def check_parallel(spec: ModelSpec, config: Any) -> None:
    """Refuse a way of spreading a model that it does not offer.

    Raises:
        ModelInputError: the plan asks for something that cannot be followed.
    """
    if spec.parallel == "none":
        return
    where = f"model {spec.name}: parallel {spec.parallel}"
    if spec.device != "auto":
        raise ModelInputError(f"{where} takes all GPUs that are visible, not device {spec.device}; leave it auto")
    if spec.source == "fake":
        raise ModelInputError(f"{where}: the fake model has no files that could be loaded in parts")
    if spec.parallel == "tensor" and (
        spec.adapter is not None or spec.quantization != "none" or stored_quantization(config)
    ):
        raise ModelInputError(f"{where} splits neither quantised weights nor an adapter's; use layers")
    if spec.parallel == "tensor" and settle_kind(spec, config) != "causal":
        raise ModelInputError(f"{where} is for causal models, which {config.model_type} is not; use layers")
    if spec.parallel == "tensor" and not getattr(config.get_text_config(), "base_model_tp_plan", None):
        raise ModelInputError(f"{where}: transformers cannot split the layers of {config.model_type}; use layers")


def check_split(spec: ModelSpec, config: Any, num_ranks: int) -> None:
    """Refuse to split a model into `num_ranks` parts if that does not come out even.

    Raises:
        ModelInputError: it does not.
    """
    text = config.get_text_config()
    num_heads = text.num_attention_heads
    num_kv_heads = getattr(text, "num_key_value_heads", None) or num_heads
    for what, num in (("query heads", num_heads), ("key heads", num_kv_heads), ("words", text.vocab_size)):
        if num % num_ranks:
            raise ModelInputError(
                f"model {spec.name}: parallel tensor: its {num} {what} cannot be split evenly among {num_ranks} "
                "processes; give engine.num_processes another number, or use layers"
            )


def placement(spec: ModelSpec, device: torch.device, num_ranks: int, *, is_quantised: bool) -> dict[str, Any]:
    """What `from_pretrained` is to be told of where weights go; `num_ranks` processes load the model together."""
    if spec.parallel == "layers":
        return {"device_map": "auto"}
    if spec.parallel == "tensor" and num_ranks > 1:
        return {"distributed_config": {"tp_plan": "auto", "tp_size": num_ranks}}
    return {"device_map": {"": device} if device.type == "cuda" or is_quantised else None}


def is_whole(spec: ModelSpec, num_ranks: int) -> bool:
    """Whether a model is all on one device, in each process that has it."""
    return spec.parallel == "none" or (spec.parallel == "tensor" and num_ranks == 1)

"""Tiny GPTQ and AWQ checkpoints, written by hand as the two formats lay weights out, and what they stand for.

Both keep codes of a few bits in words of 32, scales and zeros of groups of inputs. GPTQ packs codes along inputs,
stores zeros less one, and says of each input which group it belongs to. AWQ packs along outputs, in an order of its
own, and where a layer follows an activation function its inputs may be scaled by a vector beside that function.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_models import tiny_model
from tokenizer_kinds import tokenizer_of
from torch import nn

GROUP = 16
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_SCALED = {
    "bloom": ("gelu_impl", "dense_4h_to_h"),
    "falcon": ("act", "dense_4h_to_h"),
    "gpt_bigcode": ("act", "c_proj"),
    "gpt_neox": ("act", "dense_4h_to_h"),
    "gptj": ("act", "fc_out"),
    "mpt": ("act", "down_proj"),
    "starcoder2": ("act", "c_proj"),
}
"""Activation functions beside which AWQ keeps scales, and the layers that follow them."""


@dataclass(frozen=True)
class Form:
    """A way of storing weights."""

    method: str
    bits: int = 4
    is_shuffled: bool = False  # GPTQ: groups are of inputs that stand apart (`desc_act`)
    has_plain_zeros: bool = False  # GPTQ: in its second version, zeros are stored as they are

    def describe(self) -> dict[str, Any]:
        """What config.json says of it."""
        about: dict[str, Any] = {"quant_method": self.method, "bits": self.bits, "group_size": GROUP}
        if self.method == "awq":
            return {**about, "zero_point": True, "version": "gemm"}
        version = "gptq_v2" if self.has_plain_zeros else "gptq"
        return {**about, "desc_act": self.is_shuffled, "sym": False, "checkpoint_format": version}


def write_packed(folder: Path, name: str, form: Form, **changes: Any) -> Any:
    """Write a checkpoint; returns the same model with plain weights of the same values, in fp32."""
    tokenizer = tokenizer_of("gpt2")
    tokenizer.save_pretrained(folder)
    model = tiny_model(name, **{"vocab_size": len(tokenizer), **changes})
    model.save_pretrained(folder)
    stored, same = dict(model.state_dict()), dict(model.state_dict())
    scaled, follows = _SCALED.get(name.partition("-")[0], ("", "")) if form.method == "awq" else ("", "")
    for path, layer in model.named_modules():
        if not isinstance(layer, nn.Linear) or layer is model.get_output_embeddings():
            continue
        weight = layer.weight.data.T
        del stored[f"{path}.weight"]
        scales = torch.ones(len(weight))
        parent, _, own = path.rpartition(".")
        if own == follows:
            scales = torch.rand(len(weight)) + 0.5
            stored[f"{parent}.{scaled}.scales"] = scales
        packed, values = _pack(weight * scales[:, None], form)
        stored |= {f"{path}.{key}": value for key, value in packed.items()}
        same[f"{path}.weight"] = (values / scales[:, None]).T
        if layer.bias is not None:
            same[f"{path}.bias"] = stored[f"{path}.bias"] = layer.bias.data.half()
    if model.config.tie_word_embeddings:
        stored.pop("lm_head.weight", None)
    save_file(
        {key: value.contiguous() for key, value in stored.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": form.describe()}))
    model.load_state_dict(same)
    return model


def _pack(weight: torch.Tensor, form: Form) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A layer's tensors in the file, and the values they stand for; `weight` and they are (inputs, outputs)."""
    most = 2**form.bits - 1
    group_of = torch.arange(len(weight)) // GROUP
    if form.is_shuffled:
        group_of = group_of[torch.randperm(len(weight), generator=torch.Generator().manual_seed(3))]
    groups = torch.stack([weight[group_of == group] for group in range(len(weight) // GROUP)])
    low, high = groups.amin(1).clamp(max=0), groups.amax(1).clamp(min=0)
    scales = ((high - low) / most).half().float()
    zeros = (-low / scales).round().clamp(1, most)
    codes = (weight / scales[group_of] + zeros[group_of]).round().clamp(0, most)
    values = (codes - zeros[group_of]) * scales[group_of]
    if form.method == "awq":
        packed = {"qweight": _words(codes, form.bits, _AWQ_ORDER), "qzeros": _words(zeros, form.bits, _AWQ_ORDER)}
    else:
        order = range(32 // form.bits)
        shown = zeros if form.has_plain_zeros else zeros - 1
        packed = {"qweight": _words(codes.T, form.bits, order).T, "qzeros": _words(shown, form.bits, order)}
        packed["g_idx"] = group_of.to(torch.int32)
    return {**packed, "scales": scales.half()}, values


def _words(codes: torch.Tensor, bits: int, order: Sequence[int]) -> torch.Tensor:
    """Pack codes along the second dimension, the first of `order` into the lowest bits of each word."""
    groups = codes.to(torch.int64).reshape(len(codes), -1, 32 // bits)
    words = torch.stack([groups[:, :, place] << (bits * index) for index, place in enumerate(order)]).sum(0)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)

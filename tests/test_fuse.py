from __future__ import annotations

from types import FunctionType
from typing import Any

import pytest
import torch
from tiny_models import PACKED, tiny_model
from torch import nn
from transformers.models.bloom.modeling_bloom import BloomGelu
from transformers.models.llama import modeling_llama as llama

from bench.engine.families import replacements, swap_classes
from bench.engine.fuse import FUSED, fused_classes

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # gpt_bigcode

IDS = torch.arange(3, 63).view(2, 30)
AS_IN_LLAMA = {"llama", "llama-3", "mistral", "qwen2", "qwen2_moe", "qwen3", "smollm3"}
OWN = {  # what of LLaMA's others have copied
    "cohere": {"MLP"},
    "gemma": {"Attention", "DecoderLayer", "MLP"},
    "gemma2": {"Attention", "MLP"},
    "gemma3_text": {"Attention", "MLP"},
    "granite": {"Attention", "MLP", "RMSNorm"},
    "mixtral": {"Attention", "RMSNorm"},
    "olmo": {"DecoderLayer", "MLP"},
    "olmo2": {"MLP"},
    "olmo3": {"MLP"},
    "phi": {"Attention"},
    "phi3": {"RMSNorm"},
    "qwen3_moe": {"Attention", "DecoderLayer", "RMSNorm"},
    "stablelm": {"Attention", "MLP"},
    "starcoder2": {"Attention", "DecoderLayer"},
}


@pytest.mark.parametrize("kind", [*FUSED, BloomGelu], ids=lambda kind: kind.__name__)
def test_a_fused_activation_is_the_same_function(kind: type[nn.Module]) -> None:
    module = kind()
    points = torch.cat((torch.linspace(-12, 12, 4001), torch.tensor([0.0, -0.0, 1e-30, 60.0, -60.0])))
    expected = module(points.double())
    written_out = (module(points).double() - expected).abs().max()
    swap_classes(module, {**FUSED, **replacements("bloom")})
    assert type(module) is not kind
    assert isinstance(module, kind)
    torch.testing.assert_close(module(points.double()), expected, atol=1e-8, rtol=1e-8)
    assert (module(points).double() - expected).abs().max() <= 2 * written_out


@pytest.mark.parametrize("name", PACKED)
@torch.inference_mode()
def test_a_fused_model_is_the_same_function(name: str) -> None:
    """transformers' own forward pass, its attention included, over fused parts and over its own."""
    model = tiny_model(name)
    fused = fused_classes(model)
    copies = {kind for kind in fused if kind not in FUSED and not kind.__name__.startswith("Falcon")}
    parts = ("Attention", "DecoderLayer", "MLP", "RMSNorm")
    found = {part for part in parts for kind in copies if kind.__name__.endswith(part)}
    assert found == (set(parts) if name in AS_IN_LLAMA else OWN.get(name, set()))
    expected = model(IDS).logits
    swap_classes(model, fused)
    assert not fused or {type(module) for module in model.modules()}.isdisjoint(fused)
    torch.testing.assert_close(model(IDS).logits, expected, atol=2e-5, rtol=2e-5)


@torch.inference_mode()
def test_half_precision_is_rounded_where_it_was() -> None:
    for norm in (llama.LlamaRMSNorm(64), llama.LlamaRMSNorm(64).bfloat16()):
        norm.weight.copy_(torch.rand(64) + 0.5)
        hidden = torch.randn(7, 50, 64).bfloat16()
        expected = norm(hidden)
        swap_classes(norm, fused_classes(norm))
        assert norm(hidden).dtype == expected.dtype
        assert (norm(hidden) != expected).double().mean() < 0.01  # where a sum in another order meets a rounding's edge
        torch.testing.assert_close(norm(hidden), expected, atol=0.0, rtol=2**-7)


def test_a_stand_in_changes_nothing_for_others_and_goes_away() -> None:
    """The rotary embedding is a function of a module that all models of a family share."""
    model, other = tiny_model("llama"), tiny_model("llama")
    theirs = llama.apply_rotary_pos_emb
    fused = fused_classes(model)
    swap_classes(model, fused)
    assert llama.apply_rotary_pos_emb is theirs
    assert {type(module) for module in other.modules()} >= fused.keys()
    assert fused_classes(model) == fused  # a second forward pass over the model can take them away as well
    swap_classes(model, {ours: kind for kind, ours in fused.items()})
    assert {type(module) for module in model.modules()} == {type(module) for module in other.modules()}


def test_what_is_written_in_other_words_is_left_alone() -> None:
    class Norm(llama.LlamaRMSNorm):
        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            hidden_states = hidden_states.to(torch.float32)
            variance = hidden_states.pow(4).mean(-1, keepdim=True)
            return self.weight * (hidden_states * torch.rsqrt(variance + self.variance_epsilon))

    model = nn.Sequential(Norm(4), nn.Linear(3, 3))
    assert {type(module) for module in model}.isdisjoint(fused_classes(model))
    assert list(fused_classes(llama.LlamaRMSNorm(4))) == [llama.LlamaRMSNorm]


def test_a_rotary_embedding_that_calls_something_else_is_left_alone() -> None:
    """Some architectures have LLaMA's function word for word, and pair other dimensions in what it calls."""

    def interleaved(x: torch.Tensor) -> torch.Tensor:
        return torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)

    def with_globals(function: Any, **others: Any) -> Any:
        return FunctionType(function.__code__, {**function.__globals__, **others}, function.__name__)

    def attention(rotate_half: Any) -> nn.Module:
        rotary = with_globals(llama.apply_rotary_pos_emb, rotate_half=rotate_half)
        forward = with_globals(llama.LlamaAttention.forward, apply_rotary_pos_emb=rotary)
        return type("Attention", (nn.Module,), {"forward": forward})()

    assert len(fused_classes(attention(with_globals(llama.rotate_half)))) == 1
    assert fused_classes(attention(interleaved)) == {}

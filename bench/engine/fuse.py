"""What transformers writes out as many passes over memory, in fewer of them.

On a CPU the matrix products of a small model leave a quarter of the time to everything else, most of which waits for
memory. The functions are the same: GELU's tanh approximation in one pass of PyTorch's own kernel (written out it took
15 % of the time of a GPT-J shape and 20 % of a BLOOM shape, of 100M parameters); RMSNorm without a copy of the squares;
the rotary embedding without the two rotated copies; a gated MLP's SiLU and product, and a layer's two sums, in place.
They stand in while a model is scored packed only.

Nearly every architecture has its own copy of LLaMA's layer, norm, MLP and rotary embedding. A copy is known by its
code: what is written in other words is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import nn

from bench.hf import FastGELUActivation, NewGELUActivation, SiLUActivation


def gelu_tanh(module: nn.Module, input: torch.Tensor) -> torch.Tensor:  # noqa: ARG001  # a forward method
    """GELU with tanh, (...) to (...)."""
    return nn.functional.gelu(input, approximate="tanh")


class FusedNewGELU(NewGELUActivation):  # type: ignore[misc]
    """GPT-2's, GPT-J's, GPT-Neo's and CodeGen's, fused."""

    forward = gelu_tanh


class FusedFastGELU(FastGELUActivation):  # type: ignore[misc]
    """The same with the factors in another order, fused."""

    forward = gelu_tanh


FUSED: dict[type[nn.Module], type[nn.Module]] = {
    NewGELUActivation: FusedNewGELU,
    FastGELUActivation: FusedFastGELU,
}
"""What stands in for which of transformers' activations."""

_SILU = (nn.SiLU, SiLUActivation)  # the activations that torch computes in place


def fused_classes(model: nn.Module) -> dict[type[nn.Module], type[nn.Module]]:
    """What stands in for which of a model's classes, whether or not it does so now."""
    kinds: set[Any] = {type(module) for module in model.modules()}
    kinds |= {base for kind in kinds for base in kind.__bases__}
    return {kind: fused for kind in kinds if (fused := _stand_in(kind))}


@cache
def _stand_in(kind: Any) -> type[nn.Module] | None:
    """What does the same as a class in fewer passes; None if nothing is known to."""
    from transformers.models.llama import modeling_llama as llama

    forward = getattr(kind, "forward", None)
    if kind in FUSED:
        return FUSED[kind]
    if _is_copy(forward, llama.LlamaRMSNorm.forward):
        return _with_forward(kind, _rms_norm)
    if _is_copy(forward, llama.LlamaMLP.forward):
        return _with_forward(kind, _gated_mlp)
    if _is_copy(forward, llama.LlamaDecoderLayer.forward):
        return _with_forward(kind, _layer)
    if isinstance(forward, FunctionType) and "apply_rotary_pos_emb" in forward.__code__.co_names:
        theirs = forward.__globals__.get("apply_rotary_pos_emb")
        if _is_copy(theirs, llama.apply_rotary_pos_emb):
            return _with_forward(kind, _with_global(forward, "apply_rotary_pos_emb", _rotate))
    return None


def _is_copy(function: Any, of: Any) -> bool:
    """Whether a function does exactly what another does, in what it calls of its own module too."""
    if not (isinstance(function, FunctionType) and isinstance(of, FunctionType)):
        return False
    called = {name: of.__globals__.get(name) for name in of.__code__.co_names}
    return _deeds(function) == _deeds(of) and all(
        _is_copy(function.__globals__.get(name), one) for name, one in called.items() if isinstance(one, FunctionType)
    )


def _deeds(function: FunctionType) -> tuple[object, ...]:
    """A function's code but for the names of its variables and its documentation."""
    code = function.__code__
    return code.co_code, code.co_names, [value for value in code.co_consts if value != function.__doc__]


def _with_forward(kind: type[nn.Module], forward: Callable[..., Any]) -> type[nn.Module]:
    """A subclass with another forward method."""
    return type(f"Fused{kind.__name__}", (kind,), {"forward": forward})


def _with_global(function: FunctionType, name: str, value: Any) -> Callable[..., Any]:
    """The same function with another meaning of a global name, which other functions keep."""
    names = {**function.__globals__, name: value}
    made = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def _rms_norm(module: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """RMSNorm over the last dimension, in fp32, rounded before it is scaled."""
    wide = torch.promote_types(hidden_states.dtype, torch.float32)
    norm = torch.linalg.vector_norm(hidden_states, dim=-1, keepdim=True, dtype=wide)
    factor = norm.square_().div_(hidden_states.shape[-1]).add_(module.variance_epsilon).rsqrt_()
    normed: torch.Tensor = (hidden_states * factor).to(hidden_states.dtype)
    weight: torch.Tensor = module.weight
    return normed.mul_(weight) if normed.dtype == weight.dtype else weight * normed


def _gated_mlp(module: Any, x: torch.Tensor) -> torch.Tensor:
    """The MLP with a gate."""
    gate = module.gate_proj(x)
    gate = nn.functional.silu(gate, inplace=True) if type(module.act_fn) in _SILU else module.act_fn(gate)
    product: torch.Tensor = module.down_proj(gate.mul_(module.up_proj(x)))
    return product


def _layer(module: Any, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """A layer: attention and MLP, each behind a norm and added to what came in."""
    attended, _ = module.self_attn(hidden_states=module.input_layernorm(hidden_states), **kwargs)
    hidden_states = _plus(attended, hidden_states)
    return _plus(module.mlp(module.post_attention_layernorm(hidden_states)), hidden_states)


def _plus(new: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """The sum, in place of what only the layer holds, unless it is of a wider type."""
    return new.add_(residual) if new.dtype == residual.dtype else residual + new


def _rotate(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, unsqueeze_dim: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotary embedding of query and key, (1, H, T, D) each, by cosine and sine, (1, T, D)."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    dtype = torch.promote_types(q.dtype, cos.dtype)
    by_head = q.new_empty(q.shape, dtype=dtype)  # as attention reads queries; keys are gathered token by token
    return _rotated(q, cos, sin, by_head), _rotated(k, cos, sin, torch.empty_like(k, dtype=dtype))


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    torch.mul(x, cos, out=out)
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out

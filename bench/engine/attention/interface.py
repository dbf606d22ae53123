"""How a pack reaches the attention of an unmodified transformers model.

transformers looks attention functions up by name (`AttentionInterface`). A model set to ours builds no mask and hands
each layer's query, key and value to `_attention_forward`, which finds the pack in a context variable, because several
architectures do not pass extra keyword arguments down.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.engine.attention.contract import AttentionBackend, AttentionInputs, PackLayout
from bench.hf import AttentionInterface

NAME = "steelyard_packed"


@dataclass(slots=True)
class TrunkCache:
    """Keys and values of the current trunk path, per attention module: (2, Hkv, capacity, D).

    Packs come in depth-first order, so one buffer indexed by depth holds whatever path is current: a trunk pack
    writes at its own depth, over what an earlier branch left there.
    """

    capacity: int
    buffers: dict[int, torch.Tensor] = field(default_factory=dict)

    def prefix(self, module: torch.nn.Module, length: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values, (Hkv, length, D) each, of the path above the current pack."""
        if length == 0:
            empty = like[:, :0]
            return empty, empty
        key, value = self.buffers[id(module)][:, :, :length]
        return key, value

    def keep(self, module: torch.nn.Module, start: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Keep a trunk pack's keys and values, (Hkv, T, D) each, at depth `start`."""
        if id(module) not in self.buffers:
            self.buffers[id(module)] = key.new_empty((2, key.shape[0], self.capacity, key.shape[2]))
        place = self.buffers[id(module)][:, :, start : start + key.shape[1]]
        place[0], place[1] = key, value


@dataclass(frozen=True, slots=True)
class _Current:
    layout: PackLayout
    trunk: TrunkCache
    backend: AttentionBackend
    fallback: AttentionBackend


_current: ContextVar[_Current] = ContextVar("steelyard_pack")


@contextmanager
def packed(
    layout: PackLayout, trunk: TrunkCache, backend: AttentionBackend, fallback: AttentionBackend
) -> Iterator[None]:
    """Within this context a model set to `NAME` attends as `layout` says.

    `fallback` serves layers whose score modification (soft cap, a window that bites) `backend` cannot do.
    """
    token = _current.set(_Current(layout, trunk, backend, fallback))
    try:
        yield
    finally:
        _current.reset(token)


def _attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function of `AttentionInterface`: (1, H, T, D) in, (1, T, H, D) out."""
    if attention_mask is not None:
        raise RuntimeError(f"{type(module).__name__} built an attention mask although none was asked for")
    current = _current.get()
    pack = current.layout.pack
    own_key, own_value = key[0], value[0]
    prefix_key, _ = current.trunk.prefix(module, pack.prefix_length, own_key)
    _, prefix_value = current.trunk.prefix(module, pack.prefix_length, own_value)
    if pack.is_trunk:
        current.trunk.keep(module, pack.prefix_length, own_key, own_value)
    window = kwargs.get("sliding_window", getattr(module, "sliding_window", None))  # Qwen2-MoE does not pass it on
    deepest = pack.prefix_length + len(pack.tokens)
    scaling = kwargs.get("scaling")
    inputs = AttentionInputs(
        query=query[0],
        key=own_key,
        value=own_value,
        prefix_key=prefix_key,
        prefix_value=prefix_value,
        scale=query.shape[-1] ** -0.5 if scaling is None else float(scaling),
        window=window if window is not None and window < deepest else None,
        softcap=kwargs.get("softcap"),
    )
    is_plain = inputs.window is None and inputs.softcap is None
    output = (current.backend if is_plain else current.fallback)(inputs, current.layout)
    return output.transpose(0, 1)[None].contiguous(), None


AttentionInterface.register(NAME, _attention_forward)

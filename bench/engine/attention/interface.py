"""How a pack reaches the attention of an unmodified transformers model.

transformers looks attention functions up by name (`AttentionInterface`). A model set to ours builds no mask and hands
each layer's query, key and value to `_attention_forward`. Architectures that do not ask by name call `attend` from a
class of their own (`bench.engine.families`). Either way the pack is found in a context variable, because several
architectures do not pass extra keyword arguments down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.engine.attention.contract import AttentionBackend, AttentionInputs, PackLayout, make_layout
from bench.hf import AttentionInterface

NAME = "steelyard_packed"


@dataclass(slots=True)
class TrunkCache:
    """Keys and values of the current trunk path, per attention module: (2, Hkv, capacity, D).

    Packs come in depth-first order, so one buffer indexed by depth holds whatever path is current: a trunk pack
    writes at its own depth, over what an earlier branch left there.

    Attributes:
        key_bias: the model's bias by query head and position of the key, by device, for as many positions as were
            asked for yet.
    """

    capacity: int
    buffers: dict[int, torch.Tensor] = field(default_factory=dict)
    key_bias: dict[torch.device, torch.Tensor] = field(default_factory=dict)

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
    layouts: dict[torch.device, PackLayout]
    trunk: TrunkCache
    backend: AttentionBackend
    modified: AttentionBackend

    def layout_on(self, device: torch.device) -> PackLayout:
        """The pack's layout on a device: a model's layers may be spread over several."""
        if device not in self.layouts:
            known = next(iter(self.layouts.values()))
            self.layouts[device] = make_layout(known.pack, known.attention, device)
        return self.layouts[device]


_current: ContextVar[_Current] = ContextVar("steelyard_pack")


@contextmanager
def packed(
    layout: PackLayout, trunk: TrunkCache, backend: AttentionBackend, modified: AttentionBackend
) -> Iterator[None]:
    """Within this context a model set to `NAME` attends as `layout` says.

    `modified` serves layers whose scores are changed (a soft cap, a window that bites), which `backend` cannot do.
    """
    token = _current.set(_Current({layout.positions.device: layout}, trunk, backend, modified))
    try:
        yield
    finally:
        _current.reset(token)


@dataclass(frozen=True, slots=True)
class ScoreRule:
    """How a module makes scores of query and key.

    Attributes:
        scale, window, softcap: as in `AttentionInputs`.
        key_bias: gives what is added to the scores of keys at positions 0 to n - 1, (Hq, n), in fp64; the same for all
            layers of a model, and for a position whatever n is.
    """

    scale: float
    window: int | None = None
    softcap: float | None = None
    key_bias: Callable[[int, torch.device], torch.Tensor] | None = None


@torch.compiler.disable  # type: ignore[untyped-decorator]  # where a compiled block stops, and goes on afterwards
def attend(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rule: ScoreRule
) -> torch.Tensor:
    """Attend as the current pack says, on behalf of an attention module, in whose name trunk packs' keys are kept.

    Query, key and value are (1, H, T, D), rotary embedding done; key and value may have fewer heads. Returns
    (1, Hq, T, D).
    """
    current = _current.get()
    layout = current.layout_on(query.device)
    pack = layout.pack
    own_key, own_value = key[0], value[0]
    prefix_key, _ = current.trunk.prefix(module, pack.prefix_length, own_key)
    _, prefix_value = current.trunk.prefix(module, pack.prefix_length, own_value)
    if pack.is_trunk:
        current.trunk.keep(module, pack.prefix_length, own_key, own_value)
    inputs = AttentionInputs(
        query=query[0],
        key=own_key,
        value=own_value,
        prefix_key=prefix_key,
        prefix_value=prefix_value,
        scale=rule.scale,
        window=rule.window if rule.window is not None and rule.window < layout.depth else None,
        softcap=rule.softcap,
        key_bias=_key_bias(rule.key_bias, current.trunk, layout) if rule.key_bias else None,
    )
    is_plain = inputs.window is None and inputs.softcap is None
    return (current.backend if is_plain else current.modified)(inputs, layout)[None]


def attention_method(rule: Callable[[Any], ScoreRule]) -> Callable[..., tuple[torch.Tensor, None]]:
    """Make the method `_attn` of GPT-J and its kin: query, key, value and a mask, which the pack makes needless."""

    def _attn(
        self: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,  # noqa: ARG001
    ) -> tuple[torch.Tensor, None]:
        return attend(self, query, key, value, rule(self)), None

    return _attn


def _key_bias(make: Callable[[int, torch.device], torch.Tensor], trunk: TrunkCache, layout: PackLayout) -> torch.Tensor:
    """The bias of a pack's keys and those above, (Hq, depth). It is made seldom: making it waits for the device."""
    device = layout.positions.device
    known = trunk.key_bias.get(device)
    if known is None or known.shape[1] < layout.depth:
        known = trunk.key_bias[device] = make(2 * layout.depth, device)
    return known[:, : layout.depth]


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
    scaling = kwargs.get("scaling")
    rule = ScoreRule(
        scale=query.shape[-1] ** -0.5 if scaling is None else float(scaling),
        window=kwargs.get("sliding_window", getattr(module, "sliding_window", None)),  # Qwen2-MoE does not pass it on
        softcap=kwargs.get("softcap"),
    )
    output = attend(module, query, key, value, rule)
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, _attention_forward)

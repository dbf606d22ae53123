"""Packs of every kind, random queries and keys for them, and what attention over them is, token by token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from helpers import Path, few_shot_requests, plan_paths

from bench.engine.attention.contract import AttentionBackend, AttentionInputs, PackLayout, make_layout
from bench.engine.levels import Limits, plan_attention
from bench.engine.pack import Budget, Pack, plan_packs

CPU = torch.device("cpu")
HEADS = [(2, 2), (4, 2), (4, 1)]  # query heads, key heads


def layout_of(pack: Pack, limits: Limits, device: torch.device = CPU) -> PackLayout:
    return make_layout(pack, plan_attention(pack.positions, pack.subtree_end, limits), device)


def random_inputs(pack: Pack, heads: tuple[int, int], size: int, **features: Any) -> AttentionInputs:
    generator = torch.Generator().manual_seed(len(pack.tokens))

    def tensor(num_heads: int, length: int) -> torch.Tensor:
        return torch.randn(num_heads, length, size, generator=generator)

    own, above = len(pack.tokens), pack.prefix_length
    query, key, value = tensor(heads[0], own), tensor(heads[1], own), tensor(heads[1], own)
    return AttentionInputs(query, key, value, tensor(heads[1], above), tensor(heads[1], above), 0.3, **features)


def softmax_by_hand(inputs: AttentionInputs, paths: list[Path]) -> torch.Tensor:
    """Each token by itself in fp64, over the tokens its path names; no mask, no plan."""
    place_of = {path: place for place, path in enumerate(paths)}
    above, num_groups = inputs.prefix_key.shape[1], len(inputs.query) // len(inputs.key)
    query = inputs.query.double().unflatten(0, (-1, num_groups))  # a key head serves neighbouring query heads
    key = torch.cat((inputs.prefix_key, inputs.key), dim=1).double()
    value = torch.cat((inputs.prefix_value, inputs.value), dim=1).double()
    outputs = []
    for place, path in enumerate(paths):
        seen = [depth if depth < above else above + place_of[path[: depth + 1]] for depth in range(len(path))]
        seen = seen if inputs.window is None else seen[-inputs.window :]
        scores = query[:, :, place] @ key[:, seen].mT * inputs.scale
        if inputs.softcap is not None:
            scores = torch.tanh(scores / inputs.softcap) * inputs.softcap
        outputs.append((torch.softmax(scores, dim=-1) @ value[:, seen]).flatten(0, 1))
    return torch.stack(outputs, dim=1)


def packs_and_paths(tokens: int, **shape: int) -> list[tuple[Pack, list[Path]]]:
    plan = plan_packs(few_shot_requests(50, **shape), Budget(tokens, 1000))
    return list(zip(plan.packs, plan_paths(plan), strict=True))


WHOLE = packs_and_paths(1000, shared=40, passage=25, own=9)  # one pack, several levels
CUT = packs_and_paths(70, shared=40, passage=25, own=9)  # trunks, a trunk below a trunk, forests below them
PACKS = [*WHOLE, *CUT]


def check(
    attend: AttentionBackend, some_limits: list[Limits], heads: tuple[int, int], size: int, **features: Any
) -> None:
    """A backend against `softmax_by_hand`, in fp32 on a CPU, on all `PACKS`."""
    for pack, paths in PACKS:
        inputs = random_inputs(pack, heads, size, **features)
        expected = softmax_by_hand(inputs, paths)
        for limits in some_limits:
            found = attend(inputs, layout_of(pack, limits))
            assert found.shape == expected.shape
            torch.testing.assert_close(found.double(), expected, atol=3e-6, rtol=1e-5)


def moved(inputs: AttentionInputs, dtype: torch.dtype, device: torch.device) -> AttentionInputs:
    """The same in another dtype on another device."""
    names = ("query", "key", "value", "prefix_key", "prefix_value")
    return replace(inputs, **{name: getattr(inputs, name).to(dtype).to(device) for name in names})

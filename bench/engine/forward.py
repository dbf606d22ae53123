"""A pack through a model: the packed way, and the repeat-the-prefix-cache way for models it is not known to suit."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch

from bench.engine.attention import flex, interface, reference, sdpa, varlen
from bench.engine.attention.contract import AttentionBackend, make_layout, to_device, tree_mask
from bench.engine.compiling import compile_blocks, suits, uncompile_blocks, uncompiled
from bench.engine.device import input_device
from bench.engine.families import WITH_REPLACEMENTS, replacements, swap_classes
from bench.engine.fuse import fused_classes
from bench.engine.head import needed_rows_head
from bench.engine.levels import Limits, plan_attention
from bench.engine.pack import Pack, Plan
from bench.hf import DynamicCache

BACKENDS: dict[str, tuple[AttentionBackend, Limits]] = {
    "reference": (reference.attend, Limits()),
    "sdpa": (sdpa.attend, sdpa.LIMITS),
    "varlen": (varlen.attend, Limits()),
    "flex": (flex.attend, Limits()),
}
"""Attention backends by name, each with how it likes a pack's attention to be cut."""


class Forward(Protocol):
    """One way of computing the logits a pack asks for."""

    num_forwarded: int
    """Tokens sent through the model so far, padding and repetitions included."""

    def start(self, plan: Plan[Any]) -> None:
        """Forget the trunk path and get ready for a plan's packs, in order."""

    def logits(self, pack: Any) -> torch.Tensor:
        """Return fp32 logits, (R, V), of the pack's rows; trunk packs must come before those that hang from them.

        Packs are those that the planner of the model's kind makes.
        """

    def plain(self) -> AbstractContextManager[Any]:
        """Within this context the model, which it yields, computes as transformers made it, all rows of logits."""


class PackedForward:
    """Every distinct token once: the pack is one row without padding, attention follows the tree.

    Layers whose sliding window bites or whose scores are soft-capped are served by `modified` instead of `attention`.
    With `compiles`, the model's repeated blocks are compiled; the first pass then may raise `CompileError`.
    """

    def __init__(
        self, model: Any, attention: str, modified: AttentionBackend = reference.attend, *, compiles: bool = False
    ) -> None:
        self._model = model
        self.compiles = compiles
        self._head = needed_rows_head(model)
        self._backend, self._limits = BACKENDS[attention]
        self._modified = modified if attention != "flex" else flex.attend
        self._trunk = interface.TrunkCache(0)
        self.num_forwarded = 0
        self._own_attention = model.config._attn_implementation
        self._has_interface = model.config.get_text_config().model_type not in WITH_REPLACEMENTS
        self._replacements = {**fused_classes(model), **replacements(model.config.get_text_config().model_type)}
        self._attach()

    def start(self, plan: Plan) -> None:
        """Make room for the longest trunk path of the plan."""
        depths = (pack.prefix_length + len(pack.tokens) for pack in plan.packs if pack.is_trunk)
        self._trunk = interface.TrunkCache(max(depths, default=0))

    def logits(self, pack: Pack) -> torch.Tensor:
        """Return fp32 logits, (R, V), of the pack's rows."""
        device = input_device(self._model)
        attention = plan_attention(pack.positions, pack.subtree_end, self._limits)
        layout = make_layout(pack, attention, device)
        self._head.rows = to_device(pack.rows, device)
        self.num_forwarded += len(pack.tokens)
        how = uncompiled() if self.compiles and not suits(pack) else nullcontext()
        with how, interface.packed(layout, self._trunk, self._backend, self._modified):
            output = self._model(
                input_ids=to_device(pack.tokens, device)[None],
                position_ids=layout.positions[None],
                use_cache=False,
            )
        logits: torch.Tensor = output.logits
        return logits

    @contextmanager
    def plain(self) -> Iterator[Any]:
        """Within this context the model, which it yields, computes as transformers made it, all rows of logits."""
        self._head.rows = None
        self.restore()
        try:
            yield self._model
        finally:
            self._attach()

    def restore(self) -> None:
        """Give the model its own attention back, uncompiled."""
        uncompile_blocks(self._model)
        swap_classes(self._model, {ours: theirs for theirs, ours in self._replacements.items()})
        self._set_attention(self._own_attention)

    def _attach(self) -> None:
        """Give the model ours."""
        if self.compiles:
            compile_blocks(self._model)
        swap_classes(self._model, self._replacements)
        self._set_attention(interface.NAME)

    def _set_attention(self, name: str) -> None:
        if self._has_interface:
            self._model.set_attn_implementation(name)
        else:  # all that transformers makes of the name is whether to build a mask
            self._model.config._attn_implementation = name


class PrefixCacheForward:
    """Any causal model: the trunk path's cache is computed once and repeated for a right-padded batch of the rest."""

    def __init__(self, model: Any, max_batch_tokens: int) -> None:
        self._model = model
        self._head = needed_rows_head(model)
        self._max_batch_tokens = max_batch_tokens
        self._caches: dict[int, DynamicCache] = {}  # by depth at which the trunk pack ends
        self.num_forwarded = 0

    def start(self, plan: Plan) -> None:  # noqa: ARG002  # the other way needs it
        """Forget all caches."""
        self._caches = {}

    def logits(self, pack: Pack) -> torch.Tensor:
        """Return fp32 logits, (R, V), of the pack's rows."""
        self._caches = {depth: cache for depth, cache in self._caches.items() if depth <= pack.prefix_length}
        if pack.is_trunk:
            whole = [list(range(len(pack.tokens)))]
            return self._batch(pack, whole, {row: (0, row) for row in pack.rows.tolist()}, keeps=True)
        paths = _paths(pack)
        longest = max(map(len, paths))
        size = max(1, self._max_batch_tokens // (pack.prefix_length + longest))
        found: dict[int, torch.Tensor] = {}
        for start in range(0, len(paths), size):
            batch = paths[start : start + size]
            places = {
                place: (row, column)
                for row, path in enumerate(batch)
                for column, place in enumerate(path)
                if place not in found
            }
            wanted = {place: places[place] for place in pack.rows.tolist() if place in places}
            logits = self._batch(pack, batch, wanted, keeps=False)
            found.update(zip(wanted, logits, strict=True))
        return torch.stack([found[place] for place in pack.rows.tolist()])

    @contextmanager
    def plain(self) -> Iterator[Any]:
        """Within this context the model, which it yields, computes as transformers made it, all rows of logits."""
        self._head.rows = None
        yield self._model

    def _batch(
        self, pack: Pack, paths: list[list[int]], wanted: dict[int, tuple[int, int]], *, keeps: bool
    ) -> torch.Tensor:
        """Score paths (lists of places in the pack) in one right-padded batch; logits in the order of `wanted`."""
        device = input_device(self._model)
        longest = max(map(len, paths))
        ids = torch.zeros((len(paths), longest), dtype=torch.long)
        mask = torch.zeros((len(paths), pack.prefix_length + longest), dtype=torch.long)
        for row, path in enumerate(paths):
            ids[row, : len(path)] = torch.from_numpy(pack.tokens[path])
            mask[row, : pack.prefix_length + len(path)] = 1
        cache = copy.deepcopy(self._caches[pack.prefix_length]) if pack.prefix_length else DynamicCache()
        if pack.prefix_length and len(paths) > 1:
            cache.batch_repeat_interleave(len(paths))
        flat = [row * longest + column for row, column in wanted.values()]
        self._head.rows = torch.tensor(flat, dtype=torch.long, device=device)
        self.num_forwarded += ids.numel()
        output = self._model(
            input_ids=ids.to(device), attention_mask=mask.to(device), past_key_values=cache, use_cache=True
        )
        if keeps:
            self._caches[pack.prefix_length + longest] = output.past_key_values
        logits: torch.Tensor = output.logits
        return logits


def _paths(pack: Pack) -> list[list[int]]:
    """All root-to-leaf paths of a pack's forest, as places in the pack."""
    places = torch.arange(len(pack.tokens))
    sees = tree_mask(torch.from_numpy(pack.subtree_end), places, places)
    leaves = (sees.sum(dim=0) == 1).nonzero().flatten().tolist()
    return [sees[leaf].nonzero().flatten().tolist() for leaf in leaves]

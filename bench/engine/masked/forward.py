"""A pack through a masked language model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from bench.engine.batches import mask_of
from bench.engine.device import input_device
from bench.engine.head import NeededRows
from bench.engine.masked.pack import MaskedPack
from bench.engine.pack import Ints, Plan

_MIX_PADDING = frozenset({"convbert", "fnet", "funnel"})
"""Architectures that let padding into what they compute of the tokens beside it, whatever the attention mask says."""


class MaskedForward:
    """Each distinct input once, padded to the longest of its pack; logits only where a token is to be told.

    For the few architectures that cannot bear padding, each length is a forward pass of its own.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._needed = NeededRows(model)
        self._bears_padding = model.config.model_type not in _MIX_PADDING
        self.num_forwarded = 0

    def start(self, plan: Plan[Any]) -> None:
        """Nothing is kept from one pack to the next."""

    def logits(self, pack: MaskedPack) -> torch.Tensor:
        """Return fp32 logits, (R, V), of the pack's rows."""
        tokens, lengths = pack.tokens, pack.lengths
        owners, places = np.divmod(pack.rows, tokens.shape[1])
        parts = []
        for start, stop in pairwise(self._cuts(lengths)):
            width = lengths[start]
            inside = (owners >= start) & (owners < stop)
            self.num_forwarded += int((stop - start) * width)
            logits, _ = self._needed.ask(
                self._put((owners[inside] - start) * width + places[inside]),
                input_ids=self._put(tokens[start:stop, :width]),
                attention_mask=self._put(mask_of(lengths[start:stop])),
            )
            parts.append(logits)
        return torch.cat(parts)

    @contextmanager
    def plain(self) -> Iterator[Any]:
        """Within this context the model, which it yields, computes as transformers made it, all rows of logits."""
        yield self._needed.give_back()

    def _cuts(self, lengths: Ints) -> list[int]:
        """Where a pack is cut into forward passes; its inputs come longest first."""
        changes = [] if self._bears_padding else (np.flatnonzero(np.diff(lengths)) + 1).tolist()
        return [0, *changes, len(lengths)]

    def _put(self, ints: Ints) -> torch.Tensor:
        return torch.from_numpy(ints).to(input_device(self._model))

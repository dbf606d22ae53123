"""A pack through an encoder-decoder."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from bench.engine.batches import mask_of
from bench.engine.device import input_device
from bench.engine.head import NeededRows
from bench.engine.pack import Ints, Plan
from bench.engine.seq2seq.pack import DecoderBatch, Seq2SeqPack
from bench.hf import DynamicCache, DynamicLayer, EncoderDecoderCache


class Seq2SeqForward:
    """The encoder once for each context; the decoder's keys and values of a context once for all its options."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._needed = NeededRows(model)
        self.num_forwarded = 0

    def start(self, plan: Plan[Any]) -> None:
        """Nothing is kept from one pack to the next."""

    def logits(self, pack: Seq2SeqPack) -> torch.Tensor:
        """Return fp32 logits, (R, V), of the pack's rows."""
        starts = self._put(pack.starts)
        mask = self._put(mask_of(pack.lengths))
        encoder = self._model.get_encoder()
        states = encoder(input_ids=self._put(pack.tokens), attention_mask=mask, return_dict=True)
        logits, begun = self._needed.ask(
            self._put(pack.rows_between(0, len(starts))),
            encoder_outputs=states,
            attention_mask=mask,
            decoder_input_ids=starts[:, None],
            use_cache=bool(pack.batches),
        )
        self.num_forwarded += pack.num_forwarded
        contexts = _Contexts(states, mask, begun.get("past_key_values"))
        del begun
        parts, offset = [logits], len(starts)
        for batch in pack.batches:
            rows = pack.rows_between(offset, offset + batch.tokens.size) - offset
            parts.append(self._go_on(contexts, batch, rows))
            offset += batch.tokens.size
        return torch.cat(parts)

    @contextmanager
    def plain(self) -> Iterator[Any]:
        """Within this context the model, which it yields, computes as transformers made it, all rows of logits."""
        yield self._needed.give_back()

    def _go_on(self, contexts: _Contexts, batch: DecoderBatch, rows: Ints) -> torch.Tensor:
        """Logits of `rows`, places in a batch, whose decoders go on from the start."""
        chosen = self._put(batch.contexts)
        logits, _ = self._needed.ask(
            self._put(rows),
            encoder_outputs=type(contexts.states)(last_hidden_state=contexts.states.last_hidden_state[chosen]),
            attention_mask=contexts.mask[chosen],
            decoder_input_ids=self._put(batch.tokens),
            past_key_values=contexts.cache_for(chosen),
            use_cache=True,
        )
        return logits

    def _put(self, ints: Ints) -> torch.Tensor:
        return torch.from_numpy(ints).to(input_device(self._model))


@dataclass(frozen=True, slots=True)
class _Contexts:
    """What a pack's contexts have become.

    Attributes:
        states: the encoder's output, (C, L, d).
        mask: 1 for tokens, 0 for padding, (C, L).
        cache: the decoder's keys and values, of the start and of the context; None if nothing comes after the start.
    """

    states: Any
    mask: torch.Tensor
    cache: Any

    def cache_for(self, chosen: torch.Tensor) -> EncoderDecoderCache:
        """The cache with a row for each of `chosen`, places of contexts."""
        own = copy.deepcopy(self.cache.self_attention_cache)  # of one token a context: the start
        own.batch_select_indices(chosen)
        shared = DynamicCache()
        shared.layers = [_Selected(layer, chosen) for layer in self.cache.cross_attention_cache.layers]
        return EncoderDecoderCache(own, shared)


class _Selected(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values of contexts, a row for each option.

    Copied when the layer asks for them and forgotten after it: the copies for all layers at once would take more
    memory than everything else.
    """

    is_initialized = True

    def __init__(self, layer: Any, chosen: torch.Tensor) -> None:  # not super's, which would set what is computed here
        self._layer = layer
        self._chosen = chosen

    @property
    def keys(self) -> Any:
        return self._layer.keys[self._chosen]

    @property
    def values(self) -> Any:
        return self._layer.values[self._chosen]

    def get_seq_length(self) -> int:
        length: int = self._layer.get_seq_length()
        return length

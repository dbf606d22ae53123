"""Models in this machine's memory, as a run knows them: loglikelihoods from packs, completions in batches."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.completer import Completer, GenerationSettings
from bench.config import EngineSpec, ModelSpec
from bench.engine.generate import Generator
from bench.engine.pipeline import Progress
from bench.errors import ModelLoadError, SteelyardError, one_line
from bench.models.chat import apply_chat_template
from bench.models.files import preparation
from bench.records import Completion, Message
from bench.runs.folder import RunShare
from bench.scoring import score_samples
from bench.session import Session, check_model, num_processes
from bench.tasks.job import Job
from bench.team import ALONE, Team
from bench.telemetry.recorder import Recorder
from bench.watching import describe_telemetry, start_recorder
from bench.writing.generating import complete_samples

__all__ = ["LocalModel", "check_model", "num_processes", "open_model", "open_session", "preparation"]


class LocalModel:
    """A session's model."""

    def __init__(self, session: Session) -> None:
        self.session = session

    @property
    def spec(self) -> ModelSpec:
        """The model as the plan has it."""
        return self.session.spec

    def refusal(self, job: Job) -> str | None:
        """Why a job cannot be put to this model; None if it can."""
        if job.spec.chat_template and not self.session.tokenizer.chat_template:
            return f"{job.title} is to be put by a chat template, and its tokenizer has none"
        if job.lane == "generate" and self.session.kind.name == "masked":
            return f"{job.title} is answered in writing, and a masked language model writes nothing"
        return None

    def identity(self, job: Job, made_with: tuple[str, str] | None = None) -> dict[str, object]:
        """What of this model can change an answer; `made_with` is the dtype and type of device if not the session's."""
        session = self.session
        dtype, device = made_with or (session.dtype_name, session.device.type)
        adapter = None if session.adapter is None else session.adapter.fingerprint
        parts: dict[str, object] = {
            "model": [session.spec.source, session.files.fingerprint, dtype, session.spec.quantization, adapter],
            "device": device,
            "encoding": [session.engine.bos, session.engine.overlong, session.max_length],
            "kind": [session.kind.name, session.pll],
        }
        if job.spec.chat_template:
            parts["chat_template"] = hashlib.sha256(str(session.tokenizer.chat_template).encode()).hexdigest()
        return parts

    def put(self, job: Job) -> Job:
        """The job as it is put to this model: by its chat template, if the plan says so."""
        return job.in_chat(self._render) if job.spec.chat_template else job

    def _render(self, messages: Sequence[Message]) -> str:
        turns = [{"role": message.role, "content": message.text} for message in messages]
        return apply_chat_template(self.session.tokenizer, turns)

    def describe(self) -> dict[str, object]:
        """The part `model` of run.json."""
        session = self.session
        return {
            "name": session.spec.name,
            "source": session.spec.source,
            "revision": session.files.revision,
            "fingerprint": session.files.fingerprint,
            "architecture": session.config.model_type,
            "kind": session.kind.name,
            "dtype": session.dtype_name,
            "quantization": session.precision.quantization,
            "gguf": session.files.stored,
            "adapter": None if session.adapter is None else session.adapter.describe(),
            "num_parameters": session.num_parameters,
        }

    def describe_likelihood(self, job: Job) -> str | None:
        """`exact` or `pll`; None for a job that asks for none."""
        return self.session.kind.likelihood if job.lane == "likelihood" else None

    def estimate(self, job: Job) -> None:
        """Nothing that is paid by the request."""

    def score(self, job: Job, folder: RunShare, progress: Progress, team: Team = ALONE) -> None:
        """Score what the run folder does not hold yet, and finish it."""
        job = self.put(job)
        if job.lane == "likelihood":
            score_samples(self.session, job, folder, progress, team)
        else:
            complete_samples(LocalWriter(self.session), job, folder, progress, team)

    def close(self) -> None:
        """Give the model's memory back."""
        self.session.close()


def open_model(spec: ModelSpec, engine: EngineSpec, team: Team = ALONE) -> LocalModel:
    """Find, fetch or convert a model's files.

    Raises:
        SteelyardError: the model cannot be had; whatever went wrong, in one line.
    """
    return LocalModel(open_session(spec, engine, team))


def open_session(spec: ModelSpec, engine: EngineSpec, team: Team = ALONE) -> Session:
    """The same, as a session."""
    try:
        session = Session(spec, engine, team)
        session.prepare()
        return session
    except SteelyardError:
        raise
    except Exception as problem:  # whatever a model's configuration brings about
        raise ModelLoadError(f"model {spec.name}: {one_line(problem)}") from problem


class LocalWriter:
    """A session's model as the lane `generate` needs it, see `bench.writing.generating.Writer`."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._generator: Generator | None = None
        self._recorder: Recorder | None = None
        self._before: Mapping[str, Any] = {}
        self._load_before_s = session.timing.load_s  # another task's

    @contextlib.contextmanager
    def writing(self, info: Mapping[str, Any]) -> Iterator[Completer]:
        """Load the model, and complete with it, watching its devices."""
        self._before = info
        self._recorder = recorder = start_recorder(self.session)
        with contextlib.closing(recorder):
            self.session.load()
            recorder.restart()
            with self.session.generator() as generator:
                self._generator = generator
                yield _LocalCompleter(generator, recorder)

    def fits(self, prompts: Sequence[tuple[Message, ...]], settings: GenerationSettings) -> list[bool]:
        """Whether each prompt leaves room for a completion, or the plan wants what is too long cut instead."""
        if self.session.engine.overlong == "cut_left" or self._generator is None:
            return [True] * len(prompts)
        room = self._generator.room(settings)
        return [len(ids) <= room for ids in self._generator.encode([text_of(prompt) for prompt in prompts])]

    def measured(self) -> dict[str, Any]:
        """What to record beside the completions."""
        session, generator = self.session, self._generator
        load_s = session.timing.load_s - self._load_before_s + self._before.get("timing", {}).get("load_s", 0.0)
        engine: dict[str, Any] = {"path": "generate", **session.describe_place()}
        if generator is not None:
            engine |= {"inherited": generator.inherited, "num_out_of_memory": generator.num_halvings}
        return {
            "timing": {"load_s": round(load_s, 4)},
            "engine": engine,
            "peak_memory_bytes": session.peak_memory_bytes(),
            "notes": list(session.notes),
            "telemetry": describe_telemetry(session, self._recorder) if self._recorder else {},
        }


class _LocalCompleter:
    """A generator as a `Completer`; what its batches use is recorded."""

    def __init__(self, generator: Generator, recorder: Recorder) -> None:
        self._generator = generator
        self._recorder = recorder

    def complete(
        self, prompts: Sequence[tuple[Message, ...]], settings: GenerationSettings
    ) -> Iterator[tuple[int, Completion | str]]:
        """See `bench.completer.Completer`."""
        clock = time.perf_counter()
        for made in self._generator.generate([text_of(prompt) for prompt in prompts], settings):
            self._recorder.count(clock, time.perf_counter())
            yield made
            clock = time.perf_counter()


def text_of(prompt: Sequence[Message]) -> str:
    """What a model that is not spoken to in turns reads."""
    return "".join(message.text for message in prompt)

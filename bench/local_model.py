"""Models in this machine's memory, as a run knows them: loglikelihoods from packs, completions in batches."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from bench.completer import Completer, GenerationSettings
from bench.config import EngineSpec, ModelSpec
from bench.engine.codec import TextGenerator
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
from bench.watching import Sitting
from bench.writing.generating import complete_samples

__all__ = ["LocalModel", "check_model", "num_processes", "open_model", "open_session", "preparation"]


class MadeWith(NamedTuple):
    """What a run's numbers were made with, apart from the model itself.

    Attributes:
        dtype: `float32`, ...
        device: its type, `cpu` or `cuda`.
        backend: name and version of what ran the model, where that was not transformers.
    """

    dtype: str
    device: str
    backend: str | None = None


class LocalModel:
    """A session's model."""

    backend: str | None = None
    """Name and version of what runs it; None for transformers."""

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
        return self.session.why_not_continuous() if job.lane == "generate" else None

    def identity(self, job: Job, made_with: MadeWith | None = None) -> dict[str, object]:
        """What of this model can change an answer; with `made_with`, of a run that was made elsewhere."""
        session = self.session
        dtype, device, backend = made_with or MadeWith(session.dtype_name, session.device.type, self.backend)
        adapter = None if session.adapter is None else session.adapter.fingerprint
        parts: dict[str, object] = {
            "model": [session.spec.source, session.files.fingerprint, dtype, session.spec.quantization, adapter],
            "device": device,
            "encoding": [session.engine.bos, session.engine.overlong, session.max_length],
            "kind": [session.kind.name, session.pll],
        }
        if backend is not None:
            parts["backend"] = backend
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
            "backend": self.backend,
            "dtype": session.dtype_name,
            "quantization": session.precision.quantization,
            "gguf": session.files.stored,
            "adapter": None if session.adapter is None else session.adapter.describe(),
            "has_chat_template": bool(session.tokenizer.chat_template),
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
            complete_samples(self.writer(), job, folder, progress, team)

    def writer(self) -> LocalWriter:
        """What writes for the lane `generate`."""
        return LocalWriter(self.session)

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


class TextHost(Protocol):
    """Who has a model that generates text; a session is one."""

    def load(self) -> None:
        """Load the model now, if it is not."""

    def generator(self) -> AbstractContextManager[TextGenerator]:
        """Within this context, what generates text."""


class LocalWriter:
    """A session's model as the lane `generate` needs it, see `bench.writing.generating.Writer`.

    Args:
        session: the model.
        host: who has it in memory, where that is not the session itself.
        place: what to record of where it ran.
    """

    def __init__(
        self, session: Session, host: TextHost | None = None, place: Callable[[], Mapping[str, Any]] | None = None
    ) -> None:
        self.session = session
        self._host: TextHost = host or session
        self._place = place or session.describe_place
        self._generator: TextGenerator | None = None
        self._sitting = Sitting(session)

    @contextlib.contextmanager
    def writing(self, info: Mapping[str, Any]) -> Iterator[Completer]:
        """Load the model, and complete with it, watching its devices."""
        with self._sitting.working(info, self._host.load), self._host.generator() as generator:
            self._generator = generator
            yield _LocalCompleter(generator, self._sitting)

    def fits(self, prompts: Sequence[tuple[Message, ...]], settings: GenerationSettings) -> list[bool]:
        """Whether each prompt leaves room for a completion, or the plan wants what is too long cut instead."""
        if self.session.engine.overlong == "cut_left" or self._generator is None:
            return [True] * len(prompts)
        codec = self._generator.codec
        room = codec.room(settings)
        return [len(ids) <= room for ids in codec.encode([text_of(prompt) for prompt in prompts])]

    def measured(self) -> dict[str, Any]:
        """What to record beside the completions."""
        engine: dict[str, Any] = {"path": "generate", **self._place()}
        if self._generator is not None:
            engine |= self._generator.describe()
        return {**self._sitting.measured(), "engine": engine}


class _LocalCompleter:
    """A generator as a `Completer`; what its batches use is recorded."""

    def __init__(self, generator: TextGenerator, sitting: Sitting) -> None:
        self._generator = generator
        self._sitting = sitting

    def complete(
        self, prompts: Sequence[tuple[Message, ...]], settings: GenerationSettings
    ) -> Iterator[tuple[int, Completion | str]]:
        """See `bench.completer.Completer`."""
        return self._sitting.timed(self._generator.generate([text_of(prompt) for prompt in prompts], settings))


def text_of(prompt: Sequence[Message]) -> str:
    """What a model that is not spoken to in turns reads."""
    return "".join(message.text for message in prompt)

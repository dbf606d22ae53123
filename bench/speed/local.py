"""Sweeps of a model on this machine: over batches and lengths, or over tasks to be scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from bench.config import ModelSpec, RunPlan
from bench.errors import ModelInputError, ScoringError
from bench.local_model import LocalModel, open_model
from bench.runs.folder import RunFolder
from bench.session import Session
from bench.speed.folder import NotMeasured
from bench.speed.measure import Meter
from bench.speed.points import Point, plan_points
from bench.speed.scoring import ScoringMeter, plan_scorings
from bench.speed.spec import SpeedSpec
from bench.tasks.job import Job

_OF_THE_MACHINE = ("cpu", "num_cpus", "gpu", "driver", "torch", "transformers")
_SWEEP = {"prompt_lengths", "batch_sizes", "contexts", "decode_tokens", "served"}


Measure = Callable[[Any], dict[str, Any]]


class LocalSweep:
    """See `bench.speed.runner.Sweep`.

    Args:
        model: the model.
        spec: how long points are measured.
        points: what is measured.
        start: loads the model; what it returns measures one of the points.
    """

    def __init__(self, model: LocalModel, spec: SpeedSpec, points: Sequence[Any], start: Callable[[], Measure]) -> None:
        self._model = model
        self._spec = spec
        self.points = points
        self._start = start

    @property
    def label(self) -> str:
        """What the run is of, beside the model's name."""
        return self._model.session.dtype_name

    def describe(self) -> dict[str, Any]:
        """The part `model` of run.json."""
        return self._model.describe()

    def identity(self, environment: Mapping[str, Any]) -> dict[str, Any]:
        """What figures depend on; which points there are is not part of it, so a sweep can grow."""
        session = self._model.session
        return {
            "model": self._model.describe(),
            "place": [str(session.device), session.spec.parallel],
            "machine": [environment[name] for name in _OF_THE_MACHINE],
            "speed": self._spec.model_dump(mode="json", exclude=_SWEEP),
        }

    def estimate(self, num_points: int) -> None:
        """Nothing that is paid by the request."""

    @contextmanager
    def measuring(self, folder: RunFolder) -> Iterator[Measure]:
        """Load the model, and measure points with it."""
        session = self._model.session
        started = self._start()

        def measure(point: Any) -> dict[str, Any]:
            try:
                return started(point)
            except ScoringError as error:
                raise NotMeasured(str(error)) from None
            except torch.OutOfMemoryError:
                if session.device.type == "cuda":
                    torch.cuda.empty_cache()
                raise NotMeasured("out of memory") from None

        yield measure
        timing = {"load_s": round(session.timing.load_s, 4)}
        folder.update({"timing": timing, "engine": session.describe_place(), "notes": list(session.notes)})

    def close(self) -> None:
        """Give the model's memory back."""
        self._model.close()


def open_sweep(spec: ModelSpec, plan: RunPlan) -> LocalSweep:
    """A sweep over batches and lengths.

    Raises:
        SteelyardError: the model cannot be had, or reads no sequences as long as the plan's.
    """
    model = open_model(spec, plan.engine)
    points = list(plan_points(plan.speed))
    check_points(model.session, points)
    return LocalSweep(model, plan.speed, points, lambda: Meter(model.session, plan.speed).measure)


def open_scoring(spec: ModelSpec, plan: RunPlan, jobs: Sequence[Job]) -> LocalSweep:
    """Tasks to be scored, again and again.

    Raises:
        SteelyardError: the model cannot be had.
    """
    model = open_model(spec, plan.engine)
    return LocalSweep(
        model, plan.speed, plan_scorings(jobs, plan.engine), lambda: ScoringMeter(model, plan.speed).measure
    )


def check_points(session: Session, points: Sequence[Point]) -> None:
    """Refuse a sweep with a sequence that is longer than the model reads.

    Raises:
        ModelInputError: there is one.
    """
    if session.kind.name != "causal":
        raise ModelInputError(
            f"model {session.spec.name}: bench speed measures causal language models; this is {session.kind.name}"
        )
    longest = max(points, key=lambda point: point.num_positions)
    if longest.num_positions > session.max_length:
        raise ModelInputError(
            f"model {session.spec.name}: speed: {longest.key} is {longest.num_positions} tokens, "
            f"and the model reads {session.max_length}"
        )

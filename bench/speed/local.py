"""A sweep of a model on this machine: over batches and lengths, or over tasks that it scores."""

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
from bench.speed.scoring import Scoring, ScoringMeter, plan_scorings
from bench.tasks.job import Job

_OF_THE_MACHINE = ("cpu", "num_cpus", "gpu", "driver", "torch", "transformers")
_SWEEP = {"prompt_lengths", "batch_sizes", "contexts", "decode_tokens", "served"}


class LocalSweep:
    """See `bench.speed.runner.Sweep`.

    Args:
        spec: the model.
        plan: the plan.
        jobs: the tasks to score; None: read and write instead.
    """

    def __init__(self, spec: ModelSpec, plan: RunPlan, jobs: Sequence[Job] | None = None) -> None:
        self._model: LocalModel = open_model(spec, plan.engine)
        self._spec = plan.speed
        self._is_scoring = jobs is not None
        self.points: Sequence[Point | Scoring]
        if jobs is not None:
            self.points = plan_scorings(jobs, plan.engine)
        else:
            self.points = points = list(plan_points(plan.speed))
            check_points(self._model.session, points)

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
    def measuring(self, folder: RunFolder) -> Iterator[Callable[[Any], dict[str, Any]]]:
        """Load the model, and measure points with it."""
        session = self._model.session
        meter: Any = ScoringMeter(self._model, self._spec) if self._is_scoring else Meter(session, self._spec)

        def measure(point: Point | Scoring) -> dict[str, Any]:
            try:
                found: dict[str, Any] = meter.measure(point)
                return found
            except ScoringError as why:
                raise NotMeasured(str(why)) from None
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

"""What a run asks of a model, be it in this machine's memory or behind an API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from bench.config import EngineSpec, ModelSpec
from bench.engine.pipeline import Progress
from bench.runs.folder import RunShare
from bench.tasks.job import Job
from bench.team import Team


class Model(Protocol):
    """A model of a plan, found but not loaded: weights are, and connections opened, when `score` first needs them."""

    @property
    def spec(self) -> ModelSpec:
        """The model as the plan has it."""

    def refusal(self, job: Job) -> str | None:
        """Why a job cannot be put to this model, in words; None if it can."""

    def identity(self, job: Job) -> Mapping[str, object]:
        """What of this model, and of how it is asked, can change an answer: its part of the run's identity."""

    def describe(self) -> dict[str, object]:
        """The part `model` of run.json."""

    def describe_likelihood(self, job: Job) -> str | None:
        """What its likelihoods are (`exact`, `pll`, ...); None for a job that asks for none."""

    def estimate(self, job: Job) -> str | None:
        """What the job may cost in money, and what that goes by; None if nothing."""

    def score(self, job: Job, folder: RunShare, progress: Progress, team: Team) -> None:
        """Score what the run folder does not hold yet, and finish it.

        Raises:
            SteelyardError: the model cannot be loaded or reached, the disk is full, or no sample got a score.
        """

    def close(self) -> None:
        """Give memory and connections back."""


class ModelSource(Protocol):
    """How models of one kind of source are had; a module with these functions is one."""

    def check_model(self, spec: ModelSpec, engine: EngineSpec) -> None:
        """Refuse what is wrong with a model as far as that can be told at once, with nothing fetched or loaded.

        Raises:
            InputError: the plan says something of the model that cannot be followed.
        """

    def num_processes(self, spec: ModelSpec, engine: EngineSpec) -> int:
        """How many processes work on a run of the model."""

    def preparation(self, spec: ModelSpec) -> str | None:
        """What `open_model` has to do that takes long, in words; None if it does not."""

    def open_model(self, spec: ModelSpec, engine: EngineSpec, team: Team) -> Model:
        """Find or fetch a model.

        Raises:
            SteelyardError: it cannot be had.
        """

"""What a plan would do, counted without loading weights."""

from __future__ import annotations

import statistics
from concurrent.futures import Future
from dataclasses import dataclass

from bench.api.presets import split_source
from bench.config import ModelSpec, RunPlan
from bench.engine.estimate import USUAL_SHARE, Flops
from bench.engine.memory import Memory
from bench.engine.pack import Budget
from bench.engine.pipeline import plan_blocks
from bench.errors import SteelyardError
from bench.local_model import LocalModel, open_session
from bench.models.files import preparation
from bench.models.fit import estimate_memory
from bench.models.precision import Precision
from bench.runner import Listener, Silence, prepare_jobs
from bench.session import Session, num_processes
from bench.sources import source_of
from bench.tasks.job import Job
from bench.team import ALONE

_NUM_TOKENS = 1024  # of the products that are timed
_NUM_MEASUREMENTS = 3  # their median: a small model's products take microseconds, and one may be held up


@dataclass(frozen=True, slots=True)
class Forecast:
    """One model on one task, counted.

    Attributes:
        num_logical: tokens if every request were a forward pass of its own.
        num_distinct: tokens that are forwarded.
        num_processes: how many would share the work.
        predicted_s: seconds of scoring, from the rate of matrix products measured now in one process; those on a CPU
            share that rate.
        memory: what the weights and the largest pack take on `device`, of which `free_bytes` are free.
    """

    model: str
    task: str
    precision: Precision
    num_samples: int
    num_requests: int
    num_logical: int
    num_distinct: int
    num_packs: int
    max_batch_tokens: int
    num_shortened: int
    flops: Flops
    matmul_flops_per_s: float
    num_processes: int
    predicted_s: float
    memory: Memory
    free_bytes: int
    device: str


def forecast_plan(plan: RunPlan, listener: Listener) -> tuple[list[Forecast], list[SteelyardError]]:
    """Forecast every model on every task; returns the forecasts, and why there are none for some models.

    Raises:
        InputError: something in the plan, a task, its rows or a model is wrong.
    """
    jobs = prepare_jobs(plan, listener)
    forecasts: list[Forecast] = []
    errors: list[SteelyardError] = []
    for model in plan.models:
        try:
            if split_source(model.source) is not None or model.backend != "transformers":
                _say_what_is_known(model, plan, jobs, listener)
                continue
            if work := preparation(model):
                listener.say(work)
            session = open_session(model, plan.engine)
            probe = session.probe(_NUM_TOKENS)
            for _ in range(_NUM_MEASUREMENTS):
                probe.measure()
            for job in jobs:
                if job.lane == "likelihood":
                    forecasts.append(_forecast(session, LocalModel(session).put(job), statistics.median(probe.rates)))
                else:
                    listener.say(f"{model.name} · {job.title}: how much it will write is not known beforehand")
        except SteelyardError as error:
            listener.fail(str(error))
            errors.append(error)
    return forecasts, errors


def _say_what_is_known(spec: ModelSpec, plan: RunPlan, jobs: list[Job], listener: Listener) -> None:
    """Say what a model may cost whose work is planned by others: behind an API, or by another backend."""
    model = source_of(spec).open_model(spec, plan.engine, ALONE)
    known = "costs nothing" if spec.backend == "transformers" else f"{spec.backend} plans its work by itself"
    for job in jobs:
        listener.say(f"{spec.name} · {job.title}: {model.refusal(job) or model.estimate(job) or known}")


def _forecast(session: Session, job: Job, rate: float) -> Forecast:
    budget: Future[Budget] = Future()
    budget.set_result(session.choose_budget(None))
    blocks = list(plan_blocks(job.samples, session.encoder, budget, Silence(), session.kind.plan))
    num = num_processes(session.spec, session.engine)
    flops = Flops(0, 0, 0)
    for block in blocks:
        flops += session.cost.of(block.plan.packs)
    return Forecast(
        model=session.spec.name,
        task=job.title,
        precision=session.precision,
        num_samples=len(job.samples),
        num_requests=sum(len(block.requests) for block in blocks),
        num_logical=sum(block.plan.num_logical for block in blocks),
        num_distinct=sum(block.plan.num_distinct for block in blocks),
        num_packs=sum(len(block.plan.packs) for block in blocks),
        max_batch_tokens=budget.result().tokens,
        num_shortened=sum(
            bool(encoded.num_shots_dropped or encoded.num_cut_tokens) for block in blocks for encoded in block.encoded
        ),
        flops=flops,
        matmul_flops_per_s=rate,
        num_processes=num,
        predicted_s=flops.total / rate / USUAL_SHARE / (num if session.device.type == "cuda" else 1),
        memory=estimate_memory(session, [pack for block in blocks for pack in block.plan.packs]),
        free_bytes=session.free_bytes(),
        device=str(session.device),
    )

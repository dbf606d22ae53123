"""How long is the host busy before the model? All of MMLU, 5-shot, from files to packs, in one process.

Goal: 10 s on two cores. In a run this work is done in threads beside scoring. The ids are then checked against
lm-evaluation-harness's own encoding, which encodes each whole text, on random samples; exit code 1 if one differs.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Container, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import (
    NUM_FEWSHOT,
    arguments,
    mmlu_folder,
    positive_int,
    publish,
    run_study,
    table,
    verdict,
)

from bench.config import EngineSpec, ModelSpec, TaskSpec
from bench.engine.encode import EncodedSample
from bench.engine.pack import Budget
from bench.engine.pipeline import plan_blocks
from bench.records import PromptedSample
from bench.runner import Silence
from bench.session import Session
from bench.tasks.dataset import load_rows
from bench.tasks.job import Job, TaskJob
from bench.tasks.prompts import build_prompts
from bench.tasks.task import load_task
from bench.telemetry.machine import num_threads, peak_rss_bytes

_GOAL_S = 10.0
_SEED = 0


class _Clock:
    """Seconds by name of what they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - began


@dataclass(slots=True)
class _Packed:
    """What came out of the host's threads, and the samples kept for the check."""

    kept: list[tuple[PromptedSample, EncodedSample]] = field(default_factory=list)
    encode_s: float = 0.0
    plan_s: float = 0.0
    num_packs: int = 0
    num_logical: int = 0
    num_distinct: int = 0


def study(options: argparse.Namespace) -> int:
    """Do all host work once, check samples of it, report; returns the exit code."""
    clock = _Clock()
    with clock.measure("tokenizer"):
        session = Session(ModelSpec(source=options.model), EngineSpec())
        _ = session.encoder
    before_bytes = peak_rss_bytes()
    job = _build_job(mmlu_folder(options.mmlu), clock)
    ids = [sample.sample.id for sample in job.samples]
    wanted = set(random.Random(_SEED).sample(ids, min(options.check, len(ids))))
    with clock.measure("encode and plan"):
        packed = _pack(session, job, wanted)
    peak_bytes = peak_rss_bytes()
    unequal = list(_unequal(session, packed.kept))
    total_s = sum(seconds for name, seconds in clock.seconds.items() if name != "tokenizer")
    goals = {
        f"files to packs within {_GOAL_S:g} s": total_s <= _GOAL_S,
        f"ids equal whole-text encoding on {len(packed.kept)} random samples": not unequal,
    }
    result: dict[str, Any] = {
        "num_threads": num_threads(),
        "num_samples": len(job.samples),
        "tokens": {"logical": packed.num_logical, "distinct": packed.num_distinct},
        "num_packs": packed.num_packs,
        "timing_s": {**clock.seconds, "total": total_s},
        "busy_s": {"encode": packed.encode_s, "plan": packed.plan_s},
        "peak_memory_bytes": peak_bytes,
        "memory_before_bytes": before_bytes,
        "num_checked": len(packed.kept),
        "unequal": unequal,
        "goals": goals,
    }
    publish(options, "host_work", result, _render(result, options.model))
    return 0 if all(goals.values()) else 1


def _build_job(folder: Path, clock: _Clock) -> Job:
    """All of MMLU, as a run prepares it."""
    spec = TaskSpec.model_validate({"task": "mmlu", "num_fewshot": NUM_FEWSHOT, "data_dir": str(folder)})
    task = load_task(spec.task)
    with clock.measure("rows"):
        dataset = load_rows(task, spec)
    with clock.measure("prompts"):
        job = TaskJob(spec, dataset, tuple(build_prompts(task, spec.scoring, dataset, NUM_FEWSHOT)), task)
    with clock.measure("prompt hash"):
        _ = job.prompt_hash
    return job


def _pack(session: Session, job: Job, wanted: Container[str]) -> _Packed:
    """Encode and plan block by block, in threads, as a run does; blocks are let go of as soon as they are ready."""
    packed = _Packed()
    budget: Future[Budget] = Future()
    budget.set_result(session.choose_budget(None))
    for block in plan_blocks(job.samples, session.encoder, budget, Silence(), session.kind.plan):
        pairs = zip(block.samples, block.encoded, strict=True)
        packed.kept += [(sample, encoded) for sample, encoded in pairs if sample.sample.id in wanted]
        packed.encode_s += block.encode_s
        packed.plan_s += block.plan_s
        packed.num_packs += len(block.plan.packs)
        packed.num_logical += block.plan.num_logical
        packed.num_distinct += block.plan.num_distinct
    return packed


def _unequal(session: Session, kept: Iterable[tuple[PromptedSample, EncodedSample]]) -> Iterator[str]:
    """Ids of samples whose token ids are not those that lm-eval makes of the whole texts."""
    from lm_eval.models.huggingface import HFLM

    reference = HFLM.__new__(HFLM)  # its encoding without its model
    reference.tokenizer, reference.add_bos_token, reference.custom_prefix_token_id = session.tokenizer, None, None
    for sample, encoded in kept:
        for request, own in zip(sample.requests, encoded.requests, strict=True):
            context, continuation = reference._encode_pair(encoded.prompt.text, request.continuation)
            inputs = (context + continuation)[-(session.max_length + 1) : -1]
            if own.inputs.tolist() != inputs or list(own.targets) != continuation:
                yield sample.sample.id
                break


def _render(result: dict[str, Any], model: str) -> list[str]:
    timing, busy, tokens = result["timing_s"], result["busy_s"], result["tokens"]
    rows: list[list[object]] = [
        ["rows: read and check the files", f"{timing['rows']:.2f}"],
        ["prompts: build the texts", f"{timing['prompts']:.2f}"],
        ["hash of all prompts", f"{timing['prompt hash']:.2f}"],
        ["encode and plan, in two threads", f"{timing['encode and plan']:.2f}"],
        ["**files to packs**", f"**{timing['total']:.2f}**"],
    ]
    extra = (result["peak_memory_bytes"] - result["memory_before_bytes"]) / 2**20
    return [
        "# Host work: all of MMLU from files to packs",
        "",
        f"Tokenizer of {model}; {result['num_samples']:,} questions, {NUM_FEWSHOT}-shot, letters scored; "
        f"{result['num_threads']} threads.",
        "",
        *table(["work", "seconds"], rows),
        "",
        f"Of the threads, one was busy encoding for {busy['encode']:.2f} s, one planning for {busy['plan']:.2f} s.",
        f"{tokens['logical']:,} tokens of all requests, {tokens['distinct']:,} distinct ones, "
        f"in {result['num_packs']:,} packs.",
        f"Peak memory {result['peak_memory_bytes'] / 2**20:,.0f} MiB, {extra:,.0f} MiB of it by this work; "
        f"loading the tokenizer took {timing['tokenizer']:.2f} s before (not counted).",
        "",
        *verdict(result["goals"]),
    ]


def main() -> int:
    """Run the study from the command line."""
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument("--check", type=positive_int, default=500, metavar="N", help="samples whose ids are checked")
    return run_study(study, parser)


if __name__ == "__main__":
    sys.exit(main())

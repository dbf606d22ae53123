"""Host work beside the model's: samples are encoded and planned in blocks, in threads, ahead of scoring."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from bench.engine.encode import EncodedSample, SampleEncoder
from bench.engine.pack import Budget, Plan, Planner, TokenRequest, plan_packs
from bench.records import PromptedSample

_BLOCK_SAMPLES = 1024  # a block ends at the first change of subject after so many samples

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Block:
    """Samples that are encoded and planned together.

    Attributes:
        requests: all requests of the block's samples.
        owners: for each request, its sample's place in `samples` and its place among the sample's requests.
        encode_s, plan_s: seconds of host work, spent beside scoring.
    """

    samples: tuple[PromptedSample, ...]
    encoded: tuple[EncodedSample, ...]
    requests: tuple[TokenRequest, ...]
    owners: tuple[tuple[int, int], ...]
    plan: Plan[Any]
    encode_s: float
    plan_s: float


class Progress(Protocol):
    """Hears how far a run is, in distinct tokens; may be called from any thread."""

    def plan(self, num_tokens: int, *, is_all: bool) -> None:
        """`num_tokens` more are to be done; with `is_all`, the total is known now."""

    def advance(self, num_tokens: int) -> None:
        """`num_tokens` more are done."""


def plan_blocks(
    samples: Sequence[PromptedSample],
    encoder: SampleEncoder[Any],
    budget: Future[Budget],
    progress: Progress,
    planner: Planner = plan_packs,
) -> Iterator[Block]:
    """Encode and plan samples block by block, each ahead of its use.

    Encoding starts at once; planning waits for `budget`, which is known when the model is in memory. The blocks
    depend on the samples and the budget only.
    """
    parts = list(split_blocks(samples))

    def encode() -> Iterator[tuple[tuple[PromptedSample, ...], tuple[EncodedSample, ...], float]]:
        for block in parts:
            began = time.perf_counter()
            encoded = tuple(encoder.encode(block))
            yield block, encoded, time.perf_counter() - began

    def plan() -> Iterator[Block]:
        for number, (block, encoded, encode_s) in enumerate(prefetch(encode()), 1):
            chosen = budget.result()
            began = time.perf_counter()
            owners = [(i, j) for i, sample in enumerate(encoded) for j in range(len(sample.requests))]
            requests = tuple(encoded[i].requests[j] for i, j in owners)
            made = planner(requests, chosen)
            progress.plan(made.num_distinct, is_all=number == len(parts))
            yield Block(block, encoded, requests, tuple(owners), made, encode_s, time.perf_counter() - began)

    return prefetch(plan())


def split_blocks(samples: Sequence[PromptedSample]) -> Iterator[tuple[PromptedSample, ...]]:
    """Cut samples into blocks, never inside a run of samples of one subject."""
    block: list[PromptedSample] = []
    for sample in samples:
        if len(block) >= _BLOCK_SAMPLES and sample.sample.subject != block[-1].sample.subject:
            yield tuple(block)
            block = []
        block.append(sample)
    if block:
        yield tuple(block)


def prefetch(items: Iterable[T]) -> Iterator[T]:
    """Run an iterator in a thread of its own, from now on; its exception is raised where it would have been."""
    ready: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
    stopped = threading.Event()

    def work() -> None:
        try:
            for item in items:
                if stopped.is_set():
                    return
                ready.put((item, None))
            ready.put((None, StopIteration()))
        except BaseException as error:
            ready.put((None, error))

    threading.Thread(target=work, daemon=True).start()

    def consume() -> Iterator[T]:
        try:
            while True:
                item, error = ready.get()
                if isinstance(error, StopIteration):
                    return
                if error is not None:
                    raise error
                yield cast(T, item)
        finally:
            stopped.set()

    return consume()

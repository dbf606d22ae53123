"""When requests leave, on a clock of the tests' own."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from virtual_time import run

from bench.api.pace import Halted, Pace

LATENCY_S = 0.2


async def ask(pace: Pace, num_requests: int, num_workers: int) -> list[tuple[int, float]]:
    """Who asked, and when, of workers that ask again as soon as they are answered; all answers take as long."""
    clock = asyncio.get_running_loop().time
    waiting = iter(range(num_requests))
    sent: list[tuple[int, float]] = []

    async def work(worker: int) -> None:
        for _ in waiting:
            generation = await pace.enter()
            sent.append((worker, clock()))
            await asyncio.sleep(LATENCY_S)
            await pace.leave(generation, is_answered=True, is_throttled=False)

    await asyncio.gather(*(work(worker) for worker in range(num_workers)))
    return sent


def test_requests_leave_one_after_the_other_and_a_little_apart() -> None:
    sent = run(ask(Pace(64), 300, 64))
    moments = [moment for _, moment in sent]
    assert min(later - sooner for sooner, later in pairwise(moments)) >= 0.002 - 1e-9
    assert [worker for worker, _ in sent[:64]] == list(range(64))


def test_little_time_is_lost_by_it() -> None:
    sent = run(ask(Pace(64), 1000, 64))
    ideal_s = 1000 / 64 * LATENCY_S
    assert ideal_s < sent[-1][1] + LATENCY_S < 1.1 * ideal_s


def test_never_more_than_the_window() -> None:
    sent = run(ask(Pace(8), 100, 64))
    moments = [moment for _, moment in sent]
    for place in range(8, 100):
        assert moments[place] - moments[place - 8] >= LATENCY_S - 1e-9


def test_a_pause_holds_everybody_and_a_halt_ends_all_waiting() -> None:
    async def pause_and_halt() -> tuple[float, list[object], float]:
        clock = asyncio.get_running_loop().time
        pace = Pace(4)
        for _ in range(2):
            await pace.enter()
        pace.pause(30.0)
        await pace.enter()
        entered_at = clock()
        waiting = [asyncio.ensure_future(pace.enter()) for _ in range(50)]
        await asyncio.sleep(1.0)
        await pace.halt()
        return entered_at, await asyncio.gather(*waiting, return_exceptions=True), clock()

    entered_at, outcomes, ended_at = run(pause_and_halt())
    assert entered_at >= 30.0
    assert sum(isinstance(outcome, Halted) for outcome in outcomes) == 49  # one place of four was left
    assert ended_at == pytest.approx(entered_at + 1.0)

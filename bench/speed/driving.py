"""Puts a load on a service: requests sent as the load says, in one event loop, whatever becomes of them.

Moments are those of the event loop's clock, so a test's loop may have a clock of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice

from bench.speed.figures import Taken
from bench.speed.load import Load, arrivals

_LOOK_S = 0.02  # between two looks at how late the event loop is

Ask = Callable[[int, float], Awaitable[Taken]]
"""Sends request `number`, due at a moment of the loop's clock, and says what became of it; what it raises ends all."""


@dataclass(slots=True)
class Drive:
    """One point under way.

    Attributes:
        taken: what became of requests so far, in the order in which they ended.
        problem: why no more are sent; those under way are still awaited, since they may be charged.
    """

    ask: Ask
    taken: list[Taken] = field(default_factory=list)
    problem: Exception | None = None
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def closed(self, concurrency: int, num_requests: int, max_s: float | None) -> None:
        """Keep so many requests under way, until so many have been sent or so many seconds have passed."""
        clock = asyncio.get_running_loop().time
        began = clock()
        waiting = iter(range(num_requests))

        async def work() -> None:
            for number in waiting:
                if self.problem is not None or (max_s is not None and clock() - began >= max_s):
                    return
                await self._one(number, clock())

        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, num_requests)):
                group.create_task(work())

    async def open(self, moments: Iterator[float], max_s: float | None) -> None:
        """Send each request when it is due, whether or not earlier ones have been answered."""
        began = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            for number, moment in enumerate(moments):
                if max_s is not None and moment >= max_s:
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(began + moment):
                        await self._stopped.wait()
                if self.problem is not None:
                    return
                group.create_task(self._one(number, began + moment))

    async def _one(self, number: int, due: float) -> None:
        try:
            self.taken.append(await self.ask(number, due))
        except Exception as problem:
            self.problem = self.problem or problem
            self._stopped.set()


async def drive(load: Load, ask: Ask, num_requests: int, *, max_s: float | None = None, seed: int = 0) -> list[Taken]:
    """Put a load on a service; what became of each request.

    Raises:
        Exception: what `ask` raised, once all that was under way has ended.
    """
    under_way = Drive(ask)
    if load.concurrency is not None:
        await under_way.closed(load.concurrency, num_requests, max_s)
    else:
        assert load.request_rate_per_s is not None
        await under_way.open(islice(arrivals(load.request_rate_per_s, seed), num_requests), max_s)
    if under_way.problem is not None:
        raise under_way.problem
    return under_way.taken


@asynccontextmanager
async def watched_lag() -> AsyncIterator[list[float]]:
    """How late the event loop calls what is due, in seconds, one value a look; moments are late by as much."""
    loop = asyncio.get_running_loop()
    lags: list[float] = []

    async def look() -> None:
        while True:
            due = loop.time() + _LOOK_S
            await asyncio.sleep(_LOOK_S)
            lags.append(max(0.0, loop.time() - due))

    task = asyncio.create_task(look())
    try:
        yield lags
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

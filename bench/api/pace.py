"""How many requests are under way at once: more while all goes well, fewer when the provider says it is too many.

Additive increase and multiplicative decrease, as TCP does (Chiu & Jain 1989), with its slow start: until the first
refusal each answer makes room for one request more. Requests leave one after the other, a little apart: a burst is
what rate limits punish, and its answers, coming together, would wait for one another here.
"""

from __future__ import annotations

import asyncio

_START = 32
_DECREASE = 0.7
_APART_S = 0.002  # at most 500 requests a second, about what one process can send


class Halted(Exception):
    """Nothing more is to be sent."""


class Pace:
    """Lets requests through, as many as go.

    Args:
        most: never more than these at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._window = float(min(most, _START))
        self._is_starting = True
        self._num_under_way = 0
        self._generation = 0  # of the window: refusals of what was sent before it last shrank say nothing new
        self._open_at = 0.0
        self._is_halted = False
        self._changed = asyncio.Condition()
        self._door = asyncio.Lock()

    @property
    def window(self) -> int:
        """How many may be under way."""
        return max(1, int(self._window))

    def is_halted(self) -> bool:
        """Whether nothing more is to be sent."""
        return self._is_halted

    async def enter(self) -> int:
        """Wait for a place; returns the generation, to be given back on leaving.

        Raises:
            Halted: nothing more is to be sent.
        """
        clock = asyncio.get_running_loop().time
        async with self._door:
            while True:
                await self.sleep(self._open_at - clock())
                async with self._changed:
                    await self._changed.wait_for(lambda: self._is_halted or self._num_under_way < self.window)
                    if self._is_halted:
                        raise Halted
                    if self._open_at <= clock():
                        self._open_at = clock() + _APART_S
                        self._num_under_way += 1
                        return self._generation

    async def leave(self, generation: int, *, is_answered: bool, is_throttled: bool) -> None:
        """Give the place back, and say what came of it."""
        async with self._changed:
            self._num_under_way -= 1
            if is_throttled:
                if generation == self._generation:
                    self._window = max(1.0, self._window * _DECREASE)
                    self._generation += 1
                self._is_starting = False
            elif is_answered:
                step = 1.0 if self._is_starting else 1.0 / self._window
                self._window = min(float(self._most), self._window + step)
            self._changed.notify_all()

    def pause(self, seconds: float) -> None:
        """Send nothing for so long: the provider's limit is on the account, not on one request."""
        self._open_at = max(self._open_at, asyncio.get_running_loop().time() + seconds)

    async def sleep(self, seconds: float) -> None:
        """Wait, unless everything is halted.

        Raises:
            Halted: nothing more is to be sent.
        """
        if seconds > 0:
            try:
                async with asyncio.timeout(seconds), self._changed:
                    await self._changed.wait_for(self.is_halted)
            except TimeoutError:
                return
        if self._is_halted:
            raise Halted

    async def halt(self) -> None:
        """Send nothing more; what is under way may end."""
        async with self._changed:
            self._is_halted = True
            self._changed.notify_all()

"""Several processes on one run: what the ranks of a team have to say to each other.

All ranks follow the same code, each with its own share of the work. Where one could go another way than the others,
because something went wrong for it alone, they agree on the way first. One process is a team of one, which has nobody
to wait for. What is said goes through the launcher's own store of keys and values, on this machine only.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Self, TypeVar

from bench.errors import SteelyardError, one_line

_POLL_S = 0.02
_PATIENCE_S = 30.0  # how long a rank that has failed waits to hear that the others have failed, too
_TIMEOUT = timedelta(minutes=5)  # of one request to the store, which is a process that does little else

T = TypeVar("T")


class OutOfStep(BaseException):
    """A rank cannot go on and the others wait for it inside the model: only the end of its process can free them."""


class Team:
    """This process among those that work on the same run.

    Attributes:
        rank: this process's number; rank 0 speaks for all and writes run.json.
        size: how many there are.
        is_lockstep: all ranks run each forward pass together, each with a part of the model, so none can go on alone.
            Otherwise each has the whole model and packs of its own.
    """

    def __init__(self, rank: int = 0, size: int = 1, store: Any = None, *, is_lockstep: bool = False) -> None:
        self.rank = rank
        self.size = size
        self.is_lockstep = is_lockstep
        self._store = store
        self._num_gathered = 0
        self._told: Any = None

    @classmethod
    def join(cls, *, is_lockstep: bool) -> Self:
        """Join the team that the launcher's environment variables name."""
        from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = PrefixStore("steelyard", TCPStore(address, port, is_master=False, timeout=_TIMEOUT))
        return cls(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), store, is_lockstep=is_lockstep)

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def agree(self, action: Callable[[], T], meanwhile: Callable[[], None] = lambda: None) -> T:
        """Run `action` on every rank, and wait for all: what fails on one fails on all.

        `action` must not ask for another agreement. `meanwhile` is called now and then while waiting.

        Raises:
            Exception: this rank's own, as it was.
            SteelyardError: that of another rank, which it names.
            OutOfStep: this rank failed in the midst of what all ranks do together.
        """
        problem: Exception | None = None
        try:
            result = action()
        except Exception as caught:
            if self.size == 1:
                raise
            problem = caught
        code = problem.exit_code if isinstance(problem, SteelyardError) else 1
        report = None if problem is None else [one_line(problem), code]
        if problem is not None:
            if not self.is_lockstep:
                self._gather(report, meanwhile)
            elif not self._do_all_fail(report):
                raise OutOfStep(one_line(problem)) from problem
            raise problem
        for rank, other in enumerate(self._gather(report, meanwhile) or ()):
            if other is not None:
                error = SteelyardError(f"rank {rank} of {self.size}: {other[0]}")
                error.exit_code = other[1]
                raise error
        return result

    def in_turn(self, action: Callable[[], T]) -> T:
        """Like `agree`, but the others begin when rank 0 is done, and only if it did not fail."""
        if self.size == 1:
            return action()
        if self.is_first:
            result = self.agree(action)
            self.agree(lambda: None)
            return result
        self.agree(lambda: None)
        return self.agree(action)

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's `value` (plain JSON), by rank; waits for all."""
        return self._gather(value) or []

    def tell(self, value: Any) -> None:
        """Let the others know `value` (plain JSON), in place of what they were told before."""
        if self._store is None:
            self._told = value
        else:
            self._store.set(f"told/{self.rank}", json.dumps(value))

    def told(self) -> list[Any]:
        """What each rank told last, by rank; all must have told something, and agreed on anything after it."""
        if self._store is None:
            return [self._told]
        return [json.loads(self._store.get(f"told/{rank}")) for rank in range(self.size)]

    def _do_all_fail(self, report: Any) -> bool:
        """Whether the others fail at this point, too, as they do for the same reason, and all can go on together."""
        if self._gather(report, patience_s=_PATIENCE_S) is None:
            self._store.set("gone", str(self.rank))
            return False
        if self._store.check(["gone"]):  # this rank fails because that one is gone, of which the launcher is to tell
            time.sleep(_PATIENCE_S)
            return False
        return True

    def _gather(
        self, value: Any, meanwhile: Callable[[], None] = lambda: None, patience_s: float | None = None
    ) -> list[Any] | None:
        """The same; None if it takes longer than `patience_s`."""
        if self._store is None:
            return [value]
        self._num_gathered += 1
        keys = [f"{self._num_gathered}/{rank}" for rank in range(self.size)]
        self._store.set(keys[self.rank], json.dumps(value))
        began = time.monotonic()
        while not self._store.check(keys):
            if patience_s is not None and time.monotonic() - began > patience_s:
                return None
            meanwhile()
            time.sleep(_POLL_S)  # and not inside the store, where no signal would be heard
        return [json.loads(self._store.get(key)) for key in keys]


ALONE = Team()

"""A run's progress on a terminal: one bar in distinct tokens, or samples. Not on a terminal: a line a run."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, track
from rich.table import Column
from rich.text import Text

from bench.report.text import count, duration, one_line, rate

T = TypeVar("T")
_TELLING = 0.02  # share of the tokens that must be done before there is a speed
_NARROW = 100  # columns; on a screen below that the bar comes without the speed


def counted(items: Iterable[T], num: int, title: str) -> Iterator[T]:
    """The items, with a bar on a terminal that says how many of `num` there have been."""
    console = Console(stderr=True)
    yield from track(items, title, num, console=console, transient=True, disable=not sys.stderr.isatty())


class TerminalListener:
    """Prints what a run has to say to stderr, so that stdout holds results only.

    Args:
        has_bar: False where something else is printed meanwhile, such as the log.
    """

    def __init__(self, *, has_bar: bool = True) -> None:
        self._console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self._has_bar = has_bar and sys.stderr.isatty()
        self._progress: Progress | None = None
        self._bar: TaskID = TaskID(0)

    def __reduce__(self) -> tuple[Any, ...]:
        """Where another process speaks for the command, it makes a listener of its own."""
        return partial(TerminalListener, has_bar=self._has_bar), ()

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(one_line(text))

    def fail(self, text: str) -> None:
        """Print a line about something that went wrong."""
        self.say(f"bench: {text}")

    def start(self, title: str, unit: str) -> None:
        """Show a bar in `unit`, or say that the run starts."""
        if not self._has_bar:
            self.say(title)
            return
        cell = Column(no_wrap=True, overflow="ellipsis", ratio=2)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False, table_column=cell),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=8)),
            _Speed(unit, is_short=self._console.width < _NARROW),
            console=self._console,
            transient=True,
            expand=True,
        )
        self._bar = self._progress.add_task(one_line(title), total=None, planned=0, ahead=0, since=None, last=0.0)
        self._progress.start()

    def plan(self, num_tokens: int, *, is_all: bool) -> None:
        """More tokens are to be done."""
        if self._progress is not None:
            task = self._progress.tasks[0]
            planned = task.fields["planned"] + num_tokens
            self._progress.update(self._bar, planned=planned, total=planned if is_all else None)

    def advance(self, num_tokens: int) -> None:
        """Tokens are done; the first call tells how many an earlier sitting has done."""
        if self._progress is None:
            return
        now = time.perf_counter()
        if self._progress.tasks[0].fields["since"] is None:
            self._progress.update(self._bar, since=now, ahead=num_tokens)
        self._progress.update(self._bar, advance=num_tokens, last=now)

    def stop(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class _Speed(ProgressColumn):
    """Units done and planned, units/s of this sitting, and the time left once all is planned."""

    def __init__(self, unit: str, *, is_short: bool) -> None:
        super().__init__(table_column=Column(no_wrap=True, justify="right"))
        self._unit = unit
        self._is_short = is_short

    def render(self, task: Task) -> Text:
        """One cell of the bar."""
        since, last, done = task.fields["since"], task.fields["last"], task.completed
        if since is None:
            return Text("loading the model")
        fresh = done - task.fields["ahead"]
        # As of the last pack's end; a first pack of few tokens, such as a prompt's common beginning, tells nothing.
        speed = fresh / max(last - since, 1e-3) if fresh > _TELLING * task.fields["planned"] else None
        parts = [f"{count(done)} of {count(task.fields['planned'])} {self._unit}"]
        if speed and not self._is_short:
            parts.append(f"{rate(speed)}/s")
        if speed and task.total:
            left_s = (task.total - done) / speed - (time.perf_counter() - last)
            parts.append(f"{duration(max(0.0, left_s))} left")
        return Text(" · ".join(parts))

"""Starts the processes of a team through PyTorch's own launcher, the one behind `torchrun`, and waits for them.

The launcher starts a process a rank, sees when one ends that should not, stops the others and says which it was.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch

from bench.errors import RankLostError, SteelyardError
from bench.team import OutOfStep, Team
from bench.telemetry.machine import num_threads

log = logging.getLogger(__name__)

START_METHOD = "spawn"  # a fork would take along what of CUDA and OpenMP cannot be forked
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)  # those the launcher answers
_KEPT = "what was scored is kept, the same command continues"


def launch(size: int, entry: Callable[..., Any], *args: Any, is_lockstep: bool = False) -> Any:
    """Run `entry(team, *args)` in `size` processes on this machine and return rank 0's result.

    Args:
        size: how many.
        entry: a function at the top of a module; its arguments and result are pickled.
        args: what it is given after the team.
        is_lockstep: see `Team`.

    Raises:
        SteelyardError: what a rank raised.
        RankLostError: a rank has ended otherwise, by a signal or a defect; the others have been stopped.
        KeyboardInterrupt: this process was told to stop; all ranks have.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with _signals_restored(), _quiet_launcher(), tempfile.TemporaryDirectory(prefix="steelyard-ranks-") as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=size,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            start_method=START_METHOD,
        )
        level = logging.getLogger("bench").level
        try:
            results = elastic_launch(config, _run_rank)(entry, args, is_lockstep, level)
        except ChildFailedError as error:
            raise RankLostError(_describe(*error.get_first_failure(), size)) from None
        except SignalException:
            raise KeyboardInterrupt from None
    for result in results.values():
        if isinstance(result, SteelyardError):
            raise result
    return results[0]


def _run_rank(entry: Callable[..., Any], args: tuple[Any, ...], is_lockstep: bool, level: int) -> Any:
    """What each process of a team does; returns rank 0's result, or the error that ended this rank."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    team = Team.join(is_lockstep=is_lockstep)
    _take_share_of_machine(team)
    logger = logging.getLogger("bench")
    logger.setLevel(level)
    logger.addHandler(logging.StreamHandler() if level <= logging.DEBUG else logging.NullHandler())
    try:
        result = entry(team, *args)
        return result if team.is_first else None
    except SteelyardError as error:
        return error.bare()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except OutOfStep as problem:  # an exception like others to the launcher, which stops the ranks that wait
        raise RuntimeError(str(problem)) from None
    finally:
        if torch.distributed.is_initialized():  # by transformers, for a model in parts
            torch.distributed.destroy_process_group()


def _stop(*_: object) -> NoReturn:
    """Stop as on Ctrl-C, once: whoever stops a team may say so twice."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _take_share_of_machine(team: Team) -> None:
    """Give this rank a GPU, where there are any, and its threads."""
    share = num_threads(team.size)
    torch.set_num_threads(share)
    os.environ["RAYON_NUM_THREADS"] = str(share)  # the tokenizers'
    if team.rank < (torch.cuda.device_count() if torch.cuda.is_available() else 0):
        torch.cuda.set_device(team.rank)


def _describe(rank: int, failure: Any, size: int) -> str:
    """What became of a rank, in one line."""
    who = f"rank {rank} of {size} (pid {failure.pid})"
    if failure.exitcode == -signal.SIGKILL:
        return f"{who} was killed (SIGKILL), by hand or by a system short of memory; {_KEPT}"
    if failure.exitcode < 0:
        return f"{who} was ended by {failure.signal_name()}; {_KEPT}"
    if failure.exitcode == 128 + signal.SIGINT:
        return f"{who} was told to stop; {_KEPT}"
    said = failure.message
    reason = said.get("message", "") if isinstance(said, dict) else said
    reason = " ".join(str(reason).split()).removeprefix("RuntimeError: ")
    return f"{who} failed: {reason}; {_KEPT}"


@contextmanager
def _signals_restored() -> Iterator[None]:
    """The launcher answers signals and leaves it at that."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _quiet_launcher() -> Iterator[None]:
    """The launcher's log is for those who want ours: what a user has to know is one line, which comes from here."""
    logger = logging.getLogger("torch.distributed")
    before = logger.handlers, logger.propagate
    is_shown = log.isEnabledFor(logging.DEBUG)
    logger.handlers = logging.getLogger("bench").handlers if is_shown else [logging.NullHandler()]
    logger.propagate = False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before

"""The tests' server of APIs in a process of its own, so that the client that is measured has its own to itself."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))  # the tests' server

from api_server import KEY, ApiServer, Said
from api_stream import Tempo

from bench.errors import ScoringError

__all__ = ["KEY", "ApiServer", "Said", "Tempo", "hear", "loopback"]

_START_S = 60


def _serve(set_up: Callable[[ApiServer], None], pipe: Connection) -> None:
    """The other process: a server, until the pipe says it is enough."""
    with ApiServer() as server:
        set_up(server)
        pipe.send(server.address)
        pipe.recv()
        pipe.send(server.counts.most_at_once)


@contextmanager
def loopback(set_up: Callable[[ApiServer], None]) -> Iterator[Connection]:
    """A server; its pipe says the address, and, once told to end, the most requests that it had at once."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(set_up, theirs), daemon=True)
    process.start()
    try:
        yield ours
    finally:
        process.join(10)


def hear(pipe: Connection) -> Any:
    """What the server says; it may not have started."""
    if not pipe.poll(_START_S):
        raise ScoringError("the server in the other process says nothing")
    return pipe.recv()

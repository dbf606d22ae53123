"""Set-up that all tests share."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: in tiny models threads wait more than they work

from collections.abc import Iterator

import pytest
from hypothesis import settings
from runs import Bench, Forks

# The same examples each time, so that a red run always means a change; `--hypothesis-profile=thorough` looks further.
settings.register_profile("quick", max_examples=30, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=2000, deadline=None)
settings.load_profile("quick")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Bench:
    """The command line, in this process."""
    return Bench(capsys)


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """The command line in processes that may be killed."""
    server = Forks()
    yield server
    server.close()

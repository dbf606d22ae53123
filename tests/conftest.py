"""Set-up that all tests share."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: in tiny models threads wait more than they work

import shutil
from collections.abc import Iterator
from pathlib import Path

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


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's folder; not to be changed."""
    from tiny_models import tiny_model  # takes seconds to import, which tests of other things need not
    from tokenizer_kinds import tokenizer_of

    folder = tmp_path_factory.mktemp("saved")
    tiny_model("llama").save_pretrained(folder)
    tokenizer_of("gpt2").save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "mine"))

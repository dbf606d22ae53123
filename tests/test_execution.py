"""Programs that a model wrote end, whatever they do, and say whether they passed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bench.writing.execution import execute, has_network


def test_a_program_passes_if_it_ends_without_an_error() -> None:
    assert execute("assert 1 + 1 == 2").is_passed
    assert execute("if __name__ == '__main__':\n    import math, re, typing, collections").is_passed


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("assert 1 + 1 == 3, 'sum'", "AssertionError: sum"),
        ("def f(:\n", "SyntaxError"),
        ("raise SystemExit(3)", "ended with code 3"),
        ("x = 'a' * (1 << 31)", "MemoryError"),
        ("with open('big', 'wb') as f:\n    f.write(bytes(1 << 22))", "File too large"),
        ("import os\nos.kill(os.getpid(), 9)", "ended with code -9"),
    ],
)
def test_it_does_not_pass_otherwise(program: str, reason: str) -> None:
    found = execute(program)
    assert not found.is_passed
    assert reason in found.reason


def test_a_program_that_does_not_end_is_ended_with_all_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    program = f"import os, time\nif os.fork() == 0:\n    time.sleep(1.5)\n    open({str(mark)!r}, 'w')\ntime.sleep(60)"
    assert execute(program, time_s=0.5).reason == "took more than 0.5 s"
    time.sleep(1.5)
    assert not mark.exists()


def test_the_environment_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert execute("import os\nassert 'OPENAI_API_KEY' not in os.environ").is_passed


def test_the_working_directory_is_a_new_one() -> None:
    assert execute("import os\nassert os.listdir() == []").is_passed


@pytest.mark.skipif(has_network(), reason="this system allows no network namespace to an ordinary user")
def test_there_is_no_network() -> None:
    program = "import socket\nsocket.create_connection(('127.0.0.1', 9), 1)"
    assert "unreachable" in execute(program).reason.lower()

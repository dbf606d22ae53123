"""How many threads compute, and which state of the code a result is of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import bench
from bench.telemetry.machine import describe_environment, num_threads


@pytest.mark.parametrize(
    ("said", "expected"), [(None, [6, 3, 1]), ("", [6, 3, 1]), ("2", [2, 2, 2]), ("0", [6, 3, 1]), ("4,2", [6, 3, 1])]
)
def test_an_equal_share_of_the_cores_unless_the_user_says_how_many(
    said: str | None, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS")
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert [num_threads(num) for num in (1, 2, 8)] == expected


@pytest.mark.parametrize("said", ["1", "3"])
def test_a_model_computes_with_as_many_as_the_user_says(said: str) -> None:
    code = (
        "from bench.config import EngineSpec, ModelSpec; from bench.session import Session\n"
        "session = Session(ModelSpec(source='fake', device='cpu'), EngineSpec()); session.load()\n"
        "print(session.describe_place()['num_threads'])"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": said}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == said


def test_studies_results_do_not_make_the_code_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, result = tmp_path / "bench" / "__init__.py", tmp_path / "studies" / "results" / "a.md"
    for path in (code, result):
        path.parent.mkdir(parents=True)
        path.touch()
    who = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "a"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    monkeypatch.setattr(bench, "__file__", str(code))

    assert describe_environment()["is_dirty"] is False
    result.write_text("measured")
    assert describe_environment()["is_dirty"] is False
    code.write_text("# changed")
    assert describe_environment()["is_dirty"] is True

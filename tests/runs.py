"""What the tests of whole runs need: small plans of the fake model, the command line in this process, and faults.

The command line can also be had in processes that may be killed: `Forks` starts them from one that has imported
torch and transformers already, which takes longer than all they do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

TESTS = Path(__file__).parent
PATIENCE_S = 600.0
"""Until a test gives up waiting for something: against hanging, and no threshold, however busy the machine is."""
SMALL = {"task": "pocket", "scoring": "cloze", "num_fewshot": 0, "limit": 12}
"""12 questions: a few packs of at most 512 tokens."""


def write_plan(folder: Path, *, models: Any = None, tasks: Any = None, name: str = "plan.yaml", **engine: Any) -> Path:
    """A plan of the fake model on a few questions, in packs that are small enough to be several."""
    plan = {
        "models": models or [{"source": "fake"}],
        "tasks": tasks or [SMALL],
        "engine": {"max_batch_tokens": 512, **engine},
        "out": str(folder / "results"),
    }
    path = folder / name
    path.write_text(yaml.safe_dump(plan))
    return path


@dataclass(frozen=True)
class Result:
    """What a command gave back."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line on stderr that starts with `bench: `, without it."""
        lines = [line for line in self.err.splitlines() if line.startswith("bench: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0].removeprefix("bench: ")


class Bench:
    """`bench` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Result:
        from bench.cli import main

        self._capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        return Result(code, *self._capsys.readouterr())


def run_folders(results: Path) -> list[Path]:
    return sorted(path.parent for path in results.glob("*/run.json"))


def only_run(results: Path) -> Path:
    (path,) = run_folders(results)
    return path


def read_info(run: Path) -> dict[str, Any]:
    info: dict[str, Any] = json.loads((run / "run.json").read_bytes())
    return info


def read_lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "samples.jsonl").read_bytes().splitlines()]


NUMBERS = ("identity", "status", "task", "metrics", "macro", "groups", "categories", "requests", "samples_sha256")
"""What is equal, however often a run was stopped."""


def assert_same_run(run: Path, whole: Path) -> None:
    assert (run / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()
    found, expected = read_info(run), read_info(whole)
    for key in NUMBERS:
        assert found[key] == expected[key], key
    for key in ("logical", "distinct"):
        assert found["tokens"][key] == expected["tokens"][key]
    assert found["tokens"]["forwarded"] >= found["tokens"]["distinct"]


# --- faults ---


def on_pack(monkeypatch: pytest.MonkeyPatch, change: Callable[[int, Any, Any], Any]) -> list[int]:
    """Let `change(number, pack, logits)` replace the logits of each pack that is scored, or raise.

    Packs are counted from 0, the self-check's left out. Returns a list that grows by the number of each.
    """
    from bench.engine.forward import PackedForward
    from bench.session import Session

    seen: list[int] = []
    is_armed = False
    scorer, logits = Session.scorer, PackedForward.logits

    def checked_scorer(self: Any, *args: Any) -> Any:
        nonlocal is_armed
        is_armed = False
        made = scorer(self, *args)
        is_armed = True
        return made

    def changed(self: Any, pack: Any) -> Any:
        found = logits(self, pack)
        if not is_armed:
            return found
        seen.append(len(seen))
        return change(seen[-1], pack, found)

    monkeypatch.setattr(Session, "scorer", checked_scorer)
    monkeypatch.setattr(PackedForward, "logits", changed)
    return seen


def raising(error: BaseException, packs: Iterable[int]) -> Callable[[int, Any, Any], Any]:
    """A change for `on_pack` that raises `error` at some packs."""
    numbers = set(packs)

    def change(number: int, _: Any, logits: Any) -> Any:
        if number in numbers:
            raise type(error)(*error.args)  # a fresh one, since an exception keeps the frames it went through
        return logits

    return change


# --- processes ---


class Forks:
    """Starts `bench` in processes of its own, see `fork_server.py`."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(TESTS.parent), str(TESTS)))}
        self._server = subprocess.Popen(
            [sys.executable, TESTS / "fork_server.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def start(self, *arguments: object, output: Path, **more: Any) -> int:
        """Start a command; returns its process id. stdout and stderr go to `output`."""
        argv = [str(argument) for argument in arguments]
        return int(self._ask({"argv": argv, "output": str(output), **more}))

    def wait(self, pid: int) -> int:
        """Wait for a command; returns its exit code, negative for a signal."""
        return int(self._ask({"wait": pid}))

    def close(self) -> None:
        assert self._server.stdin
        self._server.stdin.close()
        self._server.wait()
        assert self._server.stdout
        self._server.stdout.close()

    def _ask(self, request: dict[str, Any]) -> str:
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return self._server.stdout.readline()

"""How much faster are several processes than one, each with one thread? The same questions, the same bits.

Whole commands take turns on the same cores: one process on one of them, then one on each. Goals: each of the processes
reaches 0.9 of the speed of one alone, so that two score 1.8 times as fast, and the results are the same bytes. Exit
code 1 if one is missed. Linux only, where a command can be kept to some cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from common import FORMS, arguments, positive_int, publish, run_study, table, verdict

from bench.config import ModelSpec
from bench.errors import InputError, ScoringError
from bench.models.files import locate
from bench.runs.reading import find_runs, read_run
from bench.telemetry.machine import num_cores

_ROOT = Path(__file__).resolve().parents[1]
_SPEED_GOAL = 0.9  # of the speed of one process alone, that each of several is to reach
_EQUAL = ("identity", "metrics", "macro", "groups", "categories", "requests", "packs", "samples_sha256")


@dataclass(frozen=True, slots=True)
class Sitting:
    """What one command took and left.

    Attributes:
        wall_s: seconds from its start to its exit.
        infos: run.json of each form.
        samples: samples.jsonl of each form.
    """

    wall_s: float
    infos: Mapping[str, Mapping[str, Any]]
    samples: Mapping[str, bytes]

    @property
    def score_s(self) -> float:
        """Seconds of scoring, all forms together."""
        return float(sum(info["timing"]["score_s"] for info in self.infos.values()))

    @property
    def num_forwarded(self) -> int:
        """Tokens sent through the model."""
        return int(sum(info["tokens"]["forwarded"] for info in self.infos.values()))

    @property
    def share(self) -> float:
        """Share of the floor, all forms together."""
        reached_s = sum(info["floor"]["share"] * info["timing"]["score_s"] for info in self.infos.values())
        return float(reached_s / self.score_s)


def study(options: argparse.Namespace) -> int:
    """Run both in turns; returns the exit code."""
    if not hasattr(os, "sched_setaffinity"):
        raise InputError("data_parallel needs Linux, where a command can be kept to some cores")
    cores = sorted(os.sched_getaffinity(0))[: options.processes]
    if len(cores) < options.processes:
        raise InputError(f"--processes {options.processes}: this process may use {num_cores()} cores")
    locate(ModelSpec(source=options.model))  # converted, or downloaded, before the clock runs
    found: dict[int, list[Sitting]] = {1: [], options.processes: []}
    with tempfile.TemporaryDirectory(prefix="steelyard-study-") as scratch:
        for turn in range(options.repeats):
            for num in sorted(found, reverse=turn % 2 == 1):
                found[num].append(_run(options, Path(scratch) / f"{turn}-{num}", cores[:num]))
    one, many = (min(sittings, key=lambda sitting: sitting.score_s) for sittings in found.values())
    ratio = one.score_s / many.score_s
    unequal = _unequal([sitting for sittings in found.values() for sitting in sittings])
    goal = _SPEED_GOAL * options.processes
    goals = {"results are the same bytes, and the same numbers": not unequal}
    if options.limit is None:
        goals[f"scoring is at least {goal:g} times as fast"] = ratio >= goal
    result: dict[str, Any] = {
        "num_processes": options.processes,
        "limit": options.limit,
        "max_batch_tokens": options.max_batch_tokens,
        "ratio": ratio,
        "ratio_command": min(s.wall_s for s in found[1]) / min(s.wall_s for s in found[options.processes]),
        "runs": {num: [_described(sitting) for sitting in sittings] for num, sittings in found.items()},
        "unequal": unequal,
        "goals": goals,
    }
    publish(options, "data_parallel", result, _render(options, result, found))
    return 0 if all(goals.values()) else 1


def _run(options: argparse.Namespace, folder: Path, cores: Sequence[int]) -> Sitting:
    """Run the command with one process on each of `cores`."""
    plan = {
        "models": [{"source": options.model, "device": "cpu", "dtype": "float32"}],
        "tasks": [{"task": "pocket", "scoring": form, "limit": options.limit} for form in FORMS],
        "engine": {"num_processes": len(cores), "max_batch_tokens": options.max_batch_tokens},
        "out": str(folder / "results"),
    }
    folder.mkdir()
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    words = [sys.executable, "-m", "bench", "run", str(folder / "plan.yaml")]
    print(f"{len(cores)} process{'es' if len(cores) > 1 else ''} ...", end=" ", flush=True, file=sys.stderr)
    before = os.sched_getaffinity(0)
    with (folder / "command.log").open("wb") as log:
        os.sched_setaffinity(0, cores)  # which the command inherits
        try:
            began = time.perf_counter()
            done = subprocess.run(words, cwd=_ROOT, stdout=log, stderr=log, check=False)
            wall_s = time.perf_counter() - began
        finally:
            os.sched_setaffinity(0, before)
    print(f"{wall_s:.1f} s", file=sys.stderr)
    if done.returncode:
        last = (folder / "command.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise ScoringError(f"bench run failed: {' '.join(last)}")
    runs = {run.info["task"]["scoring"]: run for run in map(read_run, find_runs([folder / "results"]))}
    samples = {form: (run.path / "samples.jsonl").read_bytes() for form, run in runs.items()}
    return Sitting(wall_s, {form: run.info for form, run in runs.items()}, samples)


def _unequal(sittings: Sequence[Sitting]) -> list[str]:
    """What differs between runs that must be equal, a line each."""
    first = sittings[0]
    found = []
    for number, sitting in enumerate(sittings[1:], 1):
        for form, info in sitting.infos.items():
            if sitting.samples[form] != first.samples[form]:
                found.append(f"run {number}, {form}: samples.jsonl")
            found += [f"run {number}, {form}: {key}" for key in _EQUAL if info[key] != first.infos[form][key]]
    return found


def _described(sitting: Sitting) -> dict[str, Any]:
    return {
        "wall_s": sitting.wall_s,
        "score_s": sitting.score_s,
        "tokens_forwarded": sitting.num_forwarded,
        "floor_share": sitting.share,
        "matmul_flops_per_s": {form: info["floor"]["matmul_flops_per_s"] for form, info in sitting.infos.items()},
        "peak_memory_bytes": max(info["peak_memory_bytes"] for info in sitting.infos.values()),
    }


def _render(options: argparse.Namespace, result: dict[str, Any], found: Mapping[int, Sequence[Sitting]]) -> list[str]:
    rows: list[list[object]] = []
    for num, sittings in found.items():
        best = min(sittings, key=lambda sitting: sitting.score_s)
        scoring = ", ".join(f"{sitting.score_s:.1f}" for sitting in sittings)
        commands = ", ".join(f"{sitting.wall_s:.1f}" for sitting in sittings)
        rows.append([num, scoring, commands, f"{best.num_forwarded:,}", f"{best.share:.0%}"])
    some = f"the first {options.limit} questions of it" if options.limit else "all of it"
    return [
        "# Several processes, one thread each",
        "",
        f"Model {Path(options.model).name}, float32; `pocket` in both forms, {some}; packs of at most "
        f"{options.max_batch_tokens} tokens; {options.processes} processes get a core each, one gets one.",
        "",
        *table(["processes", "scoring, s", "whole command, s", "tokens forwarded", "share of the floor"], rows),
        "",
        f"Fastest against fastest: scoring **{result['ratio']:.2f} times** as fast, the whole command "
        f"{result['ratio_command']:.2f} times.",
        f"Results: {'the same bytes' if not result['unequal'] else '; '.join(result['unequal'])}.",
        "",
        *verdict(result["goals"]),
    ]


def main() -> int:
    """Run the study from the command line."""
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument("--processes", type=positive_int, default=2, metavar="N")
    parser.add_argument("--repeats", type=positive_int, default=2, metavar="N", help="runs of each command")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="first N questions only; speed is not judged")
    parser.add_argument("--max-batch-tokens", type=positive_int, default=1024, metavar="N", help="tokens of a pack")
    return run_study(study, parser)


if __name__ == "__main__":
    sys.exit(main())

"""Runs as reports need them, made without any model; and one whose every name is an attack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.metrics import summarise
from bench.records import Completion, Score
from bench.report.results import build_report
from bench.report.sheet import Report, Table
from bench.runs.reading import Run

EVIL = '<script>alert("x")</script> $x_1$ | \\input{evil} 100% <img src=x onerror=alert(1)> 云'


def make_run(name: str, right: int = 30, of: int = 40, task: str = "mmlu", **info: Any) -> Run:
    """A finished run of a model that has some answers right."""
    lane = info.get("lane", "likelihood")
    scores = tuple(
        Score(str(n), "", 0, "", 0, 0, n < right, n < right, (-1.0, -2.0), (False,) * 2, (1, 1), completion=text)
        if lane == "likelihood"
        else Score(str(n), "", 0, "", 0, None, n < right, completion=text, extracted="A")
        for n in range(of)
        for text in [Completion("A", cost_usd=0.002) if lane == "generate" else None]
    )
    whole: dict[str, Any] = {
        "status": "finished",
        "model": {"name": name, "source": name, "dtype": "float32"},
        "task": {"name": task, "scoring": "letter", "num_fewshot": 5, "headline": "acc", "num_samples": of},
        "lane": lane,
        "timing": {"score_s": 20.0, "total_s": 30.0},
        "peak_memory_bytes": 2**30,
        **summarise(scores, metrics=["acc"]),
    }
    return Run(Path(f"results/{name[:8]}"), {**whole, **info}, scores, ())


def cell(table: Table, key: str, row: int = 0) -> Any:
    return table.cells(key)[row]


def evil_report() -> Report:
    run = make_run(EVIL, status="failed", reason=EVIL)
    run.info["task"] |= {"name": EVIL, "subjects": [EVIL]}
    return build_report([run, make_run("b" + EVIL)])

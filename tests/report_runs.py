"""Runs as reports need them, made without any model; and one whose every name is an attack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.metrics import summarise
from bench.records import Completion, Score
from bench.report.results import build_report
from bench.report.served import judged
from bench.report.sheet import Report, Table
from bench.report.speed import SpeedRun
from bench.runs.reading import Run
from bench.speed.figures import Taken, describe_load
from bench.speed.load import Load
from bench.speed.spec import Objective

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


def decode_point(batch_size: int, tpot_s: float, **more: Any) -> dict[str, Any]:
    """A point of decode whose every repeat of 10 steps took as long."""
    step = dict.fromkeys(("p50", "p90", "p99"), tpot_s)
    return {
        "key": f"decode {batch_size}x512+10",
        "phase": "decode",
        "batch_size": batch_size,
        "length": 512,
        "num_steps": 10,
        "repeat_s": {"p50": 10 * tpot_s, "median_ci95": [9.8 * tpot_s, 10.2 * tpot_s]},
        "tpot_s": step,
        "tokens_per_s": batch_size / tpot_s,
        "is_tight": True,
        "share": 0.6,
        "mfu": 0.25,
        "mbu": 0.6,
        "matmul_flops_per_s": 5e14,
        "memory_bytes_per_s": 3e12,
        "peak_memory_bytes": 2**34,
        "energy": {"scope": "gpu", "total_j": None, "per_token_j": None, "not_measured": {"gpu": "no counter"}},
        **more,
    }


def served_point(number: float, *, is_rate: bool = False, cost_usd: float | None = None) -> dict[str, Any]:
    """A point of a server, within a second: of each request 40 tokens, the first after 0.22 s, then one every 20 ms."""
    load = Load(None if is_rate else int(number), number if is_rate else None, 300, 40)
    pieces = tuple(round(0.22 + 0.02 * place, 6) for place in range(40))
    taken = Taken(0.0, 0.0, pieces, 1.0, num_prompt_tokens=300, num_completion_tokens=40, cost_usd=cost_usd)
    return {**describe_load(load, [taken] * int(number), Objective()), "cost_usd": cost_usd, "lag_s": None}


def make_served_run(name: str, *points: dict[str, Any], **info: Any) -> SpeedRun:
    """A finished speed run of a server."""
    whole: dict[str, Any] = {
        "model": {
            "name": name,
            "source": name,
            "kind": "api",
            "provider": "vLLM",
            "base_url": "http://x",
            "price": None,
        },
        "config": {"speed": {"served": {"objective": {"ttft_s": 0.5}, "warm_up_requests": 4}}},
    }
    return make_speed_run(name, *judged(whole, points), **{**whole, **info})


def make_speed_run(name: str, *points: dict[str, Any], **info: Any) -> SpeedRun:
    """A finished speed run of the model that `make_run` scores."""
    whole: dict[str, Any] = {
        "status": "finished",
        "lane": "speed",
        "model": {"name": name, "source": name, "dtype": "float32"},
        "engine": {"device": "cuda"},
        "environment": {"gpu": "a GPU"},
        "timing": {"load_s": 11.0},
        "config": {"speed": {"tightness": 0.05}},
    }
    return SpeedRun(Path(f"results/{name[:8]}.speed"), {**whole, **info}, points)


def cell(table: Table, key: str, row: int = 0) -> Any:
    return table.cells(key)[row]


def evil_report() -> Report:
    run = make_run(EVIL, status="failed", reason=EVIL)
    run.info["task"] |= {"name": EVIL, "subjects": [EVIL]}
    return build_report([run, make_run("b" + EVIL)])

"""How much faster than lm-evaluation-harness are other tasks than MMLU, and why? Both score the same prompts.

One process, the same model in fp32, loaded before: what is timed is all that follows, from rows to metrics. The shots
of both are the first ones, so that the prompts are equal, which is checked. The ratio of tokens explains the ratio of
times: lm-evaluation-harness puts each question through the model whole (once where options are single tokens, else
once an option), Steelyard each distinct token. Goal: no task is slower; exit code 1 if one is.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from common import arguments, model_folder, positive_int, publish, run_study, table, verdict
from counterparts import COUNTERPARTS, Row, allen_row, read_json_lines
from lm_eval_prompts import lm_eval_task

from bench.errors import DataMissingError
from bench.plan import load_plan
from bench.report.progress import TerminalListener
from bench.runner import run_plan
from bench.runs.reading import find_runs, read_run
from bench.telemetry.machine import num_threads


@dataclass(frozen=True, slots=True)
class Case:
    """A task as people run it.

    Attributes:
        name: key of `COUNTERPARTS`: the task, and a form that is not its own.
        shots: the file they are in, below the folder of all data sets; None: they are the questions after those asked.
    """

    name: str
    num_fewshot: int = 0
    subject: str = ""
    shots: str | None = None

    @property
    def title(self) -> str:
        """As people read it."""
        return f"{self.name} {self.num_fewshot}-shot"


CASES = (
    Case("hellaswag"),
    Case("hellaswag", 10),
    Case("arc_challenge", 25, shots="arc/ARC-Challenge/ARC-Challenge-Train.jsonl"),
    Case("boolq"),
    Case("mmlu cloze", 5, "management"),
)


@dataclass(frozen=True, slots=True)
class Timed:
    """What both took for a case.

    Attributes:
        ours_s, theirs_s: seconds from rows to metrics.
        num_logical, num_distinct: tokens of all requests, and each shared one once.
        num_prompts_differ: samples whose prompt hashes differ.
    """

    num_samples: int
    ours_s: float
    theirs_s: float
    num_logical: int
    num_distinct: int
    num_prompts_differ: int


def study(options: argparse.Namespace) -> int:
    """Time both on every case; returns the exit code."""
    data = os.environ.get("STEELYARD_DATA")
    if not data:
        raise DataMissingError("set STEELYARD_DATA to the folder that holds the original files")
    model = model_folder(options.model)
    lm = _load_lm_eval(model, options.batch_size)
    found = {}
    for case in CASES:
        with tempfile.TemporaryDirectory(prefix="steelyard-study-") as scratch:
            ours = _time_ours(case, model, Path(data), options.questions, Path(scratch))
        theirs_s, hashes = _time_theirs(case, lm, Path(data), len(ours["hashes"]))
        differ = sum(a != b for a, b in zip(ours["hashes"], hashes, strict=True))
        tokens = ours["tokens"]
        found[case.title] = Timed(len(hashes), ours["seconds"], theirs_s, tokens["logical"], tokens["distinct"], differ)
    goals = {
        "no task is slower than lm-evaluation-harness": all(one.ours_s <= one.theirs_s for one in found.values()),
        "all prompt hashes are equal": not any(one.num_prompts_differ for one in found.values()),
    }
    result = {"cases": {name: asdict(one) for name, one in found.items()}, "goals": goals}
    about = f"Model {options.model}, float32, at most {options.questions} questions a task; lm-eval in batches of "
    lines = ["# Other tasks: speed", "", f"{about}{options.batch_size}.", "", *_render(found), "", *verdict(goals)]
    publish(options, "suite-speed", result, lines)
    return 0 if all(goals.values()) else 1


def _time_ours(case: Case, model: Path, data: Path, num: int, scratch: Path) -> dict[str, Any]:
    """Run a case; returns its seconds without loading, its tokens and its prompt hashes."""
    name, _, form = case.name.partition(" ")
    task: dict[str, Any] = {"task": name, "limit": num, "num_fewshot": case.num_fewshot}
    task |= {"scoring": form} if form else {}
    task |= {"subjects": [case.subject]} if case.subject else {}
    if name == "hellaswag":  # its training questions are no part of the original files at hand
        rows = COUNTERPARTS[name].rows(data, "")
        for file, own in (("val", rows[:num]), ("train", rows[num : num + case.num_fewshot])):
            text = "".join(json.dumps({**row, "label": int(row["label"])}) + "\n" for row in own)
            (scratch / f"hellaswag_{file}.jsonl").write_text(text, encoding="utf-8")
        task["data_dir"] = str(scratch)
    plan = {
        "models": [{"source": str(model), "dtype": "float32"}],
        "tasks": [task],
        "engine": {"overlong": "cut_left"},
        "out": str(scratch / "results"),
    }
    (scratch / "plan.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    print(f"Steelyard: {case.title}", file=sys.stderr, flush=True)
    began = time.perf_counter()
    run_plan(load_plan(scratch / "plan.yaml"), TerminalListener())
    took_s = time.perf_counter() - began
    (run,) = [read_run(path) for path in find_runs([scratch / "results"])]
    return {
        "seconds": took_s - run.info["timing"]["load_s"],
        "tokens": run.info["tokens"],
        "hashes": [score.prompt_hash for score in run.scores],
    }


def _load_lm_eval(model: Path, batch_size: int) -> Any:
    import torch
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(num_threads())
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    return HFLM(pretrained=str(model), dtype="float32", device=device, batch_size=batch_size)


def _time_theirs(case: Case, lm: Any, data: Path, num: int) -> tuple[float, list[str]]:
    """Let lm-evaluation-harness evaluate a case; returns its seconds and its prompt hashes."""
    from lm_eval.evaluator import evaluate

    counterpart = COUNTERPARTS[case.name]
    rows = counterpart.rows(data, case.subject)
    shots = _shots(case, data, rows[num : num + case.num_fewshot]) if case.num_fewshot else None
    first = {"fewshot_split": "shots", "fewshot_config": {"sampler": "first_n"}} if shots else {}
    changes = {**first, "num_fewshot": case.num_fewshot}
    print(f"lm-eval: {case.title}", file=sys.stderr, flush=True)
    began = time.perf_counter()
    task = lm_eval_task(counterpart.yaml_of(case.subject), rows[:num], shots, **changes)
    title = task.config.task
    results = evaluate(lm=lm, task_dict={title: task}, log_samples=True, bootstrap_iters=0)
    took_s = time.perf_counter() - began
    samples = sorted(results["samples"][title], key=lambda one: one["doc_id"])
    return took_s, [sample["prompt_hash"] for sample in samples]


def _shots(case: Case, data: Path, following: list[Row]) -> list[Row]:
    """The shots, as lm-evaluation-harness would get them."""
    counterpart = COUNTERPARTS[case.name]
    if counterpart.shots is not None:
        return counterpart.shots(data, case.subject)[: case.num_fewshot]
    if case.shots is None:
        return following
    return [allen_row(row) for row in read_json_lines(data / case.shots)[: case.num_fewshot]]


def _render(found: Mapping[str, Timed]) -> Sequence[str]:
    rows: list[list[object]] = [
        [
            name,
            one.num_samples,
            f"{one.theirs_s:.1f}",
            f"{one.ours_s:.1f}",
            f"{one.theirs_s / one.ours_s:.1f}",
            f"{one.num_logical:,}",
            f"{one.num_distinct:,}",
            f"{one.num_logical / one.num_distinct:.1f}",
            one.num_prompts_differ,
        ]
        for name, one in found.items()
    ]
    header = "task, questions, lm-eval s, Steelyard s, ratio, logical tokens, distinct tokens, ratio, other prompt hash"
    return table(header.split(", "), rows)


def main() -> int:
    """Run the study from the command line."""
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument("--questions", type=positive_int, default=100, metavar="N", help="at most, of each task")
    parser.add_argument("--batch-size", type=positive_int, default=8, metavar="N", help="lm-eval's")
    return run_study(study, parser)


if __name__ == "__main__":
    sys.exit(main())

"""Are our scores of the other tasks lm-evaluation-harness's, too? As `parity.py`, over other kinds of requests.

Both score the first questions of each task with the same model in fp32: one process, lm-evaluation-harness's own tasks
over the same rows, its own model. Goal: no prediction differs, no loglikelihood by more than 1e-4 a continuation token,
prompt hashes, acc, acc_norm and their standard errors are equal to the last digit; exit code 1 if not. Metrics that
are no counts (mc2, perplexity) differ as loglikelihoods do; theirs are shown beside ours.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from common import arguments, model_folder, num_threads, positive_int, publish, run_study, table, verdict
from counterparts import COUNTERPARTS, lm_eval_task
from parity import TOLERANCE, Comparison, Figure, compare

from bench.config import RunPlan
from bench.errors import DataMissingError
from bench.measures import first_highest, length_normalised
from bench.plan import load_plan
from bench.records import Score
from bench.runs.reading import Run, find_runs, read_run
from bench.tasks.prepare import prepare_job

SUBJECTS = {"agieval": "sat-math", "bbh": "hyperbaton", "belebele": "eng_Latn", "xcopa": "it"}
LEFT_OUT = ("mmlu", "mmlu_pro")  # parity.py scores the one; the other's shots are in no original file
COUNTS = ("acc", "acc_norm")
_NUM_BOOTSTRAPS = 10  # of perplexity's standard error, which is not compared; with none there are no others, either


@dataclass(frozen=True, slots=True)
class _Theirs:
    """What lm-evaluation-harness made of a task."""

    scores: tuple[Score, ...]
    metrics: Mapping[str, Any]


def study(options: argparse.Namespace) -> int:
    """Run both and compare; returns the exit code."""
    data = os.environ.get("STEELYARD_DATA")
    if not data:
        raise DataMissingError("set STEELYARD_DATA to the folder that holds the original files")
    names = [name for name in options.tasks or COUNTERPARTS if name.split()[0] not in LEFT_OUT]
    model = model_folder(options.model)
    with tempfile.TemporaryDirectory(prefix="steelyard-study-") as scratch:
        plan = _plan(model, names, options.questions, Path(scratch))
        num_tokens, jobs = _num_tokens(plan)
        ours = _run_steelyard(plan, Path(scratch))
    theirs = _run_lm_eval(model, jobs, Path(data), options.batch_size)
    found = {name: compare(ours[name].scores, theirs[name].scores, num_tokens[name]) for name in names}
    figures = [figure for name in names for figure in _figures(name, ours[name], theirs[name])]
    counted = [one for one in figures if one.name.split()[-1].removesuffix("_stderr") in COUNTS]
    goals = {
        "no prediction differs": not any(one.flips or one.flips_norm for one in found.values()),
        f"no loglikelihood differs by more than {TOLERANCE:g} a continuation token": all(
            one.max_difference_a_token <= TOLERANCE for one in found.values()
        ),
        "all prompt hashes are equal": not any(one.num_prompts_differ for one in found.values()),
        "acc, acc_norm and their standard errors are equal to the last digit": all(
            one.ours == one.theirs for one in counted
        ),
    }
    result = {
        "tasks": {name: asdict(one) for name, one in found.items()},
        "figures": [asdict(one) for one in figures],
        "goals": goals,
    }
    title = ["# Parity with lm-evaluation-harness: the suite", "", _about(options), ""]
    lines = [*title, *_render(found, num_tokens, figures), "", *verdict(goals)]
    publish(options, "parity-suite", result, lines)
    return 0 if all(goals.values()) else 1


def _about(options: argparse.Namespace) -> str:
    chosen = ", ".join(f"{task}: {subject}" for task, subject in SUBJECTS.items())
    what = f"the first {options.questions} questions of each task ({chosen}), with its own number of shots"
    model = Path(options.model).name if Path(options.model).is_dir() else options.model
    return f"Model {model}, float32; {what}."


def _plan(model: Path, names: Sequence[str], limit: int, scratch: Path) -> RunPlan:
    tasks = [
        {"task": name, "limit": limit, **({"subjects": [SUBJECTS[name]]} if name in SUBJECTS else {})} for name in names
    ]
    plan = {
        "models": [{"source": str(model), "dtype": "float32"}],
        "tasks": tasks,
        "engine": {"overlong": "cut_left"},
        "out": str(scratch / "results"),
    }
    path = scratch / "plan.yaml"
    path.write_text(yaml.safe_dump(plan), encoding="utf-8")
    return load_plan(path)


def _num_tokens(plan: RunPlan) -> tuple[dict[str, list[list[int]]], dict[str, Any]]:
    """Tokens of each continuation, and the jobs, by task."""
    from bench.session import Session

    session = Session(plan.models[0], plan.engine)
    jobs = {spec.task: prepare_job(spec) for spec in plan.tasks}
    encoded = {name: session.encoder.encode(job.samples) for name, job in jobs.items()}
    return {
        name: [[len(request.targets) for request in one.requests] for one in own] for name, own in encoded.items()
    }, jobs


def _run_steelyard(plan: RunPlan, scratch: Path) -> dict[str, Run]:
    from bench.report.progress import TerminalListener
    from bench.runner import run_plan

    run_plan(plan, TerminalListener())
    runs = [read_run(path) for path in find_runs([scratch / "results"])]
    return {run.info["task"]["name"]: run for run in runs}


def _run_lm_eval(model: Path, jobs: Mapping[str, Any], data: Path, batch_size: int) -> dict[str, _Theirs]:
    """Its own evaluation of its own tasks, in this process."""
    import torch
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(num_threads())
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    lm = HFLM(pretrained=str(model), dtype="float32", device=device, batch_size=batch_size)
    found = {}
    for name, job in jobs.items():
        subject, counterpart = SUBJECTS.get(name, ""), COUNTERPARTS[name]
        task = lm_eval_task(counterpart.yaml_of(subject), counterpart.rows(data, subject)[: len(job.samples)], None)
        title = task.config.task
        print(f"lm-eval: {title}", file=sys.stderr, flush=True)
        results = evaluate(lm=lm, task_dict={title: task}, log_samples=True, bootstrap_iters=_NUM_BOOTSTRAPS)
        samples = sorted(results["samples"][title], key=lambda one: one["doc_id"])
        scores = [_score(job.samples[i].sample.id, sample) for i, sample in enumerate(samples)]
        found[name] = _Theirs(tuple(scores), results["results"][title])
    return found


def _score(sample_id: str, sample: Mapping[str, Any]) -> Score:
    """A sample of lm-eval's as one of ours; what is right and wrong is what lm-eval says of it."""
    values = tuple(float(value) for value, _ in sample["filtered_resps"])
    choices = [continuation[1:] for _, continuation in sample["arguments"]]  # without the space before the choice
    num_chars = tuple(map(len, choices))
    is_choice = len(values) > 1
    prediction = first_highest(values) if is_choice else None
    return Score(
        id=sample_id,
        subject="",
        gold=None,
        prompt_hash=sample["prompt_hash"],
        prediction=prediction,
        prediction_norm=first_highest(length_normalised(values, num_chars)) if is_choice else None,
        correct=_is_right(sample, prediction, choices),
        correct_norm=sample["acc_norm"] == 1.0 if "acc_norm" in sample else None,
        loglikelihoods=values,
        is_greedy=tuple(bool(is_greedy) for _, is_greedy in sample["filtered_resps"]),
        num_choice_chars=num_chars,
    )


def _is_right(sample: Mapping[str, Any], prediction: int | None, choices: Sequence[str]) -> bool:
    """What lm-eval's `acc` says, where it has one."""
    if prediction is None:
        return bool(sample["acc"] == 1.0)
    if "mc2_targets" in sample["doc"] and sample["acc"] not in (0.0, 1.0):  # `acc` is mc2, a share
        return bool(sample["doc"]["mc2_targets"]["labels"][prediction])
    if "acc" not in sample:  # BIG-Bench Hard reports acc_norm alone, and has its answers in words
        return bool(choices[prediction] == sample["target"])
    return bool(sample["acc"] == 1.0)


def _figures(name: str, ours: Run, theirs: _Theirs) -> list[Figure]:
    """What both report. lm-evaluation-harness calls mc2 acc, too."""
    found = []
    for metric, own in ours.info["metrics"].items():
        their_name = "acc" if metric == "mc2" else metric
        if f"{their_name},none" not in theirs.metrics:
            continue  # it does not report acc of BIG-Bench Hard
        found.append(Figure(f"{name} {metric}", own["value"], theirs.metrics[f"{their_name},none"]))
        if metric in COUNTS:
            found.append(Figure(f"{name} {metric}_stderr", own["stderr"], theirs.metrics[f"{their_name}_stderr,none"]))
    return found


def _render(
    found: Mapping[str, Comparison], num_tokens: Mapping[str, Sequence[Sequence[int]]], figures: Sequence[Figure]
) -> list[str]:
    rows: list[list[object]] = [
        [
            name,
            one.num_samples,
            max(num for own in num_tokens[name] for num in own),
            one.num_prompts_differ,
            f"{one.max_difference:.1e}",
            f"{one.max_difference_a_token:.1e}",
            len(one.flips),
            len(one.flips_norm),
            one.num_greedy_differ,
        ]
        for name, one in found.items()
    ]
    header = "task, questions, longest continuation (tokens), other prompt hash, max Δ, max Δ a token"
    lines = table([*header.split(", "), "flips acc", "flips acc_norm", "other is_greedy"], rows)
    reported: list[list[object]] = [[one.name, one.ours, one.theirs] for one in figures]
    return [*lines, "", *table(["reported", "Steelyard", "lm-eval"], reported)]


def main() -> int:
    """Run the study from the command line."""
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--questions", type=positive_int, default=100, metavar="N", help="first N questions of each task"
    )
    parser.add_argument("--batch-size", type=positive_int, default=8, metavar="N", help="lm-eval's")
    parser.add_argument("--tasks", type=lambda text: text.split(","), metavar="A,B", help="some of the tasks only")
    return run_study(study, parser)


if __name__ == "__main__":
    sys.exit(main())

"""Are our scores of the other tasks lm-evaluation-harness's, too? As `parity.py`, over other kinds of requests.

Both score the first questions of each task with the same model in fp32: one process, lm-evaluation-harness's own tasks
over the same rows, its own model. Goal: no prediction differs, no loglikelihood by more than 1e-4 a continuation token,
prompt hashes, acc, acc_norm and their standard errors are equal to the last digit; exit code 1 if not. Metrics that
are no counts (mc2, perplexity) differ as loglikelihoods do; theirs are shown beside ours. A result of some `--tasks`
goes into the one that is there: each task keeps the commit it was run at.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from common import (
    arguments,
    model_folder,
    model_name,
    positive_int,
    provenance,
    read_result,
    run_study,
    table,
    verdict,
    write_result,
)
from counterparts import COUNTERPARTS
from lm_eval_prompts import form_of, lm_eval_task
from parity import TOLERANCE, Figure, compare

from bench.config import RunPlan
from bench.errors import DataMissingError, InputError, one_of
from bench.measures import first_highest, length_normalised
from bench.plan import load_plan
from bench.records import Score
from bench.runs.reading import Run, find_runs, read_run
from bench.tasks.job import Job
from bench.tasks.prepare import prepare_job
from bench.telemetry.machine import num_threads

SUBJECTS = {"agieval": "sat-math", "bbh": "hyperbaton", "belebele": "eng_Latn", "xcopa": "it"}
LEFT_OUT = ("mmlu", "mmlu_pro")  # parity.py scores the one; the other's shots are in no original file
COUNTS = ("acc", "acc_norm")
_STUDY = "parity-suite"
_NUM_BOOTSTRAPS = 10  # of perplexity's standard error, which is not compared; with none there are no others, either


@dataclass(frozen=True, slots=True)
class _Theirs:
    """What lm-evaluation-harness made of a task."""

    scores: tuple[Score, ...]
    metrics: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Tools:
    """What serves all tasks: the model's folder, lm-evaluation-harness's model, the data and a temporary folder."""

    model: Path
    lm: Any
    data: Path
    scratch: Path


def study(options: argparse.Namespace) -> int:
    """Run both and compare, task by task; returns the exit code."""
    data = os.environ.get("STEELYARD_DATA")
    if not data:
        raise DataMissingError("set STEELYARD_DATA to the folder that holds the original files")
    known = [name for name in COUNTERPARTS if name.split()[0] not in LEFT_OUT and form_of(name).lane == "likelihood"]
    if unknown := [name for name in options.tasks or () if name not in known]:
        raise InputError(f"--tasks {unknown[0]}: {one_of(unknown[0], known)}")
    model = model_folder(options.model)
    with tempfile.TemporaryDirectory(prefix="steelyard-study-") as scratch:
        tools = _Tools(model, _lm_eval_model(model, options.batch_size), Path(data), Path(scratch))
        for name in options.tasks or known:
            done = {**read_result(options, _STUDY).get("tasks", {}), name: _compare(tools, name, options.questions)}
            result = {key: done[key] for key in known if key in done}
            goals = _goals(result.values())
            lines = _render(model_name(options), result, goals)
            write_result(options, _STUDY, {"tasks": result, "goals": goals}, lines)  # kept, whatever stops the rest
    print("\n".join(lines))
    return 0 if all(goals.values()) else 1


def _compare(tools: _Tools, name: str, num_questions: int) -> dict[str, Any]:
    """Run both on a task and compare: what the result holds of it."""
    plan = _plan(tools, name, num_questions)
    job = prepare_job(plan.tasks[0])
    num_tokens = _num_tokens(plan, job)
    ours, theirs = _run_steelyard(plan), _run_lm_eval(tools, name, job)
    return {
        **provenance(),
        "subject": SUBJECTS.get(name),
        "num_fewshot": job.spec.num_fewshot,
        "max_continuation_tokens": max(num for own in num_tokens for num in own),
        **asdict(compare(ours.scores, theirs.scores, num_tokens)),
        "figures": [asdict(one) for one in _figures(ours, theirs)],
    }


def _goals(found: Collection[Mapping[str, Any]]) -> dict[str, bool]:
    counted = [one for task in found for one in task["figures"] if one["name"].removesuffix("_stderr") in COUNTS]
    return {
        "no prediction differs": not any(one["flips"] or one["flips_norm"] for one in found),
        f"no loglikelihood differs by more than {TOLERANCE:g} a continuation token": all(
            one["max_difference_a_token"] <= TOLERANCE for one in found
        ),
        "all prompt hashes are equal": not any(one["num_prompts_differ"] for one in found),
        "acc, acc_norm and their standard errors are equal to the last digit": all(
            one["ours"] == one["theirs"] for one in counted
        ),
    }


def _plan(tools: _Tools, name: str, limit: int) -> RunPlan:
    task = {"task": name, "limit": limit, **({"subjects": [SUBJECTS[name]]} if name in SUBJECTS else {})}
    plan = {
        "models": [{"source": str(tools.model), "dtype": "float32"}],
        "tasks": [task],
        "engine": {"overlong": "cut_left"},
        "out": str(tools.scratch / name),
    }
    path = tools.scratch / "plan.yaml"
    path.write_text(yaml.safe_dump(plan), encoding="utf-8")
    return load_plan(path)


def _num_tokens(plan: RunPlan, job: Job) -> list[list[int]]:
    """Tokens of each sample's continuations."""
    from bench.session import Session

    encoded = Session(plan.models[0], plan.engine).encoder.encode(job.samples)
    return [[len(request.targets) for request in one.requests] for one in encoded]


def _run_steelyard(plan: RunPlan) -> Run:
    from bench.report.progress import TerminalListener
    from bench.runner import run_plan

    run_plan(plan, TerminalListener())
    (path,) = find_runs([plan.out])
    return read_run(path)


def _lm_eval_model(model: Path, batch_size: int) -> Any:
    import torch
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(num_threads())
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    return HFLM(pretrained=str(model), dtype="float32", device=device, batch_size=batch_size)


def _run_lm_eval(tools: _Tools, name: str, job: Job) -> _Theirs:
    """Its own evaluation of its own task, in this process."""
    from lm_eval.evaluator import evaluate

    subject, counterpart = SUBJECTS.get(name, ""), COUNTERPARTS[name]
    rows = counterpart.rows(tools.data, subject)[: len(job.samples)]
    task = lm_eval_task(counterpart.yaml_of(subject), rows, None)
    title = task.config.task
    print(f"lm-eval: {title}", file=sys.stderr, flush=True)
    results = evaluate(lm=tools.lm, task_dict={title: task}, log_samples=True, bootstrap_iters=_NUM_BOOTSTRAPS)
    samples = sorted(results["samples"][title], key=lambda one: one["doc_id"])
    scores = [_score(job.samples[i].sample.id, sample) for i, sample in enumerate(samples)]
    return _Theirs(tuple(scores), results["results"][title])


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


def _figures(ours: Run, theirs: _Theirs) -> list[Figure]:
    """What both report. lm-evaluation-harness calls mc2 acc, too."""
    found = []
    for metric, own in ours.info["metrics"].items():
        their_name = "acc" if metric == "mc2" else metric
        if f"{their_name},none" not in theirs.metrics:
            continue  # it does not report acc of BIG-Bench Hard
        found.append(Figure(metric, own["value"], theirs.metrics[f"{their_name},none"]))
        if metric in COUNTS:
            found.append(Figure(f"{metric}_stderr", own["stderr"], theirs.metrics[f"{their_name}_stderr,none"]))
    return found


def _render(model: str, tasks: Mapping[str, Mapping[str, Any]], goals: Mapping[str, bool]) -> list[str]:
    about = (
        f"Model {model}, float32; the first questions of each task, or of one of its subjects, with its own number of "
        "shots. Each task was run at the commit that its row names."
    )
    rows: list[list[object]] = [
        [
            name if one["subject"] is None else f"{name} {one['subject']}",
            one["num_samples"],
            one["num_fewshot"],
            one["max_continuation_tokens"],
            one["num_prompts_differ"],
            f"{one['max_difference']:.1e}",
            f"{one['max_difference_a_token']:.1e}",
            len(one["flips"]),
            len(one["flips_norm"]),
            one["num_greedy_differ"],
            _commit(one["environment"]),
        ]
        for name, one in tasks.items()
    ]
    header = "task, questions, shots, longest continuation (tokens), other prompt hash, max Δ, max Δ a token"
    lines = table([*header.split(", "), "flips acc", "flips acc_norm", "other is_greedy", "commit"], rows)
    reported: list[list[object]] = [
        [f"{name} {figure['name']}", figure["ours"], figure["theirs"]]
        for name, one in tasks.items()
        for figure in one["figures"]
    ]
    lines += ["", *table(["reported", "Steelyard", "lm-eval"], reported), "", *verdict(goals)]
    machines = sorted({_machine(one["environment"]) for one in tasks.values()})
    return [
        "# Parity with lm-evaluation-harness: the suite",
        "",
        about,
        "",
        *lines,
        "",
        f"With {'; '.join(machines)}.",
        "",
    ]


def _machine(environment: Mapping[str, Any]) -> str:
    """Program versions and machine; the commit stands in the table."""
    parts = [f"{key} {value}" for key, value in environment.items() if value is not None]
    return ", ".join(part for part in parts if not part.startswith(("commit ", "is_dirty ")))


def _commit(environment: Mapping[str, Any]) -> str:
    return str(environment["commit"])[:10] + (" (changed)" if environment["is_dirty"] else "")


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

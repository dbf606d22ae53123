"""A finished run as lm-evaluation-harness 0.4.13 writes one: `results_<time>.json` and `samples_<task>_<time>.jsonl`.

Each subject is a task of lm-eval's, as in its MMLU, and the run's task is their group. A sample's document is the row
as its file holds it, so that `doc_hash` is lm-eval's where the rows are, `prompt_hash` where the prompts are, and
`task_hashes` where all of a task's are, with the gold choice's index as the target. A sample without a score is in
none of the files; lm-eval knows no such thing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.config import RunPlan, TaskSpec
from bench.errors import RunFolderError
from bench.imports import is_imported
from bench.measures import MEASURES
from bench.records import PromptedSample, Score
from bench.runs.disk import make_folder, write_atomically
from bench.runs.reading import Run, read_run
from bench.schema import validate
from bench.tasks.dataset import load_documents
from bench.tasks.job import TaskJob
from bench.tasks.prepare import prepare_task_job
from bench.tasks.rows import Row

FORMAT_VERSION = "0.4.13"
"""Of lm-eval: whose files these are like."""


@dataclass(frozen=True, slots=True)
class _Part:
    """What becomes one task of lm-eval's: a subject of the run's task, or all of it.

    Attributes:
        documents: the scored samples, each with its place in the subject, its row and its score.
        metrics: run.json's.
        num_available: samples of the subject, scored or not.
    """

    name: str
    documents: tuple[tuple[int, Row, PromptedSample, Score], ...]
    metrics: Mapping[str, Any]
    num_available: int


def export_run(path: Path, out: Path | None = None) -> Path:
    """Write a run's results and samples below `out` (default: `lm_eval` in its folder); returns the results file.

    Raises:
        RunFolderError: the run is not finished, is damaged, was imported, or wrote its answers.
        DataMissingError: its task's rows are not at hand.
        StoreError: the files cannot be written.
    """
    run = read_run(path)
    _check(run)
    spec = validate(RunPlan, run.info["config"], RunFolderError, f"{path}: config").tasks[0]
    job = prepare_task_job(spec)
    if job.prompt_hash != run.info["task"]["prompt_hash"]:
        raise RunFolderError(f"{path}: the prompts of task {spec.task} are others now, so the run's cannot be written")
    parts = _parts(run, job, spec)
    folder = (out or path / "lm_eval") / _safe(run.info["model"]["source"])
    make_folder(folder)
    time = datetime.fromisoformat(run.info["finished_at"]).replace(tzinfo=None).isoformat().replace(":", "-")
    hashes = {}
    for part in parts:
        lines = [_sample(job, *document) for document in part.documents]
        hashes[part.name] = _sha256("".join(line[f"{of}_hash"] for line in lines for of in ("doc", "prompt", "target")))
        text = "".join(json.dumps(line, ensure_ascii=False, default=str) + "\n" for line in lines)
        write_atomically(folder / f"samples_{part.name}_{time}.jsonl", text.encode())
    results = folder / f"results_{time}.json"
    whole = {**_results(run, job, parts), "task_hashes": hashes}
    write_atomically(results, json.dumps(whole, indent=2, ensure_ascii=False, default=str).encode())
    return results


def _check(run: Run) -> None:
    info = run.info
    reasons = {
        "it is not finished": info["status"] != "finished",
        f"it is damaged: {'; '.join(run.problems)}": bool(run.problems),
        "it was imported": is_imported(info),
        "its task is lm-eval's own, and `bench lm-eval` writes such files": "lm_eval" in (info.get("task") or {}),
        "only runs of the lane likelihood are written so": info.get("lane") != "likelihood",
    }
    if reason := next((reason for reason, holds in reasons.items() if holds), None):
        raise RunFolderError(f"{run.path}: cannot be exported to lm-eval: {reason}")


def _parts(run: Run, job: TaskJob, spec: TaskSpec) -> list[_Part]:
    prompted = {item.sample.id: item for item in job.samples}
    scores = {score.id: score for score in run.scores if score.error is None}
    places: dict[str, list[tuple[int, Row, PromptedSample, Score]]] = {}
    available: dict[str, int] = {}
    for sample, row in load_documents(job.task, spec):
        place = available.get(sample.subject, 0)
        available[sample.subject] = place + 1
        if score := scores.get(sample.id):
            places.setdefault(sample.subject, []).append((place, row, prompted[sample.id], score))
    name = task_name(job)
    return [
        _Part(
            name=f"{name}_{subject}" if subject else name,
            documents=tuple(documents),
            metrics=run.info["groups"][subject] if subject else run.info["metrics"],
            num_available=available[subject],
        )
        for subject, documents in places.items()
    ]


def task_name(job: TaskJob) -> str:
    """lm-eval's name of a task: ours, with the form's where it is not the usual one."""
    return job.task.name if job.spec.scoring == job.task.scoring else f"{job.task.name}_{job.spec.scoring}"


def _sample(job: TaskJob, place: int, row: Row, prompted: PromptedSample, score: Score) -> dict[str, Any]:
    """A line of lm-eval's samples file."""
    used = prompted.without_shots(score.num_shots_dropped)
    pairs = [(request.prompt.text, request.continuation) for request in used.requests]
    answers = zip(score.loglikelihoods, score.is_greedy, strict=True)
    resps = [[str(value), str(is_greedy)] for value, is_greedy in answers]
    target = str(score.gold) if score.gold is not None else used.requests[0].continuation
    metrics = {name: measure.value(score) for name in job.form.metrics if (measure := MEASURES[name]).value is not None}
    return {
        "doc_id": place,
        "doc": row,
        "target": target,
        "arguments": {
            f"gen_args_{number}": {"arg_0": context, "arg_1": text} for number, (context, text) in enumerate(pairs)
        },
        "resps": [[resp] for resp in resps],
        "filtered_resps": resps,
        "filter": "none",
        "metrics": list(metrics),
        "doc_hash": _sha256(json.dumps(row, indent=2, default=str, ensure_ascii=False)),
        "prompt_hash": _sha256(pairs[0][0]),
        "target_hash": _sha256(target),
        **metrics,
    }


def _results(run: Run, job: TaskJob, parts: Iterable[_Part]) -> dict[str, Any]:
    """All of lm-eval's results file but the tasks' hashes."""
    info, name = run.info, task_name(job)
    by_name = {part.name: part for part in parts}
    group = {} if name in by_name else {name: info["metrics"]}
    tasks = {part: _metrics(part, own.metrics, len(own.documents)) for part, own in by_name.items()}
    sizes = sum(len(part.documents) for part in by_name.values())
    groups = {one: _metrics(one, metrics, sizes) for one, metrics in group.items()}
    everything = [*groups, *tasks]
    is_higher_better = {metric: MEASURES[metric].higher_is_better for metric in info["metrics"]}
    return {
        "results": {**groups, **tasks},
        **({"groups": groups} if groups else {}),
        "group_subtasks": {one: list(tasks) for one in groups},
        "configs": {one: _task_config(job, one) for one in tasks},
        "versions": dict.fromkeys(everything, job.task.version),
        "n-shot": dict.fromkeys(everything, job.spec.num_fewshot),
        "higher_is_better": dict.fromkeys(everything, is_higher_better),
        "n-samples": {
            one: {"original": part.num_available, "effective": len(part.documents)} for one, part in by_name.items()
        },
        "config": _config(run),
        "git_hash": info["environment"].get("commit"),
        "date": datetime.fromisoformat(info["started_at"]).timestamp(),
        "pretty_env_info": "\n".join(f"{key}: {value}" for key, value in info["environment"].items()),
        "transformers_version": info["environment"].get("transformers"),
        "lm_eval_version": FORMAT_VERSION,
        "upper_git_hash": None,
        "max_length": info["engine"]["max_length"],
        "model_source": "steelyard",
        "model_name": info["model"]["source"],
        "model_name_sanitized": _safe(info["model"]["source"]),
        "system_instruction": None,
        "system_instruction_sha": None,
        "fewshot_as_multiturn": False,
        "chat_template": None,
        "chat_template_sha": None,
        "total_evaluation_time_seconds": str(info["timing"]["total_s"]),
        "steelyard": {"version": info["environment"]["steelyard"], "identity": info["identity"]},
    }


def _metrics(name: str, metrics: Mapping[str, Any], num: int) -> dict[str, Any]:
    """A task's or group's entry; a standard error that is not known is N/A."""
    entry: dict[str, Any] = {"name": name, "alias": name, "sample_len": num}
    for metric, own in metrics.items():
        entry[f"{metric},none"] = own["value"]
        entry[f"{metric}_stderr,none"] = "N/A" if own["stderr"] is None else own["stderr"]
    return entry


def _task_config(job: TaskJob, name: str) -> dict[str, Any]:
    form = job.form
    return {
        "task": name,
        "description": form.description,
        "doc_to_text": form.question,
        "target_delimiter": form.delimiter,
        "fewshot_delimiter": form.shot_separator,
        "num_fewshot": job.spec.num_fewshot,
        "metric_list": [{"metric": metric} for metric in form.metrics],
        "output_type": _output_type(job),
        "repeats": 1,
        "should_decontaminate": False,
        "metadata": {"version": job.task.version},
    }


def _output_type(job: TaskJob) -> str:
    if job.form.needs_choices:
        return "multiple_choice"
    return "loglikelihood" if job.form.question else "loglikelihood_rolling"


def _config(run: Run) -> dict[str, Any]:
    """How the run was made, in lm-eval's names."""
    model, info = run.info["model"], run.info
    return {
        "model": "steelyard",
        "model_args": {"pretrained": model["source"], "dtype": model["dtype"]},
        "model_num_parameters": model["num_parameters"],
        "model_dtype": f"torch.{model['dtype']}",
        "model_revision": info["config"]["models"][0]["revision"] or "main",
        "model_sha": model["revision"],
        "batch_size": "auto",
        "batch_sizes": [],
        "device": info["engine"]["device"],
        "use_cache": None,
        "limit": info["task"]["limit"],
        "bootstrap_iters": 0,
        "gen_kwargs": None,
        "random_seed": None,
        "numpy_seed": None,
        "torch_seed": None,
        "fewshot_seed": None,
    }


def _safe(name: str) -> str:
    """A model's name as lm-eval makes a folder's of it."""
    return re.sub(r"[\"<>:/|\\?*\[\]]+", "__", name)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

"""studies/recompute.py: reference libraries, over what runs have stored."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest
from recompute import study
from runs import Bench, only_run

from bench.config import RunPlan
from bench.errors import RunFolderError
from bench.runs.disk import write_json
from bench.runs.journal import encode, seal, unseal
from bench.runs.reading import read_run
from bench.schema import validate
from bench.tasks.prepare import prepare_job

TASK = """\
version: 1
title: Answers
sources:
  - test: rows.jsonl
    columns: {question: asked, references: right}
scoring: all
forms:
  all:
    question: "{{ question }}"
    generate: {max_tokens: 4}
    metrics:
      [exact_match, squad_f1, squad_em, rouge1, rouge2, rouge_l, rouge_lsum, bleu, bleu_zh, bleu_char, chrf, chrf_pp]
"""
RIGHT = [
    ["The cat sat on a mat."],
    ["A dog, asleep", "dogs sleeping all day long"],
    ["42"],
    ["na\u00efve \u5927\u732b"],
]
WRITTEN = ["the cat sat on the mats", "Dogs sleeping all day", "42", ""]


def run(folder: Path, cli: Bench) -> Path:
    """A run of the fake model with other completions put in the place of its own, and scored by `bench`."""
    rows = [{"asked": f"Question {number}?", "right": right} for number, right in enumerate(RIGHT)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "task.yaml").write_text(TASK)
    plan = folder / "plan.yaml"
    plan.write_text(f"{{models: [{{source: fake}}], tasks: [{folder}/task.yaml], out: {folder}/results}}")
    assert cli("run", plan).code == 0
    path = only_run(folder / "results")
    written = dict(zip(sorted(line_ids(path)), WRITTEN, strict=True))
    rescore(path, written)
    return path


def line_ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in (path / "samples.jsonl").read_text().splitlines()]


def rescore(path: Path, written: dict[str, str]) -> None:
    """Put completions into a run, and have `bench` score them."""
    found = read_run(path)
    job = prepare_job(validate(RunPlan, found.info["config"], RunFolderError, "config").tasks[0])
    scores = [
        job.score_completion(sample, replace(score.completion, text=written[score.id]))
        for sample, score in zip(job.samples, found.scores, strict=True)
        if score.completion is not None
    ]
    (path / "samples.jsonl").write_bytes(b"".join(map(encode, scores)))
    write_json(path / "run.json", {**found.info, **job.summarise(scores)})


def test_what_the_libraries_make_of_it_is_what_the_run_says(
    tmp_path: Path, cli: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run(tmp_path, cli)
    assert study(argparse.Namespace(runs=[path])) == 0
    lines = capsys.readouterr().out.splitlines()
    figures = {line.split(" | ")[1]: float(line.split(" | ")[3]) for line in lines if line.startswith(f"| {path.name}")}
    assert len(figures) == 12
    assert all(0 < value < 1 for value in figures.values())
    assert figures["exact_match"] == 0.25
    changed = (path / "samples.jsonl").read_bytes().replace(b"42", b"43")
    body = [unseal(line) or line for line in changed.splitlines()]
    (path / "samples.jsonl").write_bytes(b"".join(seal(line) for line in body))
    assert study(argparse.Namespace(runs=[path])) == 1


def test_a_run_of_likelihoods_is_refused(tmp_path: Path, cli: Bench) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(f"{{models: [{{source: fake}}], tasks: [{{task: pocket, limit: 1}}], out: {tmp_path}/results}}")
    assert cli("run", plan).code == 0
    with pytest.raises(RunFolderError, match="is no finished run of the lane generate"):
        study(argparse.Namespace(runs=[only_run(tmp_path / "results")]))

"""Are the metrics of written answers what the reference libraries make of the stored completions?

Takes run folders of the lane `generate`. What was read from each completion (`extracted` in samples.jsonl) is put, with
the right answers of the task's rows, to sacrebleu (BLEU, chrF), rouge-score (ROUGE), transformers' copy of SQuAD's
official script (F1, EM) and lm-evaluation-harness's exact_match, through their public functions, all samples at once.
Goal: no figure differs by more than 1e-9; exit code 1 if one does. Needs the rows where they were.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common import run_study, table, verdict

from bench.config import RunPlan
from bench.errors import RunFolderError
from bench.runs.reading import find_runs, read_run
from bench.schema import validate
from bench.tasks.job import TaskJob
from bench.tasks.prepare import prepare_job
from bench.writing.answers import references

TOLERANCE = 1e-9
Texts = Sequence[str]
Measure = Callable[[Texts, Sequence[Texts]], float]


def study(options: argparse.Namespace) -> int:
    """Recompute all metrics of all runs; returns the exit code."""
    rows: list[list[object]] = []
    differences = []
    for path in find_runs(options.runs):
        answers, right, figures = _read(path)
        for name, value in figures.items():
            if name not in _MEASURES:
                rows.append([path.name, name, len(answers), value, "not recomputed", ""])
                continue
            library, measure = _MEASURES[name]
            found = measure(answers, right)
            differences.append(abs(found - value))
            rows.append([path.name, name, len(answers), value, f"{found} ({library})", f"{differences[-1]:.0e}"])
    goals = {f"no figure differs by more than {TOLERANCE:g}": bool(differences) and max(differences) <= TOLERANCE}
    lines = [*table(["run", "metric", "samples", "Steelyard", "recomputed", "Δ"], rows), "", *verdict(goals)]
    print("\n".join(lines))
    return 0 if all(goals.values()) else 1


def _read(path: Path) -> tuple[Texts, list[Texts], dict[str, float]]:
    """The answers read from a run's completions, the right ones, and what the run reports."""
    run = read_run(path)
    if run.info.get("status") != "finished" or run.info.get("lane") != "generate":
        raise RunFolderError(f"{path}: is no finished run of the lane generate")
    job = prepare_job(validate(RunPlan, run.info["config"], RunFolderError, f"{path}/run.json: config").tasks[0])
    if not isinstance(job, TaskJob):
        raise RunFolderError(f"{path}: is of a task of lm-evaluation-harness's, which has metrics of its own")
    known = {one.sample.id: references(one.sample, job.form) for one in job.samples}
    stored = [json.loads(line) for line in (path / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    scored = [line for line in stored if not line.get("error")]
    figures = {name: part["value"] for name, part in run.info["metrics"].items()}
    return [line.get("extracted") or "" for line in scored], [known[line["id"]] for line in scored], figures


def _exact_match(answers: Texts, right: Sequence[Texts]) -> float:
    from lm_eval.api.metrics import exact_match_fn

    found = [
        max(float(exact_match_fn(predictions=[answer], references=[one])["exact_match"]) for one in own)
        for answer, own in zip(answers, right, strict=True)
    ]
    return sum(found) / len(found)


def _squad(function: str) -> Measure:
    def measure(answers: Texts, right: Sequence[Texts]) -> float:
        from transformers.data.metrics import squad_metrics

        one_of = getattr(squad_metrics, function)
        found = [max(one_of(one, answer) for one in own) for answer, own in zip(answers, right, strict=True)]
        return float(sum(found)) / len(found)

    return measure


def _rouge(kind: str) -> Measure:
    def measure(answers: Texts, right: Sequence[Texts]) -> float:
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer([kind], use_stemmer=True)
        found = [
            max(scorer.score(one, answer)[kind].fmeasure for one in own)
            for answer, own in zip(answers, right, strict=True)
        ]
        return float(sum(found)) / len(found)

    return measure


def _sacrebleu(kind: str, **settings: Any) -> Measure:
    def measure(answers: Texts, right: Sequence[Texts]) -> float:
        import sacrebleu.metrics

        most = max(map(len, right))
        streams = [[own[place] if place < len(own) else None for own in right] for place in range(most)]
        metric = getattr(sacrebleu.metrics, kind)(**settings)
        return float(metric.corpus_score(list(answers), streams).score) / 100

    return measure


_MEASURES: dict[str, tuple[str, Measure]] = {
    "exact_match": ("lm-eval", _exact_match),
    "squad_f1": ("transformers", _squad("compute_f1")),
    "squad_em": ("transformers", _squad("compute_exact")),
    "rouge1": ("rouge-score", _rouge("rouge1")),
    "rouge2": ("rouge-score", _rouge("rouge2")),
    "rouge_l": ("rouge-score", _rouge("rougeL")),
    "rouge_lsum": ("rouge-score", _rouge("rougeLsum")),
    "bleu": ("sacrebleu", _sacrebleu("BLEU")),
    "bleu_zh": ("sacrebleu", _sacrebleu("BLEU", tokenize="zh")),
    "bleu_char": ("sacrebleu", _sacrebleu("BLEU", tokenize="char")),
    "chrf": ("sacrebleu", _sacrebleu("CHRF")),
    "chrf_pp": ("sacrebleu", _sacrebleu("CHRF", word_order=2)),
}


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run folder, or a folder of some")
    return run_study(study, parser)


if __name__ == "__main__":
    sys.exit(main())

"""lm-eval's tasks in our plans: equal prompts, equal samples, equal numbers, for each of its request types."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from lm_eval.api.model import LM
from lm_eval_tasks import evaluate, write_tasks
from runs import Bench, only_run, run_folders, write_plan
from test_lmeval import hf

from bench.config import TaskSpec
from bench.errors import DataMissingError, PlanError, TaskError
from bench.lmeval.job import LmEvalJob
from bench.runs.journal import encode
from bench.runs.reading import Run, read_run
from bench.tasks.prepare import prepare_job

_TWO_FILTERS = [
    {"name": "first", "filter": [{"function": "regex", "regex_pattern": "(\\w)"}, {"function": "take_first"}]},
    {"name": "last", "filter": [{"function": "regex", "regex_pattern": "(.)$"}, {"function": "take_first"}]},
]
MORE: dict[str, dict[str, Any]] = {
    "own_blank": {  # the choice stands in the context
        "output_type": "multiple_choice",
        "doc_to_text": "{{['A', 'B', 'C', 'D'].index(answer)}}",
        "doc_to_choice": "{{['It is ' ~ A, 'It is ' ~ B, 'It is ' ~ C, 'It is ' ~ D]}}",
        "doc_to_target": "and not another",
        "metric_list": [{"metric": "acc"}],
    },
    "own_surprise": {  # choices without their question, too
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "{{[A, B, C, D]}}",
        "doc_to_target": "{{['A', 'B', 'C', 'D'].index(answer)}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_mutual_info"}, {"metric": "brier_score"}, {"metric": "mcc"}],
    },
    "own_shares": {  # several right, reckoned by the task's own code
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "{{[A, B, C, D]}}",
        "doc_to_target": "{{['A', 'B', 'C', 'D'].index(answer)}}",
        "process_results": "!function own.shares",
        "metric_list": [{"metric": "acc"}, {"metric": "share", "aggregation": "mean", "higher_is_better": True}],
    },
    "own_filtered": {
        "output_type": "generate_until",
        "doc_to_text": "Q: {{question}}\nA:",
        "doc_to_target": "{{C}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6},
        "filter_list": _TWO_FILTERS,
        "metric_list": [{"metric": "exact_match", "ignore_case": True}, {"metric": "bleu"}],
    },
    "own_places": {  # what two filters read, told apart by the task's own code
        "output_type": "generate_until",
        "doc_to_text": "Q: {{question}}\nA:",
        "doc_to_target": "{{C}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6},
        "filter_list": _TWO_FILTERS,
        "process_results": "!function own.places",
        "metric_list": [{"metric": "place", "aggregation": "mean", "higher_is_better": True}],
    },
}
_CODE = """
import math

def shares(doc, results):
    masses = [math.exp(value) for value, _ in results]
    return {"acc": float(masses[0] == max(masses)), "share": masses[0] / sum(masses)}

def places(doc, results):
    return {"place": float(sum(map(ord, results[0])))}
"""
GROUPS: dict[str, dict[str, Any]] = {
    "own_pair": {"task": ["own_cloze", "own_blank"], "aggregate_metric_list": [{"metric": "acc"}]},
    "own_nest": {"task": ["own_surprise", "own_pair"], "aggregate_metric_list": [{"metric": "acc"}]},
    "own_mixed": {"task": ["own_cloze", "own_answers"]},
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tasks(tmp_path_factory.mktemp("tasks"), num_rows=6)
    common = yaml.safe_load((folder / "own_cloze.yaml").read_text())
    shared = {key: common[key] for key in ("dataset_path", "dataset_kwargs", "test_split", "fewshot_split", "metadata")}
    for name, task in MORE.items():
        text = yaml.safe_dump({"task": name, **shared, **task})
        (folder / f"{name}.yaml").write_text(re.sub(r"'(!function own\.\w+)'", r"\1", text))
    for name, group in GROUPS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"group": name, **group}))
    (folder / "own.py").write_text(_CODE)
    return folder


@pytest.fixture(autouse=True)
def _apart(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets")


class Replay(LM):  # type: ignore[misc]
    """What a finished run's model said, said again to lm-eval."""

    def __init__(self, job: LmEvalJob, run: Run) -> None:
        super().__init__()
        self.said: dict[Any, Any] = {}
        for sample, score in zip(job.samples, run.scores, strict=True):
            for place, request in enumerate(sample.requests):
                if score.completion is not None:
                    self.said[request.prompt.text] = score.completion.text
                elif request.is_whole:
                    self.said[request.continuation] = score.loglikelihoods[0]
                else:
                    said = score.loglikelihoods[place], score.is_greedy[place]
                    self.said[request.prompt.text, request.continuation] = said

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        return [self.said[request.args] for request in requests]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[Any]:
        return [self.said[request.args[0]] for request in requests]

    generate_until = loglikelihood_rolling


def plan(name: str, tasks: Path, **settings: Any) -> dict[str, Any]:
    return {"task": f"lm_eval:{name}", "include_path": str(tasks), **settings}


def finish(folder: Path, cli: Bench, *entries: dict[str, Any]) -> Run:
    path = write_plan(folder, tasks=list(entries))
    done = cli("run", path)
    assert done.code == 0, done.err
    return read_run(only_run(folder / "results"))


def job_of(name: str, tasks: Path, **settings: Any) -> LmEvalJob:
    job = prepare_job(TaskSpec.model_validate(plan(name, tasks, **settings)))
    assert isinstance(job, LmEvalJob)
    return job


def ours(metrics: dict[str, Any]) -> dict[str, tuple[float, Any]]:
    """A run's numbers by lm-eval's names."""
    named = {name if "," in name else f"{name},none": part for name, part in metrics.items()}
    return {name: (part["value"], part["stderr"]) for name, part in named.items()}


def theirs(result: dict[str, Any]) -> dict[str, tuple[float, Any]]:
    found = {}
    for name, value in result.items():
        metric, comma, ensemble = name.partition(",")
        if comma and not metric.endswith("_stderr"):
            stderr = result[f"{metric}_stderr,{ensemble}"]
            found[name] = (value, None if stderr == "N/A" else stderr)
    return found


NAMES = ["own_answers", "own_cloze", "own_last_word", "own_letters", "own_text", *MORE]
_DRAWN = {"perplexity", "mcc", "bleu"}  # whose standard error lm-eval draws by bootstrap


@pytest.mark.parametrize("name", NAMES)
def test_samples_and_numbers_are_lm_evals(name: str, tasks: Path, tmp_path: Path, cli: Bench) -> None:
    run = finish(tmp_path, cli, plan(name, tasks))
    job = job_of(name, tasks)
    found = evaluate(Replay(job, run), tasks, [name], bootstrap_iters=2)
    expected = theirs(found["results"][name])
    for metric in expected:
        if metric.split(",")[0] in _DRAWN:
            expected[metric] = (expected[metric][0], None)
    assert ours(run.info["metrics"]) == expected
    samples = found["samples"][name]
    for score, sample in zip(run.scores * (len(samples) // len(run.scores)), samples, strict=True):
        assert score.prompt_hash == (sample["prompt_hash"] if name != "own_text" else score.prompt_hash)
        for metric in sample["metrics"]:
            own = score.values.get(metric if sample["filter"] == "none" else f"{metric},{sample['filter']}")
            assert own == (sample[metric] if isinstance(sample[metric], int | float) else None)
    assert run.info["task"]["num_fewshot"] == found["n-shot"][name]


def test_shots_are_drawn_as_lm_eval_draws_them(tasks: Path, tmp_path: Path, cli: Bench) -> None:
    run = finish(tmp_path, cli, plan("own_answers", tasks, num_fewshot=2))
    job = job_of("own_answers", tasks, num_fewshot=2)
    found = evaluate(Replay(job, run), tasks, ["own_answers"], num_fewshot=2)
    assert [score.prompt_hash for score in run.scores] == [
        one["prompt_hash"] for one in found["samples"]["own_answers"]
    ]
    assert "-2shot." in run.path.name


def test_the_answers_are_those_of_lm_evals_own_model(tasks: Path, tmp_path: Path, cli: Bench) -> None:
    names = ["own_letters", "own_surprise", "own_text", "own_filtered"]
    path = write_plan(tmp_path, tasks=[plan(name, tasks) for name in names])
    assert cli("run", path).code == 0
    runs = {run.info["task"]["name"]: run for run in map(read_run, run_folders(tmp_path / "results"))}
    for name, samples in evaluate(hf(), tasks, names)["samples"].items():
        for score, sample in zip(runs[name].scores, samples, strict=False):
            if score.completion is not None:
                assert [[score.completion.text]] == sample["resps"]
                continue
            answers = [answer[0] if isinstance(answer, tuple | list) else answer for (answer,) in sample["resps"]]
            assert list(score.loglikelihoods) == pytest.approx(answers, rel=1e-6, abs=1e-4)  # a text is a sum of many


def test_a_group_is_one_run_whose_subjects_are_its_tasks(tasks: Path, tmp_path: Path, cli: Bench) -> None:
    run = finish(tmp_path, cli, plan("own_nest", tasks))
    found = evaluate(Replay(job_of("own_nest", tasks), run), tasks, ["own_nest"], bootstrap_iters=2)["results"]
    assert ours(run.info["metrics"]) == theirs(found["own_nest"])
    leaves = ["own_surprise", "own_cloze", "own_blank"]
    assert list(run.info["groups"]) == leaves
    for leaf in leaves:
        assert ours(run.info["groups"][leaf])["acc,none"] == theirs(found[leaf])["acc,none"]
    assert ours({"acc": run.info["categories"]["own_pair"]["acc"]}) == theirs(found["own_pair"])
    assert run.info["macro"]["acc"]["value"] == sum(found[leaf]["acc,none"] for leaf in leaves) / 3


def test_what_is_missing_is_scored_again_and_nothing_else(tasks: Path, tmp_path: Path, cli: Bench) -> None:
    whole = finish(tmp_path, cli, plan("own_cloze", tasks))
    path, lines = only_run(tmp_path / "results"), [encode(score) for score in whole.scores]
    (path / "samples.jsonl").write_bytes(b"".join(lines[:4]))
    info = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({**info, "status": "running"}))
    again = finish(tmp_path, cli, plan("own_cloze", tasks))
    assert (again.scores, again.info["metrics"]) == (whole.scores, whole.info["metrics"])
    assert again.info["num_sittings"] == 2


@pytest.mark.parametrize("name", ["own_nest", "own_text", "own_filtered"])
def test_a_run_can_be_shown_and_verified(name: str, tasks: Path, tmp_path: Path, cli: Bench) -> None:
    run = finish(tmp_path, cli, plan(name, tasks, limit=3))
    assert run.info["task"]["limit"] == 3
    assert cli("verify", run.path).code == 0
    shown = cli("show", run.path).out
    assert f"{name} · lm_eval · 0-shot" in shown
    assert all(f"{metric} " in shown for metric in run.info["metrics"])
    assert name in cli("table", tmp_path / "results").out
    first = run.scores[0].id
    assert "prompt" in cli("show", run.path, "--sample", first).out
    samples = (run.path / "samples.jsonl").read_bytes()
    wrong = json.loads((run.path / "run.json").read_text())
    next(iter(wrong["metrics"].values()))["value"] = 0.625
    (run.path / "run.json").write_text(json.dumps(wrong))
    assert "does not follow" in cli("verify", run.path).complaint
    assert (run.path / "samples.jsonl").read_bytes() == samples


def test_runs_are_compared_and_not_exported(tasks: Path, tmp_path: Path, cli: Bench) -> None:
    models = [{"source": "fake", "name": name} for name in ("one", "two")]
    assert cli("run", write_plan(tmp_path, models=models, tasks=[plan("own_cloze", tasks)])).code == 0
    first, second = run_folders(tmp_path / "results")
    assert "6 questions" in cli("compare", first, second).out
    assert "lm-eval's own" in cli("export", first, "--to", "lm-eval").complaint


def test_what_changes_answers_changes_the_identity(tasks: Path, tmp_path: Path) -> None:
    same = job_of("own_cloze", tasks).identity()
    assert job_of("own_cloze", tasks, num_fewshot=0).identity() == same
    assert job_of("own_cloze", tasks, limit=2).identity() != same
    assert job_of("own_letters", tasks, num_fewshot=1).identity() != job_of("own_letters", tasks).identity()
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in tasks.iterdir():
        if file.is_file():
            (moved / file.name).write_bytes(file.read_bytes())
    assert job_of("own_cloze", moved).identity() == same
    text = (moved / "own_cloze.yaml").read_text()
    (moved / "own_cloze.yaml").write_text(text.replace("metric: acc_norm", "metric: acc_bytes"))
    assert job_of("own_cloze", moved).identity() != same


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"task": "lm_eval:own_clozze"}, "did you mean 'own_cloze'?"),
        ({"task": "lm_eval:own_mixed"}, "name them one by one: lm_eval:own_cloze, lm_eval:own_answers"),
        ({"num_fewshot": 2}, "own_cloze says 0"),
        ({"include_path": "nowhere"}, "include_path: no folder 'nowhere'"),
    ],
)
def test_what_cannot_be_run_is_one_line(settings: dict[str, Any], told: str, tasks: Path) -> None:
    with pytest.raises(PlanError, match=r"^task lm_eval:") as caught:
        prepare_job(TaskSpec.model_validate({**plan("own_cloze", tasks), **settings}))
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"repeats": 4}, "wants 4 completions"),
        ({"unsafe_code": True}, "executes code"),
        ({"generation_kwargs": {"num_beams": 4}}, "generation argument num_beams"),
        ({"doc_to_text": "{{question"}, "cannot load it"),
        ({"dataset_kwargs": {"data_files": {"test": "absent.csv"}}}, "its rows are not at hand"),
    ],
)
def test_a_task_that_a_plan_cannot_run(change: dict[str, Any], told: str, tasks: Path, tmp_path: Path) -> None:
    task = yaml.safe_load((tasks / "own_answers.yaml").read_text())
    (tmp_path / "odd.yaml").write_text(yaml.safe_dump({**task, "task": "odd", **change}))
    with pytest.raises((PlanError, TaskError, DataMissingError), match="task lm_eval:odd: ") as caught:
        job_of("odd", tmp_path)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"task": "lm_eval:a", "subjects": ["b"]}, "subjects means nothing for a task of lm-evaluation-harness's"),
        ({"task": "lm_eval:a", "scoring": "letter"}, "has one form, lm_eval"),
        ({"task": "pocket", "include_path": "b"}, "include_path means nothing for one of our tasks"),
        ({"task": "pocket", "num_fewshot": None}, "num_fewshot must be a whole number"),
    ],
)
def test_what_a_plan_says_in_vain(entry: dict[str, Any], told: str, tmp_path: Path, cli: Bench) -> None:
    assert told in cli("run", write_plan(tmp_path, tasks=[entry])).complaint


def test_without_lm_eval_the_error_is_how_to_install_it(
    tmp_path: Path, cli: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    complaint = cli("run", write_plan(tmp_path, tasks=["lm_eval:arc_easy"])).complaint
    assert "pip install 'steelyard[lm-eval]'" in complaint


def test_a_sample_that_lm_eval_cannot_score_is_a_failure(tasks: Path, tmp_path: Path, cli: Bench) -> None:
    broken = tmp_path / "broken"
    write_tasks(broken)
    task = yaml.safe_load((broken / "own_cloze.yaml").read_text())
    text = yaml.safe_dump({**task, "process_results": "!function own.fail"})
    (broken / "own_cloze.yaml").write_text(text.replace("'!function own.fail'", "!function own.fail"))
    (broken / "own.py").write_text(
        "seen = []\n\ndef fail(doc, results):\n"
        "    seen.append(doc) if doc not in seen else None\n    return {'acc': 1.0 / seen.index(doc)}\n"
    )
    assert cli("run", write_plan(tmp_path, tasks=[plan("own_cloze", broken)])).code == 1
    run = read_run(only_run(tmp_path / "results"))
    (failed,) = [score for score in run.scores if score.error is not None]
    assert failed.error == "lm-evaluation-harness cannot score it: ZeroDivisionError: float division by zero"
    assert (run.info["metrics"]["acc"]["num_failed"], run.info["metrics"]["acc"]["num_scored"]) == (1, 4)


def test_plans_of_our_own_tasks_leave_lm_eval_alone() -> None:
    code = (
        "import sys; from bench.config import TaskSpec; from bench.tasks.prepare import prepare_job;"
        "TaskSpec.model_validate({'task': 'lm_eval:arc_easy'});"
        "prepare_job(TaskSpec.model_validate({'task': 'pocket', 'limit': 1}));"
        "sys.exit('lm_eval' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

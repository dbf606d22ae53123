"""Runs written as lm-eval's files and read from them, against lm-eval's own of the same model on the same rows."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import helpers  # noqa: F401  # sets the number of threads
import pytest
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import make_table
from lm_eval_tasks import POCKET
from runs import Bench, only_run, read_info, read_lines, write_plan

from bench.errors import DataError
from bench.imports.formats.lm_eval import read
from bench.models.fake import fake_config, fake_model, fake_tokenizer

SUBJECTS = ("astronomy", "biology")
QUESTION = "{{ question }}\nA. {{ A }}\nB. {{ B }}\nC. {{ C }}\nD. {{ D }}\nAnswer:"
LETTERS = ["A", "B", "C", "D"]
METRICS = ["acc", "acc_norm"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Rows of two subjects, a task of ours over them, and a group of lm-eval's over the same."""
    with POCKET.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for subject in SUBJECTS:
        for split, num in (("test", 4), ("shots", 2)):
            own = [row for row in rows if row["subject"] == subject and row["split"] == split][:num]
            lines = [json.dumps({**row, "answer": LETTERS.index(row["answer"])}) for row in own]
            (tmp_path / f"{subject}_{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    ours = {
        "version": 3,
        "title": "A quiz",
        "licence": "Apache-2.0",
        "sources": [
            {
                "test": "{subject}_test.jsonl",
                "shots": "{subject}_shots.jsonl",
                "columns": {"question": "question", "choices": LETTERS, "gold": {"column": "answer", "as": "index"}},
            }
        ],
        "num_choices": 4,
        "num_fewshot": 2,
        "scoring": "letter",
        "forms": {
            "letter": {"description": "On {{ subject }}.\n\n", "question": QUESTION, "continuations": "labels"},
            "cloze": {
                "question": "Q: {{ question }}\nA:",
                "continuations": "choices",
                "metric": "acc_norm",
            },
        },
    }
    (tmp_path / "quiz.yaml").write_text(yaml.safe_dump(ours), encoding="utf-8")
    write_lm_eval_tasks(tmp_path, "quiz", QUESTION, LETTERS, "On {}.\n\n")
    write_lm_eval_tasks(tmp_path, "quiz_cloze", "Q: {{question}}\nA:", "{{[A, B, C, D]}}", "")
    return tmp_path


def write_lm_eval_tasks(folder: Path, name: str, question: str, choices: Any, description: str) -> None:
    (folder / "lm_eval").mkdir(exist_ok=True)
    for subject in SUBJECTS:
        files = {split: str(folder / f"{subject}_{split}.jsonl") for split in ("test", "shots")}
        task = {
            "task": f"{name}_{subject}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": files},
            "test_split": "test",
            "fewshot_split": "shots",
            "fewshot_config": {"sampler": "first_n"},
            "num_fewshot": 2,
            "output_type": "multiple_choice",
            "description": description.format(subject),
            "doc_to_text": question,
            "doc_to_choice": choices,
            "doc_to_target": "answer",
            "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in METRICS],
            "metadata": {"version": 3},
        }
        (folder / "lm_eval" / f"{name}_{subject}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    group = {
        "group": name,
        "task": [f"{name}_{subject}" for subject in SUBJECTS],
        "aggregate_metric_list": [{"metric": metric, "weight_by_size": True} for metric in METRICS],
        "metadata": {"version": 3},
    }
    (folder / "lm_eval" / f"_{name}.yaml").write_text(yaml.safe_dump(group), encoding="utf-8")


@pytest.fixture(autouse=True)
def _quick_and_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr("torch.utils.collect_env.get_pretty_env_info", lambda: "")


def lm_evals_own_files(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    model = HFLM(pretrained=fake_model(fake_config()), tokenizer=fake_tokenizer(), backend="causal", max_length=4096)
    tracker = EvaluationTracker(output_path=str(folder / "theirs"))
    manager = TaskManager(include_path=str(folder / "lm_eval"), include_defaults=False)
    found = simple_evaluate(model, tasks=[name], task_manager=manager, evaluation_tracker=tracker)
    assert found is not None
    samples = found.pop("samples")
    tracker.save_results_aggregated(found, samples)
    for task, own in samples.items():
        tracker.save_results_samples(task, own)
    return read_files(next((folder / "theirs").glob("*/results_*.json")))


def read_files(results: Path) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    samples = {
        path.name.removeprefix("samples_").rpartition("_")[0]: [
            json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()
        ]
        for path in results.parent.glob("samples_*.jsonl")
    }
    return json.loads(results.read_text(encoding="utf-8")), samples


def exported(folder: Path, cli: Bench, scoring: str = "letter") -> Path:
    task = {"task": str(folder / "quiz.yaml"), "scoring": scoring}
    plan = write_plan(folder, models=[{"source": "fake", "device": "cpu"}], tasks=[task])
    assert cli("run", plan, "--out", folder / "results").code == 0
    done = cli("export", only_run(folder / "results"), "--to", "lm-eval", "--out", folder / "ours")
    assert done.code == 0
    return Path(done.out.strip())


@pytest.mark.parametrize(("scoring", "name"), [("letter", "quiz"), ("cloze", "quiz_cloze")])
def test_the_files_are_lm_evals(scoring: str, name: str, folder: Path, cli: Bench) -> None:
    results, samples = read_files(exported(folder, cli, scoring))
    their_results, their_samples = lm_evals_own_files(folder, name)
    assert results["task_hashes"] == their_results["task_hashes"]
    assert set(results["results"]) == {name, *(f"{name}_{subject}" for subject in SUBJECTS)}
    for part, metrics in their_results["results"].items():
        for key, value in metrics.items():
            own = results["results"][part].get(key)
            if isinstance(value, float):
                assert own == pytest.approx(value, abs=1e-12)
            elif key in ("sample_len", "name"):
                assert own == value
    assert results["n-samples"] == their_results["n-samples"]
    assert results["n-shot"] == their_results["n-shot"]
    for part, theirs in their_samples.items():
        for mine, other in zip(samples[part], theirs, strict=True):
            assert set(mine) == set(other)
            exact = set(mine) - {"resps", "filtered_resps"}
            assert {key: mine[key] for key in exact} == {key: other[key] for key in exact}
            for (value, is_greedy), (their_value, their_is_greedy) in zip(
                mine["filtered_resps"], other["filtered_resps"], strict=True
            ):
                assert float(value) == pytest.approx(float(their_value), abs=1e-4)
                assert is_greedy == their_is_greedy


def test_lm_eval_makes_its_table_of_them(folder: Path, cli: Bench) -> None:
    results, _ = read_files(exported(folder, cli))
    assert "|quiz_astronomy|" in make_table(results).replace(" ", "").replace("-quiz", "quiz")
    assert "|quiz" in make_table(results, "groups")


def test_a_run_that_is_not_finished_is_refused(folder: Path, cli: Bench) -> None:
    exported(folder, cli)
    run = only_run(folder / "results")
    info = json.loads((run / "run.json").read_text(encoding="utf-8"))
    (run / "run.json").write_text(json.dumps({**info, "status": "running"}), encoding="utf-8")
    done = cli("export", run, "--to", "lm-eval")
    assert done.code == 2
    assert "cannot be exported to lm-eval: it is not finished" in done.complaint


def test_a_task_that_has_changed_since_is_refused(folder: Path, cli: Bench) -> None:
    exported(folder, cli)
    text = (folder / "quiz.yaml").read_text(encoding="utf-8")
    (folder / "quiz.yaml").write_text(text.replace("On {{ subject }}", "About {{ subject }}"), encoding="utf-8")
    done = cli("export", only_run(folder / "results"), "--to", "lm-eval")
    assert done.code == 2
    assert "the prompts of task" in done.complaint


@pytest.mark.parametrize(("scoring", "name"), [("letter", "quiz"), ("cloze", "quiz_cloze")])
def test_lm_evals_own_files_become_the_run_that_we_would_have_made(
    scoring: str, name: str, folder: Path, cli: Bench
) -> None:
    exported(folder, cli, scoring)
    lm_evals_own_files(folder, name)
    done = cli("import", "lm-eval", folder / "theirs", "--task", folder / "quiz.yaml", "--out", folder / "imported")
    assert done.code == 0
    ours, theirs = only_run(folder / "results"), only_run(folder / "imported")
    info, imported = read_info(ours), read_info(theirs)
    assert (imported["task"]["scoring"], imported["task"]["num_fewshot"]) == (scoring, 2)
    assert imported["import"]["num_matched"] == 8
    for metric in METRICS:
        assert imported["metrics"][metric]["value"] == info["metrics"][metric]["value"]
    for mine, other in zip(read_lines(ours), read_lines(theirs), strict=True):
        assert (mine["id"], mine["prompt_hash"]) == (other["id"], other["prompt_hash"])
        assert mine["loglikelihoods"] == pytest.approx(other["loglikelihoods"], abs=1e-4)
        assert mine["is_greedy"] == other["is_greedy"]


def test_our_own_files_come_back_as_they_went(folder: Path, cli: Bench) -> None:
    results = exported(folder, cli)
    done = cli("import", "lm-eval", results.parent, "--task", folder / "quiz.yaml", "--out", folder / "imported")
    assert done.code == 0
    ours, back = read_lines(only_run(folder / "results")), read_lines(only_run(folder / "imported"))
    same = ("id", "gold", "prediction", "prediction_norm", "loglikelihoods", "is_greedy", "prompt_hash", "correct")
    assert [{key: line[key] for key in same} for line in ours] == [{key: line[key] for key in same} for line in back]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda row: {**row, "doc": {"text": "?"}}, "row 1: its document has none of the columns question"),
        (lambda row: {**row, "doc": {"question": "?"}}, "row 1: its document has no column with the choices"),
        (lambda row: {**row, "filtered_resps": row["filtered_resps"][1:]}, "row 1: 4 requests have 3 answers"),
        (lambda row: {**row, "filtered_resps": [["x", "True"]] * 4}, "row 1: is not a sample of lm-eval"),
        (lambda row: {"doc": row["doc"]}, "row 1: is not a sample of lm-eval: KeyError('arguments')"),
        (lambda row: {**row, "arguments": {"gen_args_0": row["arguments"]["gen_args_0"]}}, "holds no results"),
    ],
)
def test_files_that_are_not_lm_evals(change: Any, told: str, tmp_path: Path) -> None:
    pairs = {f"gen_args_{i}": {"arg_0": "Q", "arg_1": f" {letter}"} for i, letter in enumerate(LETTERS)}
    row = {"doc": {"question": "?", "choices": list("wxyz")}, "arguments": pairs}
    row["filtered_resps"] = [["-1.5", "False"]] * 4
    (tmp_path / "samples_quiz_now.jsonl").write_text(json.dumps(change(row)) + "\n", encoding="utf-8")
    info = {"n-shot": {"quiz": 0}, "model_name": "m"}
    (tmp_path / "results_now.json").write_text(json.dumps(info), encoding="utf-8")
    with pytest.raises(DataError) as error:
        read(tmp_path)
    assert told in str(error.value)


def test_files_of_an_older_lm_eval(tmp_path: Path) -> None:
    row = {"doc": {"query": "?", "choices": {"text": list("wxyz"), "label": LETTERS}}}
    row |= {"arguments": [["Q", f" {text}"] for text in "wxyz"], "filtered_resps": [[-1.5, True], [-2, False]] * 2}
    (tmp_path / "samples_quiz_now.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    (tmp_path / "results_now.json").write_text('{"n-shot": {}, "model_name": "m"}', encoding="utf-8")
    (recording,) = read(tmp_path)
    assert (recording.scoring, recording.num_fewshot, recording.lane) == ("cloze", None, "likelihood")
    (answer,) = recording.answers
    assert (answer.question, answer.choices, answer.loglikelihoods) == ("?", tuple("wxyz"), (-1.5, -2.0, -1.5, -2.0))
    assert answer.is_greedy == (True, False, True, False)

"""Tasks that are answered in writing, beyond their prompts (tests/test_suite.py): subjects, shots, programs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from original_rows import write_originals

from bench.config import TaskSpec
from bench.errors import PlanError
from bench.metrics import summarise
from bench.records import Completion, PromptedSample
from bench.tasks.dataset import load_rows
from bench.tasks.prepare import prepare_task_job
from bench.tasks.prompts import build_prompts
from bench.tasks.task import load_task
from bench.writing.answers import score_completion
from bench.writing.execution import execute

Row = dict[str, Any]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_originals(folder)
    return folder


def build(name: str, scoring: str, num_fewshot: int) -> list[PromptedSample]:
    use = TaskSpec.model_validate({"task": name, "scoring": scoring, "num_fewshot": num_fewshot})
    task = load_task(name)
    return build_prompts(task, scoring, load_rows(task, use), num_fewshot)


def write_rows(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("name", "shots"),
    [("gsm8k", {"cot": 5, "cot_zeroshot": 0}), ("mmlu", {"letter": 5, "cloze": 5, "written": 0, "cot": 0})],
)
def test_each_form_has_lm_evals_number_of_shots(name: str, shots: dict[str, int]) -> None:
    task = load_task(name)
    assert {form: task.num_fewshot_of(form) for form in task.forms} == shots


def test_a_chain_of_thought_may_have_paragraphs() -> None:
    for language, word in {"de": "Frage:", "fr": "Question :", "zh": "问题："}.items():
        asked = load_task("mgsm").forms["cot"].generate
        assert asked
        assert word in asked.stop, language
        assert not any(text.isspace() for text in asked.stop)


def test_flores_takes_the_languages_it_knows(originals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEELYARD_DATA", str(originals))
    ours = build("flores_from_english", "translate", 0)
    assert {one.sample.subject for one in ours} == {"deu_Latn", "spa_Latn"}  # no English into English, nothing unknown
    assert ours[0].prompt.text == "English sentence: eng_Latn devtest 0.\nGerman sentence:"


def test_scitldr(originals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEELYARD_DATA", str(originals))
    (item,) = build("scitldr", "summary", 0)
    assert item.prompt.text == "Abstract: One. Two.\nSummary in one sentence:"
    assert item.sample.references == ("Both.", "1, 2.")


def humaneval_row(number: int, body: str) -> Row:
    prompt = f'def f{number}(x):\n    """Add {number}."""\n'
    test = f"def check(candidate):\n    assert candidate(1) == {number + 1}\n"
    return {"task_id": f"own/{number}", "prompt": prompt, "entry_point": f"f{number}", "test": test, "right": body}


def test_humaneval_runs_programs_only_where_the_plan_allows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUMANEVAL_DIR", str(tmp_path))
    write_rows(tmp_path / "HumanEval.jsonl", [humaneval_row(number, "") for number in range(4)])
    with pytest.raises(PlanError, match="runs what the model writes, as you and without a sandbox"):
        prepare_task_job(TaskSpec.model_validate({"task": "humaneval"}))
    job = prepare_task_job(TaskSpec.model_validate({"task": "humaneval", "allow_code_execution": True}))
    assert job.samples[1].prompt.text == humaneval_row(1, "")["prompt"]
    completions = [
        "    return x + 0\n",
        "Here:\n```python\ndef f1(x):\n    return x + 1\n```\nIt adds.",
        "    return x\n",
        "    while True:\n        pass\n",
    ]
    monkeypatch.setattr("bench.writing.answers.execute", lambda program: execute(program, time_s=1))
    scores = [
        score_completion(sample, Completion(text), job.form)
        for sample, text in zip(job.samples, completions, strict=True)
    ]
    assert [score.values["pass_at_1"] for score in scores] == [1.0, 1.0, 0.0, 0.0]
    assert summarise(scores, metrics=job.form.metrics)["metrics"]["pass_at_1"]["value"] == 0.5
    assert score_completion(job.samples[0], Completion("", "length"), job.form).values == {"pass_at_1": 0.0}


def test_humanevals_own_solutions_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.environ.get("STEELYARD_DATA"):
        pytest.skip("needs the original files: set STEELYARD_DATA to the folder that holds them")
    monkeypatch.delenv("HUMANEVAL_DIR", raising=False)
    job = prepare_task_job(TaskSpec.model_validate({"task": "humaneval", "allow_code_execution": True}))
    assert len(job.samples) == 164
    for sample in job.samples[::20]:
        completion = Completion(sample.sample.variables["canonical_solution"])
        assert score_completion(sample, completion, job.form).values == {"pass_at_1": 1.0}

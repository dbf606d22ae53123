"""From small files in each format's layout to run folders, and back from the folders to what the files said."""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path

import pytest
from quiz import TASK
from runs import Bench, read_info

from bench.errors import DataError, PlanError
from bench.imports import Answer, Recording, format_names, load_format
from bench.imports.importing import import_runs
from bench.runs.reading import read_run

ROWS = {
    "europe": [
        ("Which is the longest?", "Volga", "Danube", "Rhine", "Po", "A"),
        ("Which crosses Vienna?", "Volga", "Danube", "Rhine", "Po", "B"),
        ("Which crosses Vienna?", "Volga", "Danube", "Rhine", "Po", "B"),
        ("Which crosses Turin?", "Volga", "Danube", "Rhine", "Po", "D"),
    ],
    "africa": [("Which is the longest?", "Niger", "Congo", "Nile", "Volta", "C")],
}
HELM = {
    "africa.csv": (
        "question,choices,lab_large,lab_small\n"
        "Which is the longest?,\"['Niger', 'Congo', 'Nile', 'Volta']\", C,A\n"
        "Which is the oldest?,\"['Niger', 'Congo', 'Nile', 'Volta']\",C,A\n"
    ),
    "europe.csv": (
        "question,choices,lab_large,lab_small\n"
        "Which crosses Turin?,\"['Volga', 'Danube', 'Rhine', 'Po']\",To,D\n"
        " Which  crosses Vienna? ,\"['Volga', 'Danube', 'Rhine', 'Po']\",B,\n"
    ),
}


@pytest.fixture
def task(tmp_path: Path) -> str:
    for subject, rows in ROWS.items():
        lines = ["question,A,B,C,D,answer", *(",".join(row) for row in rows)]
        (tmp_path / f"{subject}.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "rivers.yaml").write_text(TASK)
    return str(tmp_path / "rivers.yaml")


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def predictions(path: Path) -> dict[str, tuple[int | None, bool | None]]:
    return {score.id: (score.prediction, score.correct) for score in read_run(path).scores}


def test_helm_answers_become_runs(tmp_path, task):
    source = write(tmp_path / "helm", HELM)
    large, small = import_runs("helm-mmlu", source, tmp_path / "out", task)
    assert predictions(large.path) == {"africa/0": (2, True), "europe/1": (1, True), "europe/3": (None, False)}
    assert predictions(small.path) == {"africa/0": (0, False), "europe/1": (None, False), "europe/3": (3, True)}
    info = read_info(large.path)
    assert info["status"] == "finished"
    assert info["model"] == {"name": "lab_large", "source": "lab_large", "kind": "imported"}
    assert (info["lane"], info["task"]["scoring"], info["task"]["num_fewshot"]) == ("generate", "letter", 5)
    assert (info["task"]["num_samples"], info["task"]["num_available"]) == (3, 5)
    assert info["import"]["licence"] == "CC-BY-4.0"
    assert "mmlu-redux@4563cfa" in info["import"]["source"]
    assert (info["import"]["num_matched"], info["import"]["unmatched"]) == (3, ["africa.csv row 2"])
    found = info["metrics"]["acc"]
    assert (found["value"], found["num_scored"], found["num_no_answer"]) == (pytest.approx(2 / 3), 3, 1)
    assert found["chance"] == 0.25
    assert info["notes"] == [
        "1 answers match no question of the task: africa.csv row 2",
        "2 of the task's 5 questions have no answer here, and are in no average",
    ]
    assert "1 completions are empty" in read_info(small.path)["notes"][0]


def test_importing_again_changes_nothing_and_other_answers_are_another_run(tmp_path, task):
    source = write(tmp_path / "helm", HELM)
    first = import_runs("helm-mmlu", source, tmp_path / "out", task)
    before = {one.path: (one.path / "run.json").read_bytes() for one in first}
    again = import_runs("helm-mmlu", source, tmp_path / "out", task)
    assert {one.path: (one.path / "run.json").read_bytes() for one in again} == before
    write(source, {"africa.csv": HELM["africa.csv"].replace(" C,A", "A,A")})
    assert not {one.path for one in import_runs("helm-mmlu", source, tmp_path / "out", task)} & set(before)


def test_judgements_without_answers(tmp_path, task):
    prompt = '"Which crosses {}?\nA. Volga\nB. Danube\nC. Rhine\nD. Po\nAnswer:"'
    rows = ["prompt,a/one,two", f"{prompt.format('Turin')},True,False", f"{prompt.format('Vienna')},False,True"]
    write(tmp_path / "r", {"mmlu_europe.csv": "\n".join(rows) + "\n"})
    one, two = import_runs("routellm-mmlu", tmp_path / "r", tmp_path / "out", task)
    assert predictions(one.path) == {"europe/1": (None, False), "europe/3": (None, True)}
    assert predictions(two.path) == {"europe/1": (None, True), "europe/3": (None, False)}
    info = read_info(one.path)
    assert "num_fewshot" not in info["task"]
    assert info["metrics"]["acc"]["num_no_answer"] == 0
    assert one.path.name.startswith("a-one.rivers-letter.")


def test_mmlu_pro_answers_of_a_file_and_of_a_folder(tmp_path, task):
    row = {"question": "Which crosses Turin?", "options": ["Volga", "Danube", "Rhine", "Po"], "category": "europe"}
    other = {**row, "question": "Which crosses Vienna?", "response": "Hm."}
    rows = [{**row, "pred": "D", "model_outputs": "The answer is (D)."}, {**other, "pred": None}]
    files = {"model_outputs_big-1_5shots.json": json.dumps(rows), "g/europe_result.json": json.dumps(rows[1:])}
    write(tmp_path / "p", {**files, "g/europe_summary.json": "{}"})
    found = {
        one.path.name.split(".")[0]: one.path for one in import_runs("mmlu-pro", tmp_path / "p", tmp_path / "o", task)
    }
    assert predictions(found["big-1"]) == {"europe/1": (None, False), "europe/3": (3, True)}
    assert predictions(found["g"]) == {"europe/1": (None, False)}
    scores = {score.id: score for score in read_run(found["big-1"]).scores}
    assert scores["europe/3"].completion.text == "The answer is (D)."
    assert (scores["europe/3"].extracted, scores["europe/1"].extracted) == ("D", None)
    assert (read_info(found["big-1"])["task"]["num_fewshot"], "num_fewshot" in read_info(found["g"])["task"]) == (
        5,
        False,
    )


def test_json_lines_of_any_origin(tmp_path, task):
    turin = {"question": "Which crosses Turin?", "choices": ["Volga", "Danube", "Rhine", "Po"], "subject": "europe"}
    vienna = {**turin, "question": "Which crosses Vienna?"}
    lines = [
        {**turin, "prediction": "D", "completion": "It is D."},
        {**vienna, "prediction": 1},
        {**turin, "model": "second", "correct": False},
        {**vienna, "model": "second", "error": "timed out"},
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    mine, second = import_runs("jsonl", tmp_path / "mine.jsonl", tmp_path / "out", task)
    assert predictions(mine.path) == {"europe/1": (1, True), "europe/3": (3, True)}
    assert predictions(second.path) == {"europe/1": (None, None), "europe/3": (None, False)}
    assert read_info(second.path)["metrics"]["acc"]["num_failed"] == 1
    with pytest.raises(PlanError, match="of no task in particular"):
        import_runs("jsonl", tmp_path / "mine.jsonl", tmp_path / "out")
    with pytest.raises(PlanError, match="give their PATH"):
        import_runs("jsonl", None, tmp_path / "out", task)


@pytest.mark.parametrize(
    ("name", "file", "text", "problem"),
    [
        ("helm-mmlu", "a.csv", "question,one\nq,B\n", "must have columns question, choices"),
        ("helm-mmlu", "a.csv", "question,choices,m\nq,nonsense,B\n", "a.csv row 1: column 'choices' must be a list"),
        ("helm-mmlu", "a.csv", "question,choices,m\nq,x\n", "row 1: has 2 cells"),
        ("routellm-mmlu", "a.csv", "prompt,m\nq,True\n", "must be a question, four choices"),
        ("routellm-mmlu", "a.csv", 'prompt,m\n"q\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:",yes\n', "True or False, not"),
        ("mmlu-pro", "a.json", "[{}]", "a.json row 1: must be an object with question"),
        ("mmlu-pro", "a.json", "{", "a.json: not valid JSON"),
        ("jsonl", "a.jsonl", '{"question": "q", "choices": ["x"], "predicted": 1}', "did you mean 'prediction'"),
        ("jsonl", "a.jsonl", '{"question": "q", "choices": ["x", "y"], "prediction": "C"}', "one of A, B, or 0 to 1"),
        ("jsonl", "a.jsonl", '{"question": "q", "choices": ["x", "y"]}', "exactly one of prediction"),
        ("jsonl", "a.jsonl", '{"question": "q", "choices": ["x", "y"], "correct": 1}', "correct must be true or false"),
        ("jsonl", "a.jsonl", '{"question": "q", "choices": ["x", "y"], "correct": true}', "none of its questions"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(tmp_path, task, name, file, text, problem):
    write(tmp_path / "bad", {file: text})
    with pytest.raises(DataError) as caught:
        import_runs(name, tmp_path / "bad", tmp_path / "out", task)
    assert problem in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_loglikelihoods_are_scored_by_our_own_rules(tmp_path, task, monkeypatch):
    """What a format in the lane `likelihood` gives; it is found by its name alone."""
    row = ("row 1", "Which crosses Turin?", ("Volga", "Danube", "Rhine", "Po"), "europe")
    answers = (Answer(*row, loglikelihoods=(-3.0, -2.0, -4.0, -1.0), is_greedy=(False,) * 4, prompt_hash="ab"),)
    module = types.ModuleType("bench.imports.formats.toy")
    module.TITLE, module.TASK, module.REMOTE = "a toy", None, None
    settings = {"scoring": "letter", "num_fewshot": 0, "origin": {"sha256": "1"}, "lane": "likelihood"}
    module.read = lambda _: [Recording("m", answers, **settings)]
    monkeypatch.setitem(sys.modules, "bench.imports.formats.toy", module)
    monkeypatch.setattr("bench.imports.format_names", lambda: ["toy"])
    (one,) = import_runs("toy", tmp_path, tmp_path / "out", task)
    (score,) = read_run(one.path).scores
    assert (score.prediction, score.correct, score.prompt_hash) == (3, True, "ab")
    assert score.loglikelihoods == (-3.0, -2.0, -4.0, -1.0)
    assert set(read_info(one.path)["metrics"]) == {"acc", "acc_norm"}
    settings["scoring"] = "cloze"
    with pytest.raises(DataError, match="'cloze', no form of task"):
        import_runs("toy", tmp_path, tmp_path / "out", task)


def test_every_format_says_what_it_reads():
    assert {"helm-mmlu", "routellm-mmlu", "mmlu-pro", "jsonl"} <= set(format_names())
    for name in format_names():
        found = load_format(name)
        assert found.TITLE
        assert found.TASK is None or found.REMOTE is None or found.REMOTE.names
    with pytest.raises(PlanError, match="did you mean 'helm-mmlu'"):
        load_format("helm-mlu")


def test_the_command_line_shows_such_runs_and_refuses_to_verify_them(tmp_path, task, capsys):
    bench = Bench(capsys)
    source = write(tmp_path / "helm", HELM)
    made = bench("import", "helm-mmlu", source, "--task", task, "--out", tmp_path / "out")
    assert made.code == 0
    assert "rivers · letter · 5-shot · lane generate · 3 of 5 samples" in made.out
    large = next((tmp_path / "out").glob("lab_large*"))
    shown = bench("show", large).out
    for words in ("kind imported", "CC-BY-4.0", "HELM's prompt", "1 answers match no question"):
        assert words in " ".join(shown.split())
    sample = bench("show", large, "--sample", "europe/3").out
    assert "Which crosses Turin?" in sample
    assert "'To'" in sample
    assert "none found; right is D Po" in sample
    assert "characters" not in sample  # our prompt is not what was put to it
    assert bench("table", tmp_path / "out").code == 0
    refused = bench("verify", large)
    assert refused.code == 2
    assert "was imported" in refused.complaint
    assert bench("import", "helm-mlu", source).code == 2


KNOWN = {
    "anthropic_claude-3-opus-20240229": 0.850,
    "openai_gpt-4o-2024-05-13": 0.848,
    "openai_gpt-4-0613": 0.840,
    "openai_gpt-4-1106-preview": 0.810,
    "google_gemini-1.5-pro-preview-0409": 0.808,
    "meta_llama-3-70b": 0.787,
    "writer_palmyra-x-v3": 0.780,
    "google_text-unicorn@001": 0.780,
    "google_gemini-1.5-flash-preview-0514": 0.775,
    "mistralai_mixtral-8x22b": 0.773,
}


@pytest.mark.skipif(
    not {"MMLU_DIR", "MMLU_REFERENCE_DIR"} <= set(os.environ),
    reason="MMLU_DIR (the questions) and MMLU_REFERENCE_DIR (HELM's answers to them) are not both set",
)
def test_the_real_answers_have_their_known_accuracies(tmp_path):
    path = Path(os.environ["MMLU_REFERENCE_DIR"])
    packed = next(iter(path.glob("*helm*.tar*")), path)
    found = {}
    for one in import_runs("helm-mmlu", packed, tmp_path):
        info = read_info(one.path)
        found[info["model"]["name"]] = round(info["metrics"]["acc"]["value"], 3)
        assert info["import"]["sha256"] == load_format("helm-mmlu").REMOTE.sha256
        assert info["import"]["num_matched"] == info["metrics"]["acc"]["num_scored"] == 14_015
        assert info["import"]["num_unmatched"] == info["import"]["num_ambiguous"] == 0
    assert found == KNOWN

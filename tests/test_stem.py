"""A task file's `stem`: the forms it gives, in full; which of them a file writes itself; options in a drawn order."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_server import KEY, ApiServer, Said
from runs import Bench, only_run, read_info, read_lines

from bench.config import TaskSpec
from bench.metrics import score_sample
from bench.records import Completion, Loglikelihood
from bench.tasks.job import TaskJob
from bench.tasks.prepare import prepare_task_job
from bench.tasks.task import list_tasks

Row = dict[str, Any]
BIRDS = """\
version: 1
title: Birds
sources:
  - test: birds.jsonl
    shots: birds.jsonl
    columns: {id: name, question: question, choices: options, gold: {column: right, as: index}}
scoring: letter
stem: "Of birds: {{ question }}"
"""
ROWS: list[Row] = [
    {"name": "a", "question": "Which sings?", "options": ["Nightingale", " Eagle ", "Swan"], "right": 0},
    {"name": "b", "question": "Which flies?", "options": ["Gull", "Ostrich"], "right": 0},
    {"name": "c", "question": "Which hovers?", "options": ["Hummingbird", "Goose", "Stork", "Owl"], "right": 0},
]


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    write_rows(tmp_path / "birds.jsonl", ROWS)
    path = tmp_path / "birds.yaml"
    path.write_text(BIRDS)
    return path


def write_rows(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def put(task: Path | str, scoring: str, **use: Any) -> TaskJob:
    return prepare_task_job(TaskSpec.model_validate({"task": str(task), "scoring": scoring, **use}))


def texts(job: TaskJob) -> list[str]:
    return [item.prompt.text for item in job.samples]


def test_a_stem_alone_gives_three_forms(birds: Path) -> None:
    options = "Of birds: Which sings?\nA. Nightingale\nB. Eagle\nC. Swan\n"
    letter, written, cot = (put(birds, name) for name in ("letter", "written", "cot"))
    assert texts(letter)[:2] == [f"{options}Answer:", "Of birds: Which flies?\nA. Gull\nB. Ostrich\nAnswer:"]
    assert [one.continuation for one in letter.samples[0].requests] == [" A", " B", " C"]
    assert (letter.lane, letter.form.metrics, letter.asks_for_labels) == ("likelihood", ("acc",), True)
    assert texts(written)[0] == f"{options}\nGive only the letter of the right answer.\nAnswer:"
    assert texts(cot)[0] == f'{options}\nThink step by step, then give the letter of the right answer after "Answer:".'
    assert [job.lane for job in (written, cot)] == ["generate", "generate"]
    assert (written.settings.max_tokens, written.settings.stop) == (64, ("\n",))
    assert (cot.settings.max_tokens, cot.settings.stop) == (1024, ())


def test_only_the_letters_have_the_tasks_shots(birds: Path) -> None:
    birds.write_text(BIRDS + "num_fewshot: 1\n")
    assert texts(put(birds, "letter"))[1] == (
        "Of birds: Which sings?\nA. Nightingale\nB. Eagle\nC. Swan\nAnswer: A\n\n"
        "Of birds: Which flies?\nA. Gull\nB. Ostrich\nAnswer:"
    )
    assert [put(birds, form).spec.num_fewshot for form in ("letter", "written", "cot")] == [1, 0, 0]


def test_a_plans_labels(birds: Path) -> None:
    job = put(birds, "letter", labels=["1", "2", "3", "4"])
    assert texts(job)[1] == "Of birds: Which flies?\n1. Gull\n2. Ostrich\nAnswer:"
    assert [one.continuation for one in job.samples[1].requests] == [" 1", " 2"]


def test_a_files_own_form_stands_and_may_use_the_parts(birds: Path) -> None:
    birds.write_text(
        BIRDS
        + """\
option: "{{ choice | trim | upper }}"
forms:
  written:
    question: "{{ stem }}{% for label, text in shown %} ({{ label }}) {{ text }}{% endfor %}\\n"
    generate: {max_tokens: 5}
    extract: letter
"""
    )
    job = put(birds, "written")
    assert list(job.task.forms) == ["written", "letter", "cot"]
    assert texts(job)[1] == "Of birds: Which flies? (A) GULL (B) OSTRICH\n"
    assert job.settings.max_tokens == 5
    assert texts(put(birds, "letter"))[1] == "Of birds: Which flies?\nA. GULL\nB. OSTRICH\nAnswer:"


@pytest.mark.parametrize(
    ("completion", "prediction"),
    [
        (" B", 1),
        ("(B) Ostrich", 1),
        ("Gull", 0),
        ("An ostrich runs.\n\nAnswer: A", 0),
        ("**Answer: B**", 1),
        ("?", None),
    ],
)
@pytest.mark.parametrize("form", ["written", "cot"])
def test_what_is_written_is_read(birds: Path, form: str, completion: str, prediction: int | None) -> None:
    job = put(birds, form)
    score = job.score_completion(job.samples[1], Completion(completion))
    assert (score.prediction, score.correct) == (prediction, prediction == 0)


# --- the project's own tasks ---

PASSAGE = {"passage": "Owls hunt at night.", "question": "do owls sleep at night", "label": False}
CAUSE = {"premise": "It rained.", "choice1": "I got wet.", "choice2": "I sang.", "question": "effect", "label": 0}
BLANK = {"sentence": "Ann asked Bea, since _ knew.", "option1": "Ann", "option2": "Bea", "answer": "2", "qID": "x"}
SCENE = {
    "activity_label": "Tea",
    "ctx_a": "She boils water.",
    "ctx_b": "she",
    "endings": ["pours it.", "f.", "g.", "h."],
}
EXAM = {
    "passage": "很久以前。",
    "question": "哪一项？ ",
    "options": ["(A)一", "  B．二", "C .三", "(D)D)四"],
    "label": "B",
}
GOAL = {"goal": "Cool tea", "sol1": "Wait. ", "sol2": "Boil it."}
OWN = {
    "boolq": (
        "superglue/BoolQ/val.jsonl",
        PASSAGE,
        "Owls hunt at night.\nQuestion: do owls sleep at night?\nA. no\nB. yes",
    ),
    "copa": ("superglue/COPA/val.jsonl", CAUSE, "It rained therefore\nA. i got wet.\nB. i sang."),
    "winogrande": (
        "winogrande/dev.jsonl",
        BLANK,
        'Ann asked Bea, since _ knew.\nWhat does "_" stand for?\nA. Ann\nB. Bea',
    ),
    "hellaswag": (
        "hellaswag/hellaswag_val.jsonl",
        {**SCENE, "label": 0},
        "Tea: She boils water. She ...\nWhich ending makes the most sense?\nA. pours it.\nB. f.\nC. g.\nD. h.",
    ),
    "agieval": ("agieval/v1/gaokao-chinese.jsonl", EXAM, "很久以前。\n哪一项？\nA. 一\nB. 二\nC. 三\nD. 四"),
    "piqa": ("piqa/valid.jsonl", GOAL, "Goal: Cool tea\nWhich solution works?\nA. Wait.\nB. Boil it."),
}


@pytest.mark.parametrize("name", OWN)
def test_the_tasks_own_stems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path, row, text = OWN[name]
    write_rows(tmp_path / path, [row])
    (tmp_path / "piqa").mkdir(exist_ok=True)
    (tmp_path / "piqa/valid-labels.lst").write_text("0\n")
    for variable in ("SUPERGLUE", "WINOGRANDE", "HELLASWAG", "AGIEVAL", "PIQA"):
        monkeypatch.delenv(f"{variable}_DIR", raising=False)
    monkeypatch.setenv("STEELYARD_DATA", str(tmp_path))
    assert texts(put(name, "letter")) == [f"{text}\nAnswer:"]
    assert texts(put(name, "written")) == [f"{text}\n\nGive only the letter of the right answer.\nAnswer:"]


def test_every_question_with_one_right_option_can_be_answered_in_writing() -> None:
    without = {"mmlu_pro_cot": {"letter", "written"}, "truthfulqa_mc2": {"letter", "written", "cot"}, "bbh": {"letter"}}
    for task in list_tasks():
        if all(source.columns.choices is not None for source in task.sources):
            assert {"letter", "written", "cot"} - set(task.forms) == without.get(task.name, set()), task.name


def test_the_prompts_that_results_were_published_of_are_as_they_were() -> None:
    hashes = {form: put("pocket", form).prompt_hash[:12] for form in ("letter", "cloze", "written", "cot")}
    assert hashes == {
        "letter": "d9543fbdfa8d",
        "cloze": "34f23c987a2a",
        "written": "83d6df4afe3e",
        "cot": "1caa4d8312d2",
    }


# --- a drawn order ---


def shuffled(birds: Path, num: int = 300) -> Path:
    """Questions whose right option is the first of four."""
    rows = [
        {"name": f"{n}", "question": f"{n}?", "options": [f"right {n}", "one", "two", "three"], "right": 0}
        for n in range(num)
    ]
    write_rows(birds.with_suffix(".jsonl"), rows)
    forms = 'forms:\n  cloze:\n    question: "{{ stem }}"\n    continuations: choices\n'
    birds.write_text(BIRDS + "shuffle_choices: true\n" + forms)
    return birds


def test_options_are_shown_in_an_order_drawn_by_the_samples_id(birds: Path) -> None:
    job = put(shuffled(birds), "letter")
    places: Counter[str] = Counter()
    for item in job.samples:
        lines = item.prompt.text.split("\n")[1:-1]
        assert [line[:2] for line in lines] == ["A.", "B.", "C.", "D."]
        shown = {line[3:]: line[0] for line in lines}
        assert item.sample.golds == (0,)  # choices, golds and requests stand in the rows' order
        assert [shown[text] for text in item.sample.choices] == [one.continuation[1:] for one in item.requests]
        places[shown[item.sample.choices[0]]] += 1
    assert min(places[label] for label in "ABCD") > 50  # 75 are expected of each, with a standard error of 7.5
    assert texts(job) == texts(put(birds, "letter"))
    assert texts(put(birds, "letter", subjects=None, limit=7)) == texts(job)[:7]
    orders = [text.split("\n")[1:-1] for text in texts(put(birds, "written"))]
    assert [order[:4] for order in orders[:5]] == [text.split("\n")[1:-1] for text in texts(job)[:5]]


def test_where_no_label_is_asked_for_the_order_is_the_rows(birds: Path) -> None:
    (item, *_) = put(shuffled(birds), "cloze").samples
    assert [one.continuation for one in item.requests] == [" right 0", " one", " two", " three"]


def test_of_equal_options_the_first_that_is_shown_is_taken(birds: Path) -> None:
    """The first of the rows' is always the right one."""
    for form in ("letter", "cloze"):
        job = put(shuffled(birds), form)
        scores = [score_sample(item, [Loglikelihood(-1.0, False, 1)] * 4) for item in job.samples]
        assert all(score.tie for score in scores)
        num_right = sum(bool(score.correct) for score in scores)
        assert 50 < num_right < 100 if form == "letter" else num_right == 300


def test_a_shots_answer_is_the_label_it_is_shown_under(birds: Path) -> None:
    job = put(shuffled(birds), "letter", num_fewshot=3)
    for shot in job.samples[-1].prompt.shots:
        *lines, answer = shot.rstrip("\n").split("\n")
        assert [line[0] for line in lines[1:]] == ["A", "B", "C", "D"]
        (label,) = [line[0] for line in lines[1:] if line[3:].startswith("right")]
        assert answer == f"Answer: {label}"


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as running:
        yield running


def label_of(prompt: str, text: str) -> str:
    """The label under which a prompt shows an option."""
    (line,) = [line for line in prompt.split("\n") if line[3:].startswith(text)]
    return line[0]


def test_an_api_that_knows_the_answers_is_right(
    birds: Path, server: ApiServer, cli: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def answer(prompt: str) -> Said:
        label = label_of(prompt, "right")
        return Said(label, "stop", {label: math.log(0.9), "ABCD"[label == "A"]: math.log(0.1)})

    server.answer = answer
    for form, way in (("written", {}), ("cot", {}), ("letter", {"likelihoods": "letters"})):
        out = birds.parent / form
        api = {"base_url": f"{server.address}/v1", **way}
        tasks = [{"task": str(shuffled(birds)), "scoring": form, "limit": 9}]
        plan = {"models": [{"source": "openai:gpt-4o", "api": api}], "tasks": tasks, "out": str(out)}
        (birds.parent / "plan.yaml").write_text(yaml.safe_dump(plan))
        assert cli("run", birds.parent / "plan.yaml").code == 0
        assert read_info(only_run(out))["metrics"]["acc"]["value"] == 1.0, form
        assert [line["prediction"] for line in read_lines(only_run(out))] == [0] * 9


def test_a_run_is_shown_with_its_labels_and_exported(birds: Path, cli: Bench) -> None:
    pytest.importorskip("torch")
    tasks = [{"task": str(shuffled(birds)), "scoring": "letter", "limit": 3}]
    plan = {"models": [{"source": "fake"}], "tasks": tasks, "out": str(birds.parent / "out")}
    (birds.parent / "plan.yaml").write_text(yaml.safe_dump(plan))
    assert cli("run", birds.parent / "plan.yaml").code == 0
    folder = only_run(birds.parent / "out")
    label = label_of(put(birds, "letter").samples[2].prompt.text, "right")
    (line,) = [
        line for line in cli("show", folder, "--sample", "2").out.splitlines() if "← " in line and "right 2" in line
    ]
    assert line.startswith(f"{label}  right 2")
    assert cli("verify", folder).code == 0
    assert cli("export", folder, "--to", "lm-eval").code == 0
    (path,) = folder.rglob("samples_*.jsonl")
    assert {json.loads(line)["target"] for line in path.read_text().splitlines()} == {"0"}

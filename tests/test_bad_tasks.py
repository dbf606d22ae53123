"""Task files that are wrong: one line that says where and what, exit code 2, and no run is begun."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from runs import Bench

from bench.config import TaskSpec
from bench.tasks.prepare import prepare_job

ROWS = """\
topic,question,a,b,c,right
song,Which sings?,x,y,z,1
song,Which copies?,x,y,z,2
flight,Which hovers?,x,y,z,3
"""
TASK = """\
version: 1
title: Birds
sources:
  - test: birds.csv
    columns:
      question: question
      choices: [a, b, c]
      gold: {column: right, as: number}
      subject: topic
scoring: letter
forms:
  letter:
    question: "{{ question }} {{ choices | join(', ') }}"
    continuations: labels
"""
LINE = '{"question": "Which?", "a": "x", "b": "y", "c": "z", "right": 1, "topic": "song"}\n'
WRITTEN = "generate: {max_tokens: 5, stop: ['']}\n    extract: letter"

FILES: Mapping[str, tuple[str, str, str]] = {  # by what is wrong: text in the file, what stands there, the message
    "a tab": ("title:", "\tfoo: 1\ntitle:", "birds.yaml:2: not valid YAML: found"),
    "a key twice": ("title: Birds", "title: Birds\ntitle: B", "birds.yaml:3: not valid YAML: the key 'title' is given"),
    "an unknown key": ("title:", "titel:", "birds.yaml:2: titel: unknown key; did you mean 'title'?"),
    "a wrong type": ("version: 1", "version: one", "birds.yaml:1: version: should be a valid integer, not 'one'"),
    "a missing key": ("title: Birds\n", "", "birds.yaml: title: missing; this key is required"),
    "another default form": ("scoring: letter", "scoring: leter", "'leter' is not one of the forms; did you mean"),
    "an unknown metric": ("labels\n", "labels\n    metrics: [acc, accuracy]\n", "'accuracy' is no metric of lane like"),
    "a metric twice": ("labels\n", "labels\n    metrics: [acc, acc]\n", "metrics: 'acc' is listed twice"),
    "another lane's metric": ("labels\n", "labels\n    metrics: [bleu]\n", "'bleu' is no metric of lane likelihood"),
    "an empty stop string": ("continuations: labels", WRITTEN, "forms.letter.generate.stop[0]: is empty"),
    "an unknown variable": ("{{ question }}", "{{ quest }}", "question: unknown variable 'quest'; did you mean"),
    "the gold in the question": ("{{ question }}", "{{ right }}", "forms.letter.question: unknown variable 'right'"),
    "a broken template": ("{{ question }}", "{{ question }", "forms.letter.question: not a valid template"),
    "a template that fails": ("{{ question }}", "{{ question[99].x }}", "question: fails on sample song/0"),
    "an endless template": ("{{ question }}", "{% for i in range(9999999) %}x{% endfor %}", "Range too big"),
    "no such column": ("question: question", "question: text", "birds.csv: row 1: no column 'text'; allowed: a, b, c"),
    "no such cluster": ("scoring:", "cluster: passage\nscoring:", "birds.csv: row 1: cluster: no column 'passage'"),
    "no gold": ("      gold: {column: right, as: number}\n", "", "`choices` and `gold` go together"),
    "equal ids": ("subject: topic", "id: topic", "task birds: the id 'song' is given to 2 samples"),
    "no rows kept": ("birds.csv", "{file: birds.csv, where: {topic: x}}", "birds.csv: no rows where topic=x"),
    "more shots than there are": (
        "birds.csv",
        "birds.csv\n    shots: birds.csv",
        "num_fewshot is 2, but subject 'song' of task birds has 1 shots for sample song/0",
    ),
    "shots from nowhere": ("scoring:", "num_fewshot: 1\nscoring:", "has no `shots`, but num_fewshot is 1"),
    "a form's shots from nowhere": ("labels\n", "labels\n    num_fewshot: 1\n", "has no `shots`, but num_fewshot is 1"),
    "an unknown variable in the stem": (
        "scoring:",
        'stem: "{{ quest }}"\nscoring:',
        "yaml: stem: unknown variable 'quest'",
    ),
    "the gold in the stem": ("scoring:", 'stem: "{{ right }}"\nscoring:', "yaml: stem: unknown variable 'right'"),
    "a choice in the stem": ("scoring:", 'stem: "{{ choice }}"\nscoring:', "yaml: stem: unknown variable 'choice'"),
    "a stem that fails": (
        """forms:
  letter:
    question: "{{ question }} {{ choices | join(', ') }}"
    continuations: labels
""",
        'stem: "{{ question[99].x }}"\n',
        "birds.yaml: stem: fails on sample song/0",
    ),
    "an empty stem": ("scoring:", "stem: ''\nscoring:", "birds.yaml:10: stem: is empty"),
    "an unknown variable in an option": (
        "scoring:",
        'stem: "?"\noption: "{{ choise }}"\nscoring:',
        "birds.yaml: option: unknown variable 'choise'; did you mean 'choice'?",
    ),
    "an option without a stem": ("scoring:", 'option: "{{ choice }}"\nscoring:', "`option` goes with `stem`"),
    "the stem of none": ("{{ question }}", "{{ stem }}", "forms.letter.question: unknown variable 'stem'"),
    "nothing to choose under a stem": (
        """      choices: [a, b, c]
      gold: {column: right, as: number}
      subject: topic
scoring: letter
forms:
  letter:
    question: "{{ question }} {{ choices | join(', ') }}"
    continuations: labels
""",
        """      subject: topic
scoring: letter
stem: "{{ question }}"
""",
        "birds.yaml: sources[0]: has no `columns.choices`, which `stem` needs",
    ),
    "an order that nothing shows": (
        "labels\n",
        "choices\nshuffle_choices: true\n",
        "shuffle_choices: none of the forms asks for a label",
    ),
    "no such file": ("birds.csv", "bird.csv", "task birds: rows not at hand (no files bird.csv in"),
    "an unknown format": ("birds.csv", "birds.yaml", "unknown format '.yaml'; allowed: .csv, .json"),
}


def run_wrong(folder: Path, cli: Bench, *, task: str = TASK, use: str = "") -> str:
    """The one line, without this machine's path; the rows are in `folder`."""
    (folder / "birds.yaml").write_text(task)
    plan = folder / "plan.yaml"
    plan.write_text(f"""\
models: [{{source: fake}}]
tasks:
  - {{task: pocket, limit: 1}}
  - {{task: {folder}/birds.yaml{use}}}
out: {folder}/results
""")
    found = cli("run", plan)
    assert (found.code, found.out, found.err.count("\n")) == (2, "", 1), found.err
    assert not (folder / "results").exists()
    return found.complaint.replace(f"{folder}/", "")


@pytest.mark.parametrize("what", FILES)
def test_a_wrong_task_file_is_one_line(tmp_path: Path, cli: Bench, what: str) -> None:
    old, new, message = FILES[what]
    assert TASK.count(old) == 1
    (tmp_path / "birds.csv").write_text(ROWS)
    use = ", num_fewshot: 2" if what == "more shots than there are" else ""
    assert message in run_wrong(tmp_path, cli, task=TASK.replace(old, new), use=use)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS.replace("z,2", "z,4"), "birds.csv: row 2: column 'right': '4' is not one number out of 1, 2, 3"),
        (ROWS.replace("z,2", "2"), "birds.csv: row 2: has 5 cells, the header 6 (topic, question, a, b, c, right)"),
        (ROWS.replace("Which copies?", ""), "birds.csv: row 2: column 'question': is empty"),
        (ROWS.replace("topic", "a"), "birds.csv: the header names a column twice: a, question, a, b, c, right"),
        (ROWS.replace("Which copies?", '"Which" copies?'), "birds.csv: line 3: cannot be read: ',' expected after"),
        (ROWS.replace("Which hovers?", '"Which hovers?'), "birds.csv: line 4: cannot be read: unexpected end of data"),
        (ROWS.replace("Which copies?", "Où ?").encode("latin-1"), "birds.csv: cannot be read: 'utf-8' codec can't"),
        (ROWS.encode("utf-16"), "birds.csv: cannot be read: 'utf-8' codec can't decode byte 0xff in position 0"),
        ("", "birds.csv: no rows"),
        (ROWS.splitlines()[0], "birds.csv: no rows"),
    ],
)
def test_wrong_rows_of_a_csv_are_one_line(tmp_path: Path, cli: Bench, rows: str | bytes, message: str) -> None:
    (tmp_path / "birds.csv").write_bytes(rows if isinstance(rows, bytes) else rows.encode())
    assert message in run_wrong(tmp_path, cli)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (LINE[:-2], "row 2: not valid JSON: Expecting ',' delimiter"),
        ("[1]", "row 2: must be a JSON object of columns and values"),
        (LINE.replace('"a"', '"question"'), "row 2: the key 'question' is given twice"),
        (LINE.replace('"Which?"', "NaN"), "row 2: column 'question': must be text, not nan"),
        (LINE.replace('"Which?"', "null"), "row 2: column 'question': must be text, not None"),
        (LINE.replace("Which?", "\\ud83d"), r"row 2: holds half a character ('\ud83d')"),
        (LINE.replace('"x"', "[" * 100_000), "row 2: nested too deeply"),
        (LINE.replace("1", "4"), "row 2: column 'right': 4 is not one number out of 1, 2, 3"),
        (LINE.replace('"right": 1, ', ""), "row 2: no column 'right'; allowed: a, b, c, question, topic"),
    ],
)
def test_wrong_rows_of_a_jsonl_are_one_line(tmp_path: Path, cli: Bench, second: str, message: str) -> None:
    (tmp_path / "birds.jsonl").write_text(LINE + second)
    assert f"birds.jsonl: {message}" in run_wrong(tmp_path, cli, task=TASK.replace(".csv", ".jsonl"))


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (", scoring: cloze", "tasks[1].scoring: 'cloze' is not a form of task birds.yaml; allowed: letter"),
        (", scoring: writen", "tasks[1].scoring: 'writen' is not a form of task birds.yaml; did you mean 'written'?"),
        (", data_dir: nowhere", "task birds: rows not at hand (data_dir: no folder nowhere)"),
        (", data_dir: plan.yaml", "task birds: rows not at hand (data_dir: no folder plan.yaml)"),
        (", data_dir: '${NOWHERE_DIR}'", "task birds: rows not at hand (NOWHERE_DIR is not set)"),
        (", subjects: [flite]", "task birds: unknown subject 'flite'; did you mean 'flight'?"),
        (", limit: 0", "tasks[1].limit: should be greater than or equal to 1, not 0"),
        (", num_fewshots: 1", "tasks[1].num_fewshots: unknown key; did you mean 'num_fewshot'?"),
    ],
)
def test_a_wrong_use_of_a_task_is_one_line(
    tmp_path: Path, cli: Bench, monkeypatch: pytest.MonkeyPatch, use: str, message: str
) -> None:
    (tmp_path / "birds.csv").write_text(ROWS)
    monkeypatch.chdir(tmp_path)
    task = TASK.replace("forms:", 'stem: "{{ question }}"\nforms:') if "writen" in use else TASK
    assert message in run_wrong(tmp_path, cli, task=task, use=use)


def test_folders_in_the_place_of_files(tmp_path: Path, cli: Bench) -> None:
    (tmp_path / "birds.csv").mkdir()
    assert "task birds: rows not at hand (no files birds.csv in" in run_wrong(tmp_path, cli)
    (tmp_path / "folder.yaml").mkdir()
    found = cli("tasks", "--check", tmp_path / "folder.yaml")
    assert (found.code, found.complaint) == (2, f"no task file '{tmp_path / 'folder.yaml'}'")


def test_a_cell_may_be_as_long_as_a_book(tmp_path: Path, cli: Bench) -> None:
    (tmp_path / "birds.csv").write_text(ROWS.replace("copies?", "x" * 200_000))
    (tmp_path / "birds.yaml").write_text(TASK)
    assert cli("tasks", "--check", tmp_path / "birds.yaml").out.startswith("birds: 3 samples in 2 subjects")


def test_a_check_of_one_task_renders_its_forms(tmp_path: Path, cli: Bench) -> None:
    (tmp_path / "birds.csv").write_text(ROWS)
    (tmp_path / "birds.yaml").write_text(TASK.replace("{{ question }}", "{{ question[99].x }}"))
    found = cli("tasks", "--check", tmp_path / "birds.yaml")
    assert found.code == 2
    assert "forms.letter.question: fails on sample song/0" in found.complaint


def test_a_check_and_a_list_know_each_forms_shots(tmp_path: Path, cli: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "birds.csv").write_text(ROWS.replace("flight", "song"))
    forms = (
        TASK.replace("    columns:", "    shots: birds.csv\n    columns:")
        + """\
    num_fewshot: 2
  plain:
    question: "{{ question }}"
    continuations: choices
"""
    )
    (tmp_path / "birds.yaml").write_text(forms)
    monkeypatch.setattr("bench.tasks.task.TASKS_DIR", tmp_path)
    rows = cli("tasks").out.splitlines()
    assert rows[2].split() == ["birds", "3", "2,", "0", "letter,", "plain", "Birds"]
    (line,) = [line for line in cli("tasks", "--check").out.splitlines() if line.startswith("birds")]
    for form in ("letter", "plain"):
        use = TaskSpec.model_validate({"task": "birds", "scoring": form})
        assert f"{form} {prepare_job(use).prompt_hash[:12]}" in line

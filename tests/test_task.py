from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.errors import TaskError
from bench.tasks.task import find_task, list_tasks, load_task, task_names

TASK = """\
version: 1
title: Own
sources:
- test: {file: own.csv, where: {split: test}}
  shots: {file: own.csv, where: {split: shots}}
  header: [split, text, a, b, answer]
  columns:
    question: text
    choices: [a, b]
    gold: {column: answer, as: letter}
num_fewshot: 1
scoring: letter
forms:
  letter:
    question: "{{ question }} {{ choices[0] }} {{ a }} {{ labels | join }}"
    continuations: labels
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def _write(text: str) -> Path:
        path = tmp_path / "own.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return _write


def mistake(path: Path) -> str:
    with pytest.raises(TaskError) as caught:
        load_task(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_short_file_is_a_task(write: Write) -> None:
    task = load_task(str(write(TASK)))
    assert task.name == "own"
    assert task.forms["letter"].delimiter == " "
    assert task.forms["letter"].shot_separator == "\n\n"
    assert task.sources[0].columns.gold.kind == "letter"


def test_mmlu_has_57_subjects_in_four_categories() -> None:
    task = load_task("mmlu")
    assert {name: len(subjects) for name, subjects in task.categories.items()} == {
        "stem": 19,
        "humanities": 13,
        "social_sciences": 12,
        "other": 13,
    }
    assert [form.metric for form in task.forms.values()] == ["acc", "acc_norm", "acc", "acc"]


def test_the_projects_tasks_are_listed_by_name() -> None:
    assert [task.name for task in list_tasks()] == task_names()
    assert {"mmlu", "pocket"} <= set(task_names())
    assert all(task.title and task.licence and task.forms for task in list_tasks())


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(TaskError, match=r"unknown task 'mmul'; did you mean 'mmlu'\?"):
        find_task("mmul")
    with pytest.raises(TaskError, match=r"no task file 'no/task\.yaml'"):
        find_task("no/task.yaml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("scoring: letter", "scorng: letter", "own.yaml:12: scorng: unknown key; did you mean 'scoring'?"),
        ("scoring: letter", "scoring: leter", "scoring: 'leter' is not one of the forms; did you mean 'letter'?"),
        (
            "continuations: labels",
            "continuations: label",
            "forms.letter.continuations: 'label' is not one of the allowed",
        ),
        (
            "as: letter",
            "as: leter",
            ":10: sources[0].columns.gold.as: 'leter' is not one of the allowed values; did you",
        ),
        (", as: letter", "", "sources[0].columns.gold.as: missing"),
        ("question: text", "qestion: text", "sources[0].columns.qestion: unknown key; did you mean 'question'?"),
        ("question: text", "question: txt", "columns: 'txt' is not in `header`; did you mean 'text'?"),
        ("choices: [a, b]", "choices: [a, c]", "columns: 'c' is not in `header`"),
        (
            "choices: [a, b]",
            "choices: 3",
            "sources[0].columns.choices: must be one column's name (of a list) or a list of",
        ),
        ("choices: [a, b]", "choices: []", "sources[0].columns.choices: must be one column's name"),
        ("column: answer", "column: anser", "columns: 'anser' is not in `header`; did you mean 'answer'?"),
        ("where: {split: test}", "were: {split: test}", "sources[0].test.were: unknown key; did you mean 'where'?"),
        ("file: own.csv, where: {split: test}", "file: /own.csv", "sources[0].test: '/own.csv' must be a path below"),
        ("version: 1", "version: 1.0", ":1: version: should be a valid integer, not 1.0"),
        ("version: 1\n", "version: 1\nnum_fewshot: 2\n", "not valid YAML: the key 'num_fewshot' is given twice"),
        ("version: 1\n", "version: 1\ncategories: {x: [s], y: [s]}\n", "categories: 's' is listed twice"),
        ("  shots: {file: own.csv, where: {split: shots}}\n", "", "sources[0]: has no `shots`, but num_fewshot is 1"),
        ("- test:", "- hub: a/b\n  test:", "sources[0]: `hub` and `revision`"),
        ("- test:", "- {hub: a/b, revision: main}\n- test:", "sources[0].revision: should match pattern"),
        ("file: own.csv, where: {split: test}", "file: '{subject}.csv'", "`test` and `shots` need {subject} both"),
    ],
)
def test_a_mistake_names_file_key_and_nearest(write: Write, old: str, new: str, message: str) -> None:
    assert old in TASK
    assert message in mistake(write(TASK.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ qestion }}", "forms.letter.question: unknown variable 'qestion'; did you mean 'question'?"),
        ("{{ text.strip() }} {{ tekst }}", "forms.letter.question: unknown variable 'tekst'; did you mean 'text'?"),
        ("{{ question }} {{ answer }}", "forms.letter.question: unknown variable 'answer'"),  # gives the gold away
        ("{{ gold }}", "forms.letter.question: unknown variable 'gold'"),
        ("{{ question }", "forms.letter.question: not a valid template: "),
        ("{{ question | upperr }}", "forms.letter.question: not a valid template: No filter named 'upperr'"),
    ],
)
def test_a_mistake_in_a_template_is_found_before_any_row(write: Write, template: str, message: str) -> None:
    text = TASK.replace("{{ question }} {{ choices[0] }} {{ a }} {{ labels | join }}", template)
    assert f"own.yaml: {message}" in mistake(write(text))


def test_a_description_does_not_know_the_gold(write: Write) -> None:
    text = TASK.replace('    question: "', '    description: "About {{ answer }}."\n    question: "')
    assert "own.yaml: forms.letter.description: unknown variable 'answer'" in mistake(write(text))

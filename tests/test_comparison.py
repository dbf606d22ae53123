"""What a comparison looks like: aligned, within the screen, and every column explained."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from quiz import right, write_quiz, write_run
from rich.cells import cell_len

from bench.comparison.compare import compare_runs
from bench.comparison.compared import Wish
from bench.report.comparison import render_comparisons
from bench.report.text import Screen
from bench.runs.reading import read_run


@pytest.fixture
def found(tmp_path):
    task = write_quiz(tmp_path)
    draw = random.Random(0)
    answers = {
        "a-lab/model-large": right(39, 40),
        "a-lab/model-with-a-name-that-has-no-end-2024-05-13": [draw.choice([1, 1, 1, 0]) for _ in range(40)],
        "b/small": right(12, 40),
    }
    runs = []
    for number, own in enumerate(answers.values()):
        run = read_run(write_run(task, f"m{number}", own))
        run.info["model"]["name"] = list(answers)[number]
        runs.append(run)
    return compare_runs(runs, Wish())


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_nothing_is_wider_than_the_screen(found, width):
    text = render_comparisons(found, Screen(width))
    assert max(map(cell_len, text.splitlines())) <= width
    rules = [line for line in text.splitlines() if line.startswith("──")]
    assert len(rules) == 2  # no rule is wrapped


def test_scores_and_differences_stand_under_each_other(found):
    lines = render_comparisons(found, Screen(120)).splitlines()
    rules = [number for number, line in enumerate(lines) if line.startswith("──")]
    scores, differences = lines[rules[0] + 1 : rules[0] + 4], lines[rules[1] + 1 : rules[1] + 3]
    assert scores[0].startswith("model-large ")
    assert len({line.index(" – ") for line in scores}) == 1
    assert "97.50  87.1 – 99.6" in scores[0]
    assert all("−" in line for line in differences)
    assert {line.index(" to ") for line in differences} == {differences[0].index(" to ")}
    assert "<0.0001 *" in differences[1]


def test_every_column_is_explained_and_what_is_hidden_named(found):
    wide, narrow = (render_comparisons(found, Screen(width)) for width in (120, 76))
    for word in ("score", "rank", "tied", "difference", "p Holm", "MDE", "same"):
        assert any(line.startswith((word, "p ")) for line in wide.splitlines()), word
    assert "hidden" not in wide
    hidden = next(line for line in narrow.splitlines() if line.startswith("hidden"))
    assert "κ" in hidden
    assert not any(line.startswith("same ") for line in narrow.splitlines())


def test_what_was_left_out_is_said(found):
    assert "left out, with one run each: lonely" in render_comparisons(replace(found, alone=("lonely",)), Screen(100))


def test_names_cannot_do_anything_to_the_terminal(found):
    found.tasks[0].entries[0].run.info["model"]["name"] = "evil\x1b[31m\nname"
    assert "\x1b" not in render_comparisons(found, Screen(100))

"""Tied runs in a report: the groups of `bench compare`, or the reason why there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from quiz import right, write_quiz, write_run
from report_runs import cell, make_run
from runs import Bench
from scipy.stats import binomtest

from bench.comparison.compare import compare_runs
from bench.comparison.compared import Wish
from bench.errors import DataMissingError
from bench.report.results import build_report
from bench.report.ties import tied_cells
from bench.runs.reading import Run, read_run
from bench.tasks.rows import fetch_hub_folder, without_fetching


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    """Of 40 questions: 39, 34 and 18 right, each of them among those of the one before."""
    task = write_quiz(tmp_path)
    paths = [write_run(task, name, right(num, 40)) for name, num in (("best", 39), ("near", 34), ("far", 18))]
    return [read_run(path, with_scores=False) for path in paths]


def test_groups_are_those_of_mcnemars_exact_test_after_holm(runs: list[Run]) -> None:
    report = build_report(runs)
    table = report.sections[0].results
    found = dict(zip((c.text for c in table.cells("model")), (c.text for c in table.cells("tied")), strict=True))
    # discordant pairs, all to one side: McNemar's exact test is the binomial one of them
    ps = sorted((binomtest(num, num, 0.5).pvalue, num) for num in (5, 16, 21))
    holm = [p * (3 - place) for place, (p, _) in enumerate(ps)]
    assert [p < 0.05 for p in holm] == [True, True, False]  # only the pair with 5 is not told apart
    assert found == {"best": "a", "near": "a", "far": "b"}
    (note,) = (text for text in report.footnotes if text.startswith("tied: on"))
    assert "the 40 questions" in note
    assert "McNemar's exact test, p Holm ≥ 0.05, adjusted for the 3 tests of this report" in note
    compared = compare_runs([read_run(run.path) for run in runs], Wish()).tasks[0]
    assert [entry.groups for entry in compared.entries] == [(0,), (0,), (1,)]


def test_holm_counts_the_tests_of_all_sections(runs: list[Run], tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    task = write_quiz(tmp_path / "more", 20).rename(tmp_path / "more" / "sums.yaml")
    other = [read_run(write_run(task, name, right(num, 20)), with_scores=False) for name, num in (("a", 19), ("b", 2))]
    notes = [text for text in build_report([*runs, *other]).footnotes if text.startswith("tied: on")]
    assert len(notes) == 2
    assert all("adjusted for the 4 tests" in note for note in notes)


def test_a_section_of_one_run_has_nothing_to_say(runs: list[Run]) -> None:
    report = build_report(runs[:1])
    assert "tied" not in [column.key for column in report.sections[0].results.columns]
    assert not any("tied" in text for text in report.remarks)


def test_rows_that_are_not_at_hand_are_a_remark_and_nothing_is_fetched(
    runs: list[Run], tmp_path: Path, cli: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in tmp_path.glob("*.csv"):
        file.unlink()
    monkeypatch.setattr("bench.report.ties.read_run", lambda _: pytest.fail("no score need be read to tell"))
    report = build_report(runs)
    assert "tied" in report.left_out
    assert any("tied: not tested, task quiz: rows not at hand" in text for text in report.remarks)
    assert cli("report", tmp_path / "results").code == 0


def test_rows_that_changed_are_told_where_another_section_has_ties(runs: list[Run], tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    task = write_quiz(tmp_path / "more", 20).rename(tmp_path / "more" / "sums.yaml")
    other = [read_run(write_run(task, name, right(9, 20)), with_scores=False) for name in ("a", "b")]
    file = tmp_path / "more" / "high.csv"
    file.write_text(file.read_text().replace("What is 0", "What is not 0"))
    report = build_report([*runs, *other])
    assert [c.text for c in report.sections[1].results.cells("tied")] == ["–", "–"]
    (number,) = (n for n, text in enumerate(report.footnotes, 1) if "are not those it scored" in text)
    assert number in cell(report.sections[1].results, "model").notes


def test_tasks_of_lm_eval_are_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.report.ties.compare_blocks", lambda blocks: [] if not blocks else pytest.fail("loaded"))
    task = {"task": "lm_eval:hellaswag", "scoring": "lm_eval"}
    block = [make_run(name, config={"models": [{"source": "fake"}], "tasks": [task]}) for name in "ab"]
    ((first, _),) = tied_cells([block])
    assert "bench compare does" in str(first.reason)


def test_without_fetching_only_the_cache_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def download(*_: Any, local_files_only: bool, **__: Any) -> str:
        asked.append(local_files_only)
        raise OSError("not here")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with without_fetching(), pytest.raises(DataMissingError, match="not here"):
        fetch_hub_folder("a/b", "c" * 40, ["*.csv"])
    assert asked == [True]
    with pytest.raises(DataMissingError):
        fetch_hub_folder("a/b", "c" * 40, ["*.csv"])
    assert asked == [True, True, False]

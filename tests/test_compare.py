"""Comparisons of small runs, worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from quiz import right, write_quiz, write_run
from runs import Bench, read_info
from scipy import stats as scipy_stats

from bench.comparison.compare import compare_runs
from bench.comparison.compared import Wish
from bench.errors import PlanError
from bench.runs.reading import read_run
from bench.stats import wilson_ci95


@pytest.fixture
def task(tmp_path):
    return write_quiz(tmp_path)


def runs_of(task, **answers):
    return [read_run(write_run(task, name, own)) for name, own in answers.items()]


def compared(runs, wish):
    return compare_runs(runs, wish).tasks


def name_of(entry):
    return entry.run.info["model"]["name"]


def test_two_runs_on_the_same_questions(task):
    runs = runs_of(task, low=right(20, 40), high=right(34, 40))
    (found,) = compared(runs, Wish())
    assert [(name_of(entry), entry.value, entry.rank) for entry in found.entries] == [
        ("high", 34 / 40, (1, 1)),
        ("low", 20 / 40, (2, 2)),
    ]
    assert found.entries[0].ci95 == wilson_ci95(34 / 40, 40)
    assert (found.num_common, found.num_left_out, found.num_tests) == (40, 0, 1)
    (pair,) = found.against_reference
    assert (pair.first, pair.second) == (1, 0)
    assert (pair.difference.num_better, pair.difference.num_worse) == (0, 14)
    assert pair.difference.value == pytest.approx(-14 / 40)
    assert pair.difference.p == pair.p_holm == pytest.approx(scipy_stats.binomtest(0, 14).pvalue)
    assert (pair.agreement.share, pair.has_answers) == (26 / 40, True)
    assert [entry.groups for entry in found.entries] == [(0,), (1,)]


def test_ties_are_groups_and_holm_is_over_all_pairs(task):
    runs = runs_of(task, a=right(36, 40), b=right(33, 40), c=right(10, 40))
    (found,) = compared(runs, Wish())
    assert [entry.groups for entry in found.entries] == [(0,), (0,), (1,)]
    ps = sorted(pair.difference.p for pair in found.pairs)
    assert sorted(pair.p_holm for pair in found.pairs) == pytest.approx([3 * ps[0], max(3 * ps[0], 2 * ps[1]), ps[2]])
    assert found.num_tests == 3


def test_a_baseline_is_compared_with_each_and_nothing_else(task):
    runs = runs_of(task, a=right(36, 40), b=right(33, 40), c=right(10, 40))
    (found,) = compared(runs, Wish(baseline="b"))
    assert [(pair.first, pair.second) for pair in found.pairs] == [(0, 1), (2, 1)]
    assert (found.reference, found.num_tests) == (1, 2)
    assert not any(entry.groups for entry in found.entries)
    (by_path,) = compared(runs, Wish(baseline=str(runs[1].path)))
    assert by_path.pairs == found.pairs
    with pytest.raises(PlanError, match="no run or model 'bb' among those given; did you mean 'b'"):
        compare_runs(runs, Wish(baseline="bb"))


def test_failures_are_left_out_of_their_pairs_only_and_counted(task):
    broken = [*right(10, 20), *["timed out"] * 20]
    runs = runs_of(task, a=right(36, 40), b=right(33, 40), broken=broken)
    (found,) = compared(runs, Wish())
    assert (found.num_common, found.num_shared) == (20, 40)
    assert {name_of(entry): entry.num_failed for entry in found.entries} == {"a": 0, "b": 0, "broken": 20}
    nums = {(pair.first, pair.second): pair.difference.num for pair in found.pairs}
    assert sorted(nums.values()) == [20, 20, 40]
    assert found.entries[0].value == 1  # of the 20 that all have a score for


def test_no_answer_is_wrong_and_counted(task):
    runs = runs_of(task, a=[*right(30, 30), *[None] * 10], b=[*right(20, 35), *["timed out"] * 5])
    (found,) = compared(runs, Wish())
    assert [(name_of(entry), entry.value, entry.num_no_answer) for entry in found.entries] == [
        ("a", 30 / 35, 5),  # of the 35 questions that both have a score for
        ("b", 20 / 35, 0),
    ]
    assert found.pairs[0].agreement.num == 30


def test_runs_that_were_cut_down_are_compared_on_what_they_share(task):
    whole, part = read_run(write_run(task, "whole", right(40, 40))), read_run(write_run(task, "part", right(5, 10), 30))
    (found,) = compared([whole, part], Wish())
    assert (found.num_common, found.num_left_out) == (10, 30)
    apart = read_run(write_run(task, "apart", right(5, 10)))
    with pytest.raises(PlanError, match="share no question"):
        compare_runs([part, apart], Wish())


def test_right_and_wrong_alone_will_do(task):
    runs = [read_run(write_run(task, "judged", right(30, 40), judged=True)), *runs_of(task, answered=right(20, 40))]
    (pair,) = compared(runs, Wish())[0].pairs
    assert not pair.has_answers
    assert pair.agreement.share == 30 / 40


def test_clusters_widen_everything(task):
    runs = runs_of(task, a=right(40, 40), b=right(25, 40))
    (alone,), (clustered,) = compared(runs, Wish()), compared(runs, Wish(cluster="passage"))
    assert (alone.num_clusters, clustered.num_clusters) == (None, 8)
    assert clustered.pairs[0].difference.test == "t"
    assert clustered.pairs[0].difference.p > alone.pairs[0].difference.p
    narrow, wide = alone.entries[1].ci95, clustered.entries[1].ci95
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_unlike_settings_are_refused_until_they_are_asked_for(task):
    one, two = runs_of(task, a=right(36, 40), b=right(20, 40))
    other = replace(two, info={**two.info, "lane": "likelihood"})
    with pytest.raises(PlanError, match=r"not alike in lane \(generate; likelihood\).*--allow-unlike"):
        compare_runs([one, other], Wish())
    (found,) = compared([one, other], Wish(allow_unlike=True))
    assert [entry.settings for entry in found.entries] == [{"lane": "generate"}, {"lane": "likelihood"}]
    assert not any(entry.settings for entry in compared([one, two], Wish())[0].entries)


@pytest.mark.parametrize(
    ("metrics", "problem"),
    [(("acc", "perplexity"), "no mean over questions"), (("acc", "speed"), "unknown metric 'speed'")],
)
def test_metrics_that_cannot_be_paired_are_refused_whatever_is_allowed(task, metrics, problem):
    runs = runs_of(task, a=right(36, 40), b=right(20, 40))
    runs = [
        replace(run, info={**run.info, "task": {**run.info["task"], "headline": metric}})
        for run, metric in zip(runs, metrics, strict=True)
    ]
    with pytest.raises(PlanError, match=problem):
        compare_runs(runs, Wish(allow_unlike=True))


def test_holm_is_over_all_tasks_of_the_command(tmp_path):
    both = []
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        runs = runs_of(write_quiz(tmp_path / name), a=right(36, 40), b=right(28, 40))
        both += [replace(run, info={**run.info, "task": {**run.info["task"], "name": name}}) for run in runs]
    found = compared(both, Wish())
    assert [one.task for one in found] == ["x", "y"]
    for one in found:
        assert one.num_tests == 2
        assert one.pairs[0].p_holm == pytest.approx(2 * one.pairs[0].difference.p)


def test_published_scores_are_tested_one_by_one_and_in_the_same_family(task):
    runs = runs_of(task, a=right(36, 40), b=right(20, 40))
    (found,) = compared(runs, Wish(published={"GPT-x": 0.6}))
    assert [(test.entry, test.name) for test in found.published] == [(0, "GPT-x"), (1, "GPT-x")]
    assert found.published[0].found.value == pytest.approx(0.3)
    ps = [found.pairs[0].difference.p, *(test.found.p for test in found.published)]
    assert ps[1] == pytest.approx(scipy_stats.binomtest(36, 40, 0.6).pvalue)
    assert min(found.pairs[0].p_holm, found.published[0].p_holm) == pytest.approx(3 * min(ps))
    assert found.num_tests == 3
    (alone,) = compared(runs[:1], Wish(published={"GPT-x": 0.6}))
    assert (alone.pairs, alone.num_tests) == ((), 1)


def test_a_task_with_one_run_is_named(tmp_path):
    (tmp_path / "x").mkdir()
    two = runs_of(write_quiz(tmp_path / "x"), a=right(36, 40), b=right(28, 40))
    lonely = replace(two[0], info={**two[0].info, "task": {**two[0].info["task"], "name": "lonely"}})
    found = compare_runs([*two, lonely], Wish())
    assert ([one.task for one in found.tasks], found.alone) == (["quiz"], ("lonely",))
    with pytest.raises(PlanError, match="a published score is of one task"):
        compare_runs([*two, lonely], Wish(published={"GPT-x": 0.6}))


def test_one_run_is_no_comparison(task):
    with pytest.raises(PlanError, match="nothing to compare"):
        compare_runs(runs_of(task, a=right(36, 40)), Wish())


def test_likelihoods_beside_imported_answers(tmp_path, task, capsys):
    """The main use: a model that was scored here, and answers of one that never was."""
    bench = Bench(capsys)
    write_run(task, "closed-model", right(38, 40, start=2))
    path = write_run(task, "open-model", right(12, 20), first=20)
    info = read_info(path)
    info["task"] |= {"scoring": "letter", "num_fewshot": 5}
    (path / "run.json").write_text(json.dumps({**info, "lane": "likelihood"}))
    refused = bench("compare", tmp_path / "results")
    assert refused.code == 2
    for words in ("lane (generate; likelihood)", "form (unknown; letter)", "--allow-unlike"):
        assert words in refused.complaint
    shown = bench("compare", tmp_path / "results", "--allow-unlike", "--baseline", "closed-model")
    assert shown.code == 0
    text = " ".join(shown.out.split())
    assert "20 questions shared and scored by all · 20 not put to all, left out" in text
    assert "against closed-model, the baseline" in text
    assert "lane: likelihood · form: letter · number of shots: 5" in text
    assert "Unlike settings: lane and form and number of shots." in text
    assert "100.00" in text
    assert "−40.00" in text
    alone = bench("compare", path, "--published", "GPT-x, 5-shot=70.0")
    assert alone.code == 0
    assert "GPT-x, 5-shot 70.00 −10.00" in " ".join(alone.out.split())
    assert "MDE" not in alone.out
    assert "These 20 questions are a part of the task" in alone.out
    for wrong in ("GPT-x", "GPT-x=0.7", "GPT-x=101", "=70"):
        assert "in percent" in bench("compare", path, "--published", wrong).complaint
    assert bench("compare", path).complaint.startswith("nothing to compare")

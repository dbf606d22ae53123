"""Which questions runs share, and whether these were put in the same way."""

from __future__ import annotations

from dataclasses import replace

import pytest
from quiz import right, write_quiz, write_run

from bench.comparison.pairing import SharedQuestions, setting_values
from bench.errors import PlanError, RunFolderError
from bench.runs.reading import read_run


def test_what_all_runs_were_put_is_shared_and_the_rest_counted(tmp_path):
    task = write_quiz(tmp_path)
    runs = [
        read_run(write_run(task, "one", right(20, 30))),
        read_run(write_run(task, "two", right(20, 30), first=10)),
    ]
    shared = SharedQuestions(runs)
    assert shared.ids == [*(f"high/{n}" for n in range(10, 20)), *(f"low/{n}" for n in range(10))]
    assert (shared.num_left_out, shared.num_differing) == (20, 0)


def test_rows_that_have_changed_are_refused(tmp_path):
    task = write_quiz(tmp_path)
    runs = [read_run(write_run(task, name, right(5, 40))) for name in ("one", "two")]
    (tmp_path / "low.csv").write_text((tmp_path / "low.csv").read_text().replace("39 + 1", "39 + 2"))
    with pytest.raises(RunFolderError, match="are not those it scored"):
        SharedQuestions(runs)


def test_questions_of_one_id_and_other_content_are_left_out(tmp_path):
    """Two copies of the task's rows, of which one has been mended; each run was scored on its own copy."""
    runs = []
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        task = write_quiz(tmp_path / name)
        if name == "new":
            rows = (tmp_path / "new/low.csv").read_text()
            (tmp_path / "new/low.csv").write_text(rows.replace("38,39,40,41,7,B", "38,39,40,41,7,C"))
        runs.append(read_run(write_run(task, name, right(5, 40))))
    shared = SharedQuestions(runs)
    assert (len(shared.ids), shared.num_differing) == (39, 1)
    assert "low/18" not in shared.ids


def test_clusters_are_equal_values_of_a_column(tmp_path):
    task = write_quiz(tmp_path)
    shared = SharedQuestions([read_run(write_run(task, "one", right(5, 40)))])
    assert shared.clusters(None) is None
    assert shared.clusters("passage").tolist() == [n // 5 for n in range(40)]
    with pytest.raises(PlanError, match="no column 'pasage'; did you mean 'passage'"):
        shared.clusters("pasage")


def test_a_task_may_name_its_clusters_itself(tmp_path):
    task = write_quiz(tmp_path, extra="cluster: passage\n")
    shared = SharedQuestions([read_run(write_run(task, "one", right(5, 40)))])
    assert shared.clusters(None).max() == 7


def changed(run, **changes):
    info = {**run.info, **{key: value for key, value in changes.items() if key != "task"}}
    info["task"] = {**info["task"], **changes.get("task", {})}
    return replace(run, info=info)


def test_settings_that_differ_are_named_with_their_values(tmp_path):
    run = read_run(write_run(write_quiz(tmp_path), "one", right(5, 40)))
    ids = [score.id for score in run.scores]
    assert setting_values([run, run], ids) == {}
    other = changed(run, lane="likelihood", task={"num_fewshot": 5, "scoring": "cloze"})
    assert setting_values([run, other], ids) == {
        "lane": ["generate", "likelihood"],
        "form": ["unknown", "cloze"],
        "number of shots": ["not recorded", "5"],
    }
    assert setting_values([run, changed(run, task={"limit": 3, "subjects": ["low"]})], ids) == {}


def hashed(run, shots_dropped=(), **other):
    scores = [
        replace(score, prompt_hash=other.get(score.id, "aa"), num_shots_dropped=int(score.id in shots_dropped))
        for score in run.scores
    ]
    return replace(run, scores=tuple(scores))


def test_prompts_are_compared_question_by_question(tmp_path):
    run = read_run(write_run(write_quiz(tmp_path), "one", right(5, 40)))
    ids = [score.id for score in run.scores]
    same, one_other = hashed(run), hashed(run, **{"low/3": "bb"})
    assert setting_values([same, hashed(run)], ids) == {}
    assert list(setting_values([same, one_other], ids)) == ["prompts"]
    assert setting_values([same, one_other], ids[:10]) == {}
    shortened = hashed(run, ["low/3"], **{"low/3": "bb"})
    assert setting_values([same, shortened], ids) == {}  # it fitted one model's context and not the other's
    assert setting_values([same, run], ids)["prompts"][1] == "not recorded"

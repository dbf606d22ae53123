"""`bench speed --scoring`: the very scores of `bench run`, made anew in each repeat, and how long that takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from runs import Bench, only_run, read_info, read_lines, run_folders
from test_speed import quick, write_speed_plan

import bench.scoring
from bench.engine.encode import SampleEncoder
from bench.errors import ScoringError
from bench.measured import Measured
from bench.records import Score
from bench.runs.folder import RunShare
from bench.runs.journal import encode
from bench.scoring import score_samples
from bench.speed import scoring
from bench.speed.folder import POINTS_FILE, read_points
from bench.speed.repeating import Repeats

__all__ = ["quick"]  # a fixture of test_speed.py, which is used by all tests here, too

SETTINGS = ("--scoring", "--limit", 6, "--set", "tasks=[{task: pocket, scoring: cloze, num_fewshot: 0}]")


def only_point(folder: Path) -> dict[str, Any]:
    (point,) = read_points(folder).values()
    return point


def test_a_point_is_what_a_run_does(cli: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[RunShare] = []
    describe = scoring.describe_scoring

    def note(*args: Any) -> dict[str, Any]:
        kept.append(args[-1])
        return describe(*args)

    monkeypatch.setattr(scoring, "describe_scoring", note)
    plan = write_speed_plan(tmp_path)
    done = cli("speed", plan, *SETTINGS)
    assert done.code == 0
    folder = only_run(tmp_path / "results")
    point = only_point(folder)
    assert cli("run", plan, *SETTINGS[1:], "--out", tmp_path / "runs").code == 0
    run = only_run(tmp_path / "runs")
    info = read_info(run)
    scores = list(kept[0].done.values())
    assert b"".join(sorted(map(encode, scores))) == b"".join(
        sorted((run / "samples.jsonl").read_bytes().splitlines(keepends=True))
    )
    assert [point["num_questions"], point["num_failed"]] == [len(read_lines(run)), 0] == [6, 0]
    assert point["num_tokens"] == info["tokens"]
    assert point["num_requests"] == info["requests"]["num"]
    assert point["flops"] == info["floor"]["flops"]
    assert point["task"]["prompt_hash"] == info["task"]["prompt_hash"]
    assert point["packs"] == info["packs"]
    assert info["timing"]["wait_s"] >= 0
    assert sorted(path.name for path in folder.iterdir()) == [".lock", POINTS_FILE, "run.json", "samples.jsonl"]
    assert (folder / "samples.jsonl").read_bytes() == b""  # no score went into it
    for shown in (done, cli("table", tmp_path / "results"), cli("show", folder)):
        (row,) = (line.split() for line in shown.out.splitlines() if line.startswith("fake  "))
        assert row[2:6] == ["pocket", "cloze", "0-shot", "6"]


def test_every_repeat_does_all_of_the_work(cli: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    num_encoded: list[int] = []
    forwarded: list[int] = []
    encode_all, score = SampleEncoder.encode, score_samples

    def count(self: Any, samples: Any) -> Any:
        num_encoded.append(len(samples))
        return encode_all(self, samples)

    def watch(session: Any, job: Any, folder: Any, *more: Any) -> None:
        assert not folder.done
        score(session, job, folder, *more)
        forwarded.append(folder.results["tokens"]["forwarded"])

    monkeypatch.setattr(SampleEncoder, "encode", count)
    monkeypatch.setattr(scoring, "score_samples", watch)
    assert cli("speed", write_speed_plan(tmp_path), *SETTINGS).code == 0
    point = only_point(only_run(tmp_path / "results"))
    num = point["repeat_s"]["num"]
    assert num >= 6
    assert num_encoded == [6] * (num + 1)  # and the warm-up
    assert set(forwarded) == {point["num_tokens"]["distinct"]}
    assert point["self_check_s"] == 0  # that was in the warm-up


def test_it_resumes_shares_the_folder_of_the_sweep_and_knows_other_settings(cli: Bench, tmp_path: Path) -> None:
    plan = write_speed_plan(tmp_path)
    cli("speed", plan, *SETTINGS)
    file = only_run(tmp_path / "results") / POINTS_FILE
    before = file.read_bytes()
    assert "nothing to measure" in cli("speed", plan, *SETTINGS).err
    assert file.read_bytes() == before
    assert cli("speed", plan).code == 0
    assert len(run_folders(tmp_path / "results")) == 1
    assert file.read_bytes().startswith(before)
    assert len(read_points(file.parent)) == 1 + 4
    cli("speed", plan, *SETTINGS, "--set", "engine.max_batch_tokens=256")
    cli("speed", plan, *SETTINGS, "--limit", 5)
    points = [point for point in read_points(file.parent).values() if point["phase"] == "scoring"]
    assert [point["num_questions"] for point in points] == [6, 6, 5]
    assert len({point["packs"]["max_batch_tokens"] for point in points}) == 2
    assert (len({point["key"] for point in points}), read_info(file.parent)["num_points"]) == (3, 7)


def test_a_task_that_cannot_be_scored_is_no_zero(cli: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ScoringError("no sample has a score")

    monkeypatch.setattr(scoring, "score_samples", fail)
    done = cli("speed", write_speed_plan(tmp_path), *SETTINGS)
    assert done.code == 1
    assert "1 of 1 points were not measured: scoring pocket cloze 0-shot" in done.complaint
    assert "no sample has a score" in done.complaint
    assert read_points(only_run(tmp_path / "results")) == {}


def test_what_it_cannot_mean_is_refused_in_one_line(cli: Bench, tmp_path: Path) -> None:
    plan = write_speed_plan(tmp_path)
    alone = cli("speed", plan, "--limit", 3)
    assert (alone.code, alone.complaint) == (
        2,
        "--limit goes with --scoring: nothing else that bench speed measures has samples",
    )
    assert cli("speed", plan, "--scoring", "--limit", 0).code == 2
    api = cli("speed", plan, "--scoring", "--set", "models=[{source: openai:gpt-4o}]")
    assert (api.code, "--scoring measures models on this machine only" in api.complaint) == (2, True)
    written = cli("speed", plan, "--scoring", "--set", "tasks=[{task: pocket, scoring: written}]")
    assert (written.code, written.complaint) == (
        2,
        "bench speed --scoring: no task of the plan is scored by likelihoods",
    )
    assert "left out pocket written 5-shot, which is answered in writing" in written.err
    assert not (tmp_path / "results").exists()


def test_the_wait_for_packs_is_counted_and_nothing_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([0.0, 3.0, 10.0, 10.5, 20.0])  # two waits: 3 s and half a second; what lies between is scoring

    class Clock:
        perf_counter = staticmethod(lambda: next(moments))

    monkeypatch.setattr(bench.scoring, "time", Clock)
    run = object.__new__(bench.scoring._Run)
    run.measured = Measured()
    assert list(run._awaited(iter("ab"))) == ["a", "b"]  # type: ignore[arg-type]
    assert run.measured.seconds["wait_s"] == 3.5


def test_figures_against_numbers_by_hand() -> None:
    class Job:
        title = "t"

        def describe(self) -> dict[str, Any]:
            return {"name": "t", "num_samples": 8}

    def result(score_s: float, rate: float) -> dict[str, Any]:
        return {
            "tokens": {"logical": 400, "distinct": 100, "forwarded": 100},
            "floor": {"flops": 1000, "matmul_flops_per_s": rate},
            "timing": {"encode_s": 0.5, "plan_s": 0.25, "wait_s": 1.0, "score_s": score_s, "self_check_s": 0.0},
            "requests": {"num": 32},
            "packs": {"num": 1, "max_batch_tokens": 512},
            "engine": {"path": "packed"},
            "peak_memory_bytes": 5,
            "notes": ["a note"],
            "telemetry": {"devices": [], "not_measured": {"gpu": "there is none", "cpu": "no RAPL"}, "memory": {}},
        }

    repeats = Repeats(9.0, ((0.0, 4.0), (0.0, 5.0), (0.0, 6.0)), is_tight=False)
    last = scoring._InMemory()
    last.done = {name: Score(name, "", 0, "", correct=True) for name in "abcdefgh"}
    results = [result(3.0, 900.0), result(4.0, 1000.0), result(5.0, 1000.0)]
    found = scoring.describe_scoring(scoring.Scoring(Job(), "scoring t"), repeats, results, last)  # type: ignore[arg-type]
    expected = {
        "questions_per_s": 1.6,  # 8 in 5 s
        "tokens_per_s": 20.0,
        "logical_tokens_per_s": 80.0,
        "share": 0.2,  # 1,000 FLOP at 1,000 a second, of 5 s
        "floor_s": 1.0,
        "warm_up_s": 9.0,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["split_s"] == {"encode_s": 0.5, "plan_s": 0.25, "wait_s": 1.0, "score_s": 4.0}
    assert found["energy"]["per_token_j"] is None
    assert found["notes"] == ["a note"]

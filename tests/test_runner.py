"""A run from plan to run folder: what it records, when it is another run, and what stands when something fails."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_nvml import UUID, FakeNvml, Gpu
from huggingface_hub.errors import LocalEntryNotFoundError
from runs import (
    PATIENCE_S,
    SMALL,
    Bench,
    Forks,
    on_pack,
    only_run,
    raising,
    read_info,
    read_lines,
    run_folders,
    write_plan,
)

from bench.errors import ModelLoadError
from bench.plan import load_plan
from bench.tasks.prepare import prepare_job
from bench.tasks.task import TASKS_DIR

OWN_TASK = {
    "version": 1,
    "title": "Own",
    "sources": [
        {
            "folder": ".",
            "test": {"file": "own.csv", "where": {"split": "test"}},
            "shots": {"file": "own.csv", "where": {"split": "shot"}},
            "columns": {"question": "q", "choices": ["a", "b"], "gold": {"column": "gold", "as": "letter"}},
        }
    ],
    "num_fewshot": 1,
    "shots_per": "task",
    "scoring": "cloze",
    "forms": {"cloze": {"question": "{{ question }}\n", "continuations": "choices", "metric": "acc_norm"}},
}
OWN_ROWS = "split,q,a,b,gold\nshot,Is it so?,no,yes,B\ntest,Two and two?,four,five,A\ntest,Ice?,hot,cold,B\n"


def write_task(folder: Path, rows: str = OWN_ROWS, **changes: Any) -> Path:
    (folder / "own.csv").write_text(rows)
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump({**OWN_TASK, **changes}))
    return path


def write_model(folder: Path, change: Callable[[Any], None] = lambda _: None) -> Path:
    """The fake model as a folder, `change`d."""
    from bench.models.fake import fake_config, fake_model, fake_tokenizer

    model = fake_model(fake_config())
    change(model)
    model.save_pretrained(folder)
    fake_tokenizer().save_pretrained(folder)
    return folder


# --- what a run records ---


def test_what_a_gpu_used_while_it_scored_is_recorded(
    tmp_path: Path, cli: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = FakeNvml(Gpu(power_w=200.0))
    monkeypatch.setattr("bench.telemetry.nvml._pynvml", lambda: driver)
    monkeypatch.setattr("bench.watching.gpu_names", lambda _: [UUID])
    assert cli("run", write_plan(tmp_path)).code == 0
    folder = only_run(tmp_path / "results")
    info = read_info(folder)
    energy, score_s = info["energy"], info["timing"]["score_s"]
    assert energy["gpu_s"] == pytest.approx(score_s, abs=2e-4)
    assert energy["total_j"] == pytest.approx(200 * score_s, rel=0.05)
    assert energy["per_question_j"] == pytest.approx(energy["total_j"] / 12)
    assert energy["gpu_idle_w"] == 200.0
    assert info["telemetry"]["devices"][0]["model"] == "Fake H1"
    assert (folder / "telemetry.csv").read_text().startswith("at_s,device,energy_j")
    assert driver.num_open == 0
    shown = cli("show", str(folder)).out
    assert " a question" in shown
    assert "Fake H1 · limit 700 W · ECC on · busy 87 %" in shown
    assert "J/question" in cli("table", str(folder)).out or "hidden" in cli("table", str(folder)).out


def test_what_is_not_measured_says_why(tmp_path: Path, cli: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.telemetry.recorder.open_zones", lambda: ([], "no permission to read"))
    assert cli("run", write_plan(tmp_path)).code == 0
    folder = only_run(tmp_path / "results")
    energy = read_info(folder)["energy"]
    assert (energy["total_j"], energy["per_question_j"]) == (None, None)
    assert energy["not_measured"] == {"gpu": "no GPU is used", "cpu": "no permission to read"}
    assert "not measured: no permission to read" in cli("table", str(folder)).out
    assert "not measured: no permission to read" in cli("show", str(folder)).out
    assert not (folder / "telemetry.csv").exists()


def test_run_json_holds_what_is_promised(tmp_path: Path, cli: Bench) -> None:
    assert cli("run", write_plan(tmp_path)).code == 0
    info = read_info(only_run(tmp_path / "results"))
    assert (info["schema_version"], info["status"], info["lane"]) == (1, "finished", "likelihood")
    assert info["model"]["num_parameters"] == 180_928
    assert (info["model"]["source"], info["model"]["dtype"]) == ("fake", "float32")
    assert (info["task"]["name"], info["task"]["num_samples"], info["task"]["num_available"]) == ("pocket", 12, 336)
    assert {"torch", "transformers", "python", "cpu", "commit", "is_dirty"} <= info["environment"].keys()
    for name in ("acc", "acc_norm"):
        metric = info["metrics"][name]
        assert (metric["num_scored"], metric["num_failed"], metric["num_truncated"]) == (12, 0, 0)
        assert 0 <= metric["ci95"][0] <= metric["value"] <= metric["ci95"][1] <= 1
    tokens, packs, requests = info["tokens"], info["packs"], info["requests"]
    assert 0 < tokens["distinct"] <= tokens["forwarded"] == tokens["distinct"] < tokens["logical"]
    assert packs["max_batch_tokens"] == 512
    assert tokens["distinct"] / 512 <= packs["num"] <= 12
    assert requests["num"] == 48
    timing = info["timing"]
    assert timing.keys() == {"load_s", "self_check_s", "encode_s", "plan_s", "wait_s", "score_s", "total_s"}
    assert all(seconds > 0 for name, seconds in timing.items() if name != "wait_s")  # packs may be there at once
    assert timing["total_s"] >= timing["load_s"] + timing["self_check_s"] + timing["score_s"]
    floor = info["floor"]
    assert floor["flops"] == floor["timed_flops"] > floor["attention_flops"] > 0
    assert floor["flops"] > floor["head_flops"] > 0
    assert floor["matmul_flops_per_s_lowest"] <= floor["matmul_flops_per_s"] <= floor["matmul_flops_per_s_highest"]
    assert floor["num_matmul_measurements"] >= 2
    assert floor["floor_s"] == pytest.approx(floor["flops"] / floor["matmul_flops_per_s"])
    assert 0 < floor["share"] == pytest.approx(floor["floor_s"] / timing["score_s"], rel=1e-3)
    assert 1 << 25 < info["peak_memory_bytes"] < info["environment"]["memory_bytes"]
    assert (info["engine"]["path"], info["engine"]["attention"]) == ("packed", "sdpa")
    assert info["engine"]["num_out_of_memory"] == 0
    assert 0 <= info["engine"]["self_check"]["max_difference"] <= info["engine"]["self_check"]["tolerance"]
    assert info["started_at"] <= info["finished_at"]
    assert (info["num_sittings"], info["notes"]) == (1, [])


def test_samples_are_in_task_order_and_follow_from_their_loglikelihoods(tmp_path: Path, cli: Bench) -> None:
    plan = write_plan(tmp_path)
    cli("run", plan)
    lines = read_lines(only_run(tmp_path / "results"))
    job = prepare_job(load_plan(plan).tasks[0])
    assert [line["id"] for line in lines] == [sample.sample.id for sample in job.samples]
    for line, sample in zip(lines, job.samples, strict=True):
        values = line["loglikelihoods"]
        assert line["gold"] == sample.sample.gold
        assert line["prompt_hash"] == sample.requests[0].prompt.sha256
        assert line["prediction"] == values.index(max(values))
        assert line["correct"] == (line["prediction"] == line["gold"])
        assert line["error"] is None
        assert not line["truncated"]


def test_the_recorded_plan_runs_as_the_same_run(tmp_path: Path, cli: Bench) -> None:
    cli("run", write_plan(tmp_path, tasks=[{**SMALL, "limit": 2}], bos="never"))
    run = only_run(tmp_path / "results")
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(read_info(run)["config"]))
    found = cli("run", again, "--out", tmp_path / "results")
    assert found.err == "fake · pocket cloze 0-shot: finished before, nothing to score\n"


def test_what_does_not_fit_is_shortened_and_counted(tmp_path: Path, cli: Bench) -> None:
    task = {"task": "pocket", "limit": 12, "num_fewshot": 5}
    cli("run", write_plan(tmp_path, tasks=[task], max_length=500))
    run = only_run(tmp_path / "results")
    lines, metric = read_lines(run), read_info(run)["metrics"]["acc"]
    assert metric["num_scored"] == 12
    assert metric["num_fewer_shots"] == sum(line["num_shots_dropped"] > 0 for line in lines) > 0
    assert metric["num_truncated"] == sum(line["truncated"] for line in lines) >= metric["num_fewer_shots"]


# --- finished runs, and other runs ---


def test_a_finished_run_is_not_scored_again_nor_its_model_loaded(
    tmp_path: Path, cli: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = write_plan(tmp_path)
    first = cli("run", plan)
    run = only_run(tmp_path / "results")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.iterdir() if path.name != ".lock"}

    def load(*_: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("bench.session.load_model", load)
    again = cli("run", plan)
    assert (again.code, again.out) == (0, first.out)
    assert again.err == "fake · pocket cloze 0-shot: finished before, nothing to score\n"
    assert before == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before}


def test_what_changes_an_answer_makes_another_run(tmp_path: Path, cli: Bench) -> None:
    task, model = write_task(tmp_path), write_model(tmp_path / "model")
    results = tmp_path / "results"
    plan = write_plan(tmp_path, models=[{"source": str(model)}], tasks=[{"task": str(task)}])
    rows = OWN_ROWS.replace("four,five,A", "four,five,B")  # the gold, which no prompt shows
    form = OWN_TASK["forms"]["cloze"]  # type: ignore[index]

    def negate(model: Any) -> None:
        model.lm_head.weight.data.neg_()

    changes: dict[str, Callable[[], object]] = {
        "nothing": lambda: None,
        "limit": lambda: "--set=tasks.0.limit=1",
        "num_fewshot": lambda: "--set=tasks.0.num_fewshot=0",
        "dtype": lambda: "--set=models.0.dtype=bfloat16",
        "bos": lambda: "--set=engine.bos=never",
        "overlong": lambda: "--set=engine.overlong=cut_left",
        "max_length": lambda: "--set=engine.max_length=1000",
        "version": lambda: write_task(tmp_path, version=2) and None,
        "prompt": lambda: write_task(tmp_path, forms={"cloze": {**form, "question": "Q: {{ question }}\n"}}) and None,
        "data": lambda: write_task(tmp_path, rows) and None,
        "model": lambda: write_model(tmp_path / "model", negate) and None,
    }
    for number, (what, change) in enumerate(changes.items(), 1):
        option = change()
        assert cli("run", plan, *([option] if option else [])).code == 0
        assert len(run_folders(results)) == number, what
    cli("run", plan, "--set=engine.max_batch_tokens=64", "--set=models.0.dtype=float32")  # changes no answer
    assert len(run_folders(results)) == len(changes)


def test_a_name_is_only_a_name(tmp_path: Path, cli: Bench) -> None:
    for name in ("one", "two"):
        cli("run", write_plan(tmp_path, models=[{"source": "fake", "name": name}]), "--limit", 1)
    one, two = run_folders(tmp_path / "results")
    assert read_info(one)["identity"] == read_info(two)["identity"]
    assert (one / "samples.jsonl").read_bytes() == (two / "samples.jsonl").read_bytes()


def test_a_second_process_on_a_run_is_refused(tmp_path: Path, cli: Bench, forks: Forks) -> None:
    from bench.runs.disk import lock_folder

    plan = write_plan(tmp_path)
    cli("run", plan)
    run = only_run(tmp_path / "results")
    shutil.copytree(run, tmp_path / "before")
    lock = lock_folder(run)
    try:
        pid = forks.start("run", plan, output=tmp_path / "output")
        assert forks.wait(pid) == 2
        lines = (tmp_path / "output").read_text().splitlines()
        assert len(lines) == 1
        assert "is in use by another process" in lines[0]
    finally:
        import os

        os.close(lock)
    for name in ("run.json", "samples.jsonl"):
        assert (run / name).read_bytes() == (tmp_path / "before" / name).read_bytes()


# --- models that fail ---


def test_a_model_that_cannot_be_reached_fails_alone(
    tmp_path: Path, cli: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    models = [{"source": "owner/far"}, {"source": "fake"}]
    tasks = [{**SMALL, "limit": 2}, {**SMALL, "limit": 2, "scoring": "letter"}]
    found = cli("run", write_plan(tmp_path, models=models, tasks=tasks))
    assert found.code == 1
    assert found.err.splitlines() == [
        "looking for owner/far in the cache and on the hub",
        "bench: model far: owner/far cannot be reached: no hub connection and no copy in the cache",
        "fake · pocket cloze 0-shot",
        "fake · pocket letter 0-shot",
        "bench: 2 of 4 runs did not finish, for the reasons given above",
    ]
    assert [read_info(run)["status"] for run in run_folders(tmp_path / "results")] == ["finished"] * 2
    assert "fake" in found.out
    assert "far" not in found.out


def test_a_model_that_cannot_be_loaded_is_tried_once(
    tmp_path: Path, cli: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []

    def load(spec: Any, *_: object) -> None:
        calls.append(spec.name)
        raise ModelLoadError(f"model {spec.name} cannot be loaded: header too large")

    monkeypatch.setattr("bench.session.load_model", load)
    num_threads = threading.active_count()
    found = cli("run", write_plan(tmp_path, tasks=[SMALL, {**SMALL, "scoring": "letter"}]))
    assert (found.code, found.out, calls) == (1, "", ["fake"])
    deadline = time.monotonic() + PATIENCE_S
    while threading.active_count() > num_threads:  # what planned ahead does not wait for ever
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert found.err.count("bench: ") == 2
    for run in run_folders(tmp_path / "results"):
        assert read_info(run)["status"] == "failed"
        assert read_info(run)["reason"] == "model fake cannot be loaded: header too large"


@pytest.mark.parametrize("place", ["bench.session.load_config", "bench.session.load_tokenizer"])
def test_whatever_a_models_own_files_bring_about_stops_that_model_only(
    tmp_path: Path, cli: Bench, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    import bench.session

    real = getattr(bench.session, place.rpartition(".")[2])

    def broken(spec: Any, *rest: Any) -> Any:
        if spec.name == "odd":
            raise TypeError("unhashable type:\n 'dict'")
        return real(spec, *rest)

    monkeypatch.setattr(place, broken)
    models = [{"source": "fake", "name": "odd"}, {"source": "fake"}]
    found = cli("run", write_plan(tmp_path, models=models), "--limit", 1)
    assert found.code == 1
    assert found.err.splitlines()[0] == "bench: model odd: TypeError: unhashable type: 'dict'"
    assert read_info(only_run(tmp_path / "results"))["model"]["name"] == "fake"


def test_an_exception_inside_a_model_is_one_line_and_its_traceback_in_the_log(
    tmp_path: Path, cli: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = on_pack(monkeypatch, raising(RuntimeError("shapes do not match:\n(3, 4)"), [1]))
    models = [{"source": "fake", "name": name} for name in ("bad", "good")]
    plan = write_plan(tmp_path, models=models)
    found = cli("run", plan)
    bad, good = run_folders(tmp_path / "results")
    assert found.code == 1
    log = bad / "run.log"
    assert found.err.splitlines()[1:] == [
        f"bench: bad · pocket cloze 0-shot: RuntimeError: shapes do not match: (3, 4) (the traceback is in {log})",
        "good · pocket cloze 0-shot",
        "bench: 1 of 2 runs did not finish, for the reasons given above",
    ]
    assert "Traceback" in log.read_text()
    assert read_info(bad)["status"] == "failed"
    assert read_info(bad)["reason"] == "RuntimeError: shapes do not match: (3, 4)"
    assert read_info(good)["status"] == "finished"
    assert len(seen) > 5
    assert cli("run", plan).code == 0  # it is over: the same command goes on
    assert (bad / "samples.jsonl").read_bytes() == (good / "samples.jsonl").read_bytes()


def test_the_memory_of_a_model_is_free_before_the_next_one_comes(
    tmp_path: Path, cli: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gc
    import weakref

    import bench.session

    alive: list[weakref.ref[Any]] = []
    still_there: list[int] = []
    load_model = bench.session.load_model

    def load(*args: Any) -> Any:
        still_there.append(sum(model() is not None for model in alive))
        model = load_model(*args)
        alive.append(weakref.ref(model))
        return model

    monkeypatch.setattr("bench.session.load_model", load)
    monkeypatch.setattr(logging.getLogger("bench"), "propagate", False)  # pytest keeps what is logged, frames and all
    on_pack(monkeypatch, raising(RuntimeError("broken"), [1]))
    models = [{"source": "fake", "name": name} for name in ("broken", "second", "third")]
    gc.disable()  # it must not be left to chance
    try:
        cli("run", write_plan(tmp_path, models=models))
    finally:
        gc.enable()
    assert still_there == [0, 0, 0]


def test_models_and_tasks_of_the_shipped_plans_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    configs = TASKS_DIR.parent / "configs"
    for name in ("cpu", "gpu", "smoke"):
        assert load_plan(configs / f"{name}.yaml").models

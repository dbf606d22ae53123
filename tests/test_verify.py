"""`bench verify`: an honest run holds, and every way of tampering with one is told."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runs import SMALL, Bench, only_run, read_info, write_plan

from bench.metrics import summarise
from bench.records import Score
from bench.runs.journal import encode, parse

Scores = list[Score]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Honest runs: of a model in a folder, one with shortened prompts, one in bfloat16."""
    from bench.cli import main
    from bench.models.fake import fake_config, fake_model, fake_tokenizer

    folder = tmp_path_factory.mktemp("verify")
    fake_model(fake_config()).save_pretrained(folder / "model")
    fake_tokenizer().save_pretrained(folder / "model")
    models = [{"source": str(folder / "model")}]
    shortened = {**SMALL, "num_fewshot": 5}
    plans = {
        "plain": {"models": models},
        "shortened": {"tasks": [shortened], "max_length": 500},
        "cut": {"tasks": [shortened], "max_length": 200, "overlong": "cut_left"},
        "bfloat16": {"models": [{"source": "fake", "dtype": "bfloat16"}]},
    }
    for name, plan in plans.items():
        (folder / name).mkdir()
        assert main(["run", str(write_plan(folder / name, **plan))]) == 0
    return {name: only_run(folder / name / "results") for name in plans}


@pytest.fixture
def copy(results: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    def copied(name: str) -> Path:
        return Path(shutil.copytree(results[name], tmp_path / name))

    return copied


def tamper(run: Path, change: Callable[[Scores], Scores], *, repair: bool = True) -> None:
    """Change the scores of a run, then everything that follows from them: checksums, metrics."""
    scores = change(list(parse((run / "samples.jsonl").read_bytes()).scores))
    data = b"".join(map(encode, scores))
    (run / "samples.jsonl").write_bytes(data)
    if repair:
        tamper_info(run, samples_sha256=hashlib.sha256(data).hexdigest(), **json.loads(json.dumps(summarise(scores))))


def tamper_info(run: Path, **changes: Any) -> None:
    (run / "run.json").write_text(json.dumps({**read_info(run), **changes}))


def changed(number: int, **fields: Any) -> Callable[[Scores], Scores]:
    def change(scores: Scores) -> Scores:
        scores[number] = replace(scores[number], **fields)
        return scores

    return change


def first_wrong(scores: Scores) -> int:
    return next(number for number, score in enumerate(scores) if not score.correct)


def raised(scores: Scores) -> Scores:
    """Give a wrong sample's gold the best loglikelihood, so that it becomes right; all of it consistent."""
    number = first_wrong(scores)
    score = scores[number]
    values = list(score.loglikelihoods)
    values[score.gold] = max(values) + 0.01
    norms = [value / num for value, num in zip(values, score.num_choice_chars, strict=True)]
    norm = norms.index(max(norms))
    scores[number] = replace(
        score,
        loglikelihoods=tuple(values),
        prediction=score.gold,
        correct=True,
        prediction_norm=norm,
        correct_norm=norm == score.gold,
    )
    return scores


# --- honest runs ---


@pytest.mark.parametrize("name", ["plain", "shortened", "cut", "bfloat16"])
def test_an_honest_run_holds(copy: Callable[[str], Path], cli: Bench, name: str) -> None:
    run = copy(name)
    before = read_info(run)
    found = cli("verify", run, "--samples", 12)
    assert (found.code, found.err) == (0, "")
    assert found.out.startswith("the run holds: 12 of 12 samples scored again, plainly, in fp32\n")
    after = read_info(run)
    verify = after.pop("verify")
    assert after == before
    assert (verify["num_samples"], verify["num_rescored"], verify["problems"]) == (12, 12, [])
    assert 0 < verify["mean_difference"] < verify["max_difference"]
    assert len(verify["flips"]) == verify["num_flips"]
    assert verify["verified_at"]
    if name == "bfloat16":
        assert verify["max_difference"] > 1e-3
    else:
        assert (verify["num_flips"], verify["tolerance"]) == (0, 1e-3)
        assert verify["max_difference"] < 2e-4
    metric = before["metrics"]["acc"]
    assert (metric["num_fewer_shots"] > 0) == (name == "shortened")
    assert (metric["num_truncated"] > 0) == (name in {"shortened", "cut"})


def test_a_draw_is_the_seeds(copy: Callable[[str], Path], cli: Bench) -> None:
    run = copy("plain")
    seen = []
    for seed in (0, 0, 1):
        assert cli("verify", run, "--samples", 3, "--seed", seed).code == 0
        seen.append({key: value for key, value in read_info(run)["verify"].items() if key != "verified_at"})
    assert seen[0] == seen[1] != seen[2]
    assert seen[0]["num_rescored"] == 3


def test_verifying_does_not_score_the_run_anew(
    results: dict[str, Path], cli: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("verify", results["plain"]).code == 0
    monkeypatch.setattr("bench.session.load_model", None)
    assert cli("run", results["plain"].parents[1] / "plan.yaml").code == 0
    assert "verify" in read_info(results["plain"])


# --- tampering ---


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (raised, "sample {wrong}: a loglikelihood differs from plain fp32 scoring by "),
        (changed(0, gold=9), "sample {id0}: prediction, gold or correctness do not follow from its loglikelihoods"),
        (changed(0, correct=None), "sample {id0}: prediction, gold or correctness do not follow"),
        (changed(0, prompt_hash="f" * 64), "sample {id0}: prediction, gold or correctness do not follow"),
        (changed(0, loglikelihoods=(-1.0,), num_choice_chars=(1,)), "sample {id0}: prediction, gold or correctness do"),
        (changed(0, error="it was hard"), "sample {id0}: prediction, gold or correctness do not follow"),
        (changed(5, truncated=True), "sample {id5}: `truncated` is not true of it"),
        (lambda scores: scores[:4] + scores[5:], "its samples are not the task's, each once, in task order"),
        (lambda scores: scores[::-1], "its samples are not the task's, each once, in task order"),
    ],
)
def test_scores_that_were_changed_are_told_although_all_that_follows_was_repaired(
    copy: Callable[[str], Path], cli: Bench, change: Callable[[Scores], Scores], problem: str
) -> None:
    run = copy("plain")
    scores = list(parse((run / "samples.jsonl").read_bytes()).scores)
    ids = {"id0": scores[0].id, "id5": scores[5].id, "wrong": scores[first_wrong(scores)].id}
    tamper(run, change)
    found = cli("verify", run, "--samples", 12)
    assert (found.code, found.out) == (1, "")
    assert found.complaint.startswith(f"{run} does not hold: ")
    assert problem.format(**ids) in found.complaint
    verify = read_info(run)["verify"]
    assert any(problem.format(**ids) in text for text in verify["problems"])
    if change is raised:
        assert (verify["num_flips"], verify["flips"]) == (1, [ids["wrong"]])
        assert verify["max_difference"] > 0.01
        assert len(verify["problems"]) == 1


def test_scores_that_were_changed_by_hand_are_told(copy: Callable[[str], Path], cli: Bench) -> None:
    run = copy("plain")
    tamper(run, raised, repair=False)
    complaint = cli("verify", run, "--samples", 1).complaint
    assert "samples.jsonl is not the file that run.json was written with (its SHA-256 differs)" in complaint
    assert "`metrics` in run.json does not follow from samples.jsonl" in complaint


def test_shots_that_were_not_left_out_are_told(copy: Callable[[str], Path], cli: Bench) -> None:
    run = copy("shortened")
    scores = parse((run / "samples.jsonl").read_bytes()).scores
    number = next(number for number, score in enumerate(scores) if score.num_shots_dropped)
    tamper(run, changed(number, num_shots_dropped=scores[number].num_shots_dropped - 1))
    complaint = cli("verify", run, "--samples", 12).complaint
    assert f"sample {scores[number].id}: prediction, gold or correctness do not follow" in complaint
    assert f"sample {scores[number].id}: a loglikelihood differs from plain fp32 scoring" in complaint


def nested(info: dict[str, Any], key_path: str, value: object) -> dict[str, Any]:
    head, _, rest = key_path.partition(".")
    return {**info, head: nested(info[head], rest, value) if rest else value}


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("metrics.acc.value", 0.99, "`metrics` in run.json does not follow from samples.jsonl"),
        ("macro.acc.stderr", 0.0, "`macro` in run.json does not follow"),
        ("groups.astronomy", {}, "`groups` in run.json does not follow"),
        ("task.prompt_hash", "f" * 64, "the task's prompts are not those that were scored"),
        ("task.data.sha256", "f" * 64, "the task's rows are not those that were scored"),
        ("model.dtype", "bfloat16", "the settings are not those of the run's identity"),
        ("model.fingerprint", "f" * 64, "the model is not the one that was scored"),
        ("config.engine.bos", "never", "the settings are not those of the run's identity"),
    ],
)
def test_a_run_json_that_was_changed_is_told(
    copy: Callable[[str], Path], cli: Bench, key: str, value: object, problem: str
) -> None:
    run = copy("plain")
    tamper_info(run, **nested(read_info(run), key, value))
    found = cli("verify", run, "--samples", 1)
    assert found.code == 1
    assert problem in found.complaint


def test_another_model_in_the_same_place_is_told(
    results: dict[str, Path], copy: Callable[[str], Path], cli: Bench
) -> None:
    from bench.models.fake import fake_config, fake_model

    run = copy("plain")
    folder = Path(read_info(run)["model"]["source"])
    weights = (folder / "model.safetensors").read_bytes()
    model = fake_model(fake_config())
    model.lm_head.weight.data.neg_()
    model.save_pretrained(folder)
    try:
        found = cli("verify", run, "--samples", 12)
    finally:
        (folder / "model.safetensors").write_bytes(weights)
    assert found.code == 1
    assert "the model is not the one that was scored" in found.complaint
    assert "a loglikelihood differs from plain fp32 scoring" in found.complaint
    assert "and 10 more, see `verify` in run.json" in found.complaint
    assert len(read_info(run)["verify"]["problems"]) == 13
    assert read_info(run)["verify"]["num_flips"] > 0


# --- what cannot be verified ---


def test_only_a_finished_run_can_be_verified(copy: Callable[[str], Path], cli: Bench) -> None:
    run = copy("plain")
    tamper_info(run, status="running")
    found = cli("verify", run)
    assert (found.code, found.out) == (2, "")
    assert found.complaint == f"{run} has status 'running'; only a finished run can be verified"


@pytest.mark.parametrize("key", ["config", "model", "engine"])
def test_a_run_json_that_lacks_something_is_told(copy: Callable[[str], Path], cli: Bench, key: str) -> None:
    run = copy("plain")
    (run / "run.json").write_text(json.dumps({k: v for k, v in read_info(run).items() if k != key}))
    found = cli("verify", run, "--samples", 1)
    assert found.code == 2
    assert f"run.json lacks {key}" in found.complaint


def test_a_run_that_is_in_use_is_left_alone(copy: Callable[[str], Path], cli: Bench) -> None:
    from bench.runs.disk import lock_folder

    run = copy("plain")
    lock = lock_folder(run)
    try:
        found = cli("verify", run)
    finally:
        os.close(lock)
    assert found.code == 2
    assert "is in use by another process" in found.complaint

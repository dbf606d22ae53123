"""Runs in the lane `generate`: what is written reaches the run folder at once, whatever stops it."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_kinds
import yaml
from fake_nvml import UUID, FakeNvml, Gpu
from runs import Bench, only_run, read_info, read_lines

from bench.completer import GenerationSettings
from bench.config import TaskSpec
from bench.errors import ScoringError, SteelyardError
from bench.records import Completion, Message
from bench.runner import Silence
from bench.runs.folder import RunFolder
from bench.runs.journal import encode
from bench.runs.reading import read_run
from bench.tasks.job import Job
from bench.tasks.prepare import prepare_job
from bench.writing.generating import complete_samples

FORM = {
    "question": "{{ question }} =",
    "generate": {"max_tokens": 5, "stop": ["\n"]},
    "extract": "number",
}


def write_task(folder: Path, num: int = 7, **form: Any) -> Path:
    """Sums, whose answers are 1, 2, 3, ..."""
    rows = [{"question": f"{number} + 1", "sum": str(number + 1)} for number in range(num)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"test": "sums.jsonl", "shots": "sums.jsonl", "columns": {"question": "question", "references": "sum"}}
    task = {"version": 1, "title": "sums", "sources": [source], "scoring": "plain", "forms": {"plain": FORM | form}}
    path = folder / "sums.yaml"
    path.write_text(yaml.safe_dump(task))
    return path


def make_job(folder: Path, num_fewshot: int = 0, **form: Any) -> Job:
    return prepare_job(TaskSpec.model_validate({"task": str(write_task(folder, **form)), "num_fewshot": num_fewshot}))


class Script:
    """A writer that answers by a function, last prompt first, and fits prompts of so many characters."""

    def __init__(self, answer: Any, max_chars: int = 10_000) -> None:
        self.answer = answer
        self.max_chars = max_chars
        self.asked: list[str] = []

    @contextlib.contextmanager
    def writing(self, info: Mapping[str, Any]) -> Iterator[Script]:
        self.num_before = info.get("engine", {}).get("num_asked", 0)
        yield self

    def fits(self, prompts: Sequence[tuple[Message, ...]], settings: GenerationSettings) -> list[bool]:
        return [sum(len(message.text) for message in prompt) <= self.max_chars for prompt in prompts]

    def measured(self) -> dict[str, Any]:
        return {"engine": {"num_asked": self.num_before + len(self.asked)}, "peak_memory_bytes": 5, "notes": ["n"]}

    def complete(
        self, prompts: Sequence[tuple[Message, ...]], settings: GenerationSettings
    ) -> Iterator[tuple[int, Completion | str]]:
        for number in reversed(range(len(prompts))):
            text = prompts[number][-1].text
            self.asked.append(text)
            yield number, self.answer(text, len(self.asked))


def right(text: str, _: int) -> Completion:
    number = int(text.rsplit("\n\n", maxsplit=1)[-1].split(maxsplit=1)[0])
    return Completion(f" {number + 1}.", num_prompt_tokens=3, num_completion_tokens=2, cost_usd=0.5)


def run(folder: Path, job: Job, script: Script) -> RunFolder:
    with RunFolder.open(folder, "run", "id", {"model": {"name": "script"}}) as opened:
        complete_samples(script, job, opened, Silence())
    return opened


def test_completions_become_scores_metrics_and_sums(tmp_path: Path) -> None:
    def answer(text: str, _: int) -> Completion | str:
        if text.startswith("2 "):
            return "the service was gone"
        if text.startswith("3 "):
            return Completion("I do not know", "length", num_prompt_tokens=3, num_completion_tokens=5)
        if text.startswith("4 "):
            return Completion("5", "refusal")
        return right(text, 0)

    folder = run(tmp_path, make_job(tmp_path), Script(answer))
    info, lines = read_info(folder.path), read_lines(folder.path)
    assert info["metrics"]["exact_match"]["value"] == pytest.approx(4 / 6)  # the error is no wrong answer
    counts = {key: info["metrics"]["exact_match"][key] for key in info["metrics"]["exact_match"] if "num_" in key}
    assert counts["num_scored"] == 6
    assert counts["num_failed"] == counts["num_cut_off"] == counts["num_refused"] == 1
    assert counts["num_no_answer"] == 2
    assert info["tokens"] == {"prompt": 15, "cached": 0, "completion": 13, "reasoning": 0}
    assert info["cost_usd"] == 2.0
    assert (info["engine"], info["peak_memory_bytes"], info["notes"]) == ({"num_asked": 7}, 5, ["n"])
    assert info["timing"]["total_s"] >= info["timing"]["score_s"] >= 0
    assert [line["id"] for line in lines] == [str(number) for number in range(7)]
    assert lines[0]["completion"]["text"] == " 1."
    assert lines[0]["extracted"] == "1"
    assert lines[2]["error"] == "the service was gone"
    assert "extracted" not in lines[3]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SteelyardError("no more money")])
def test_what_was_written_before_a_stop_is_kept_and_not_asked_for_again(tmp_path: Path, error: BaseException) -> None:
    def stop(text: str, number: int) -> Completion:
        if number == 4:
            raise error
        return right(text, number)

    job = make_job(tmp_path)
    first = Script(stop)
    with pytest.raises(type(error)):
        run(tmp_path, job, first)
    assert len(read_lines(tmp_path / "run")) == 3
    assert read_info(tmp_path / "run")["status"] == "running"
    second = Script(right)
    folder = run(tmp_path, job, second)
    assert set(first.asked[:3]).isdisjoint(second.asked)
    assert len(second.asked) == 4
    info = read_info(folder.path)
    assert info["metrics"]["exact_match"]["value"] == 1.0
    assert info["engine"]["num_asked"] == 8  # both sittings
    assert info["num_sittings"] == 2


def test_a_result_is_on_the_disk_before_the_next_is_asked_for(tmp_path: Path) -> None:
    def look(text: str, number: int) -> Completion:
        journal = tmp_path / "run" / "samples.jsonl"
        assert (journal.read_bytes().count(b"\n") if journal.exists() else 0) == number - 1
        return right(text, number)

    run(tmp_path, make_job(tmp_path), Script(look))


def test_no_score_at_all_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="all 7 failed, the first with: down"):
        run(tmp_path, make_job(tmp_path), Script(lambda *_: "down"))


def test_shots_are_left_out_until_a_prompt_fits(tmp_path: Path) -> None:
    job = make_job(tmp_path, num_fewshot=3)
    shot = len("0 + 1 = 1\n\n")
    script = Script(right, max_chars=2 * shot + len("0 + 1 ="))
    folder = run(tmp_path, job, script)
    assert {text.count("\n\n") for text in script.asked} == {2}
    lines = read_lines(folder.path)
    assert {(line["num_shots_dropped"], line["truncated"]) for line in lines} == {(1, True)}
    assert read_info(folder.path)["metrics"]["exact_match"]["num_fewer_shots"] == 7
    assert lines[5]["prompt_hash"] == job.samples[5].prompt.without_shots(1).sha256


def write_plan(folder: Path, model: Mapping[str, Any], **task: Any) -> Path:
    plan = {"models": [model], "tasks": [{"task": str(write_task(folder)), **task}], "out": str(folder / "results")}
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan))
    return path


def test_what_a_gpu_used_while_it_wrote_is_recorded(
    tmp_path: Path, cli: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = FakeNvml(Gpu(power_w=150.0))
    monkeypatch.setattr("bench.telemetry.nvml._pynvml", lambda: driver)
    monkeypatch.setattr("bench.watching.gpu_names", lambda _: [UUID])
    monkeypatch.setattr("bench.telemetry.summary._LEAST_COVERED", 0.0)  # of milliseconds, much is spent on else
    assert cli("run", write_plan(tmp_path, {"source": "fake"}, num_fewshot=1)).code == 0
    info = read_info(only_run(tmp_path / "results"))
    energy = info["energy"]
    assert 0 < energy["gpu_s"] <= info["timing"]["score_s"]
    # A counter is read some moments after the clock, and the run takes milliseconds; exactness is test_track's matter.
    assert energy["total_j"] == pytest.approx(150 * energy["gpu_s"], rel=0.1)
    assert energy["per_question_j"] == pytest.approx(energy["total_j"] / 7)
    assert energy["per_completion_token_j"] == pytest.approx(energy["total_j"] / info["tokens"]["completion"])
    assert driver.num_open == 0


def test_a_local_model_writes_and_an_interrupted_run_ends_as_a_whole_one(
    tmp_path: Path, cli: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = write_plan(tmp_path, {"source": "fake"}, num_fewshot=1)
    assert cli("run", plan).code == 0
    run = only_run(tmp_path / "results")
    info, whole = read_info(run), (run / "samples.jsonl").read_bytes()
    assert (info["lane"], info["likelihood"]) == ("generate", None)
    assert info["engine"]["path"] == "generate"
    assert info["tokens"]["completion"] == sum(line["completion"]["num_completion_tokens"] for line in read_lines(run))
    assert 0 < info["tokens"]["completion"] <= 7 * 5
    assert info["peak_memory_bytes"] > 0

    run.rename(tmp_path / "whole")
    append, num_appended = RunFolder.append, 0

    def interrupted(self: RunFolder, scores: Any) -> None:
        nonlocal num_appended
        num_appended += 1
        if num_appended == 3:
            raise KeyboardInterrupt
        append(self, scores)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append", interrupted)
        assert cli("run", plan).code == 130
    assert len(read_lines(run)) == 2
    assert cli("run", plan).code == 0
    assert (run / "samples.jsonl").read_bytes() == whole
    assert read_info(run)["metrics"] == info["metrics"]
    assert cli("run", plan).err.count("finished before") == 1


def test_verify_recomputes_what_follows_from_completions_and_writes_some_again(tmp_path: Path, cli: Bench) -> None:
    plan = write_plan(tmp_path, {"source": "fake"}, num_fewshot=1)
    assert cli("run", plan).code == 0
    run = only_run(tmp_path / "results")
    result = cli("verify", run, "--samples", 3)
    assert result.code == 0
    assert "3 of 7 samples written again, alone, in fp32" in result.out
    assert read_info(run)["verify"]["num_flips"] == 0
    info = read_info(run)
    (run / "run.json").write_text(json.dumps(info | {"model": {"name": "gpt", "kind": "api"}}))
    assert "all of it follows from its 7 completions" in cli("verify", run).out
    (run / "run.json").write_text(json.dumps(info | {"model": {"kind": "api"}, "metrics": {}}))
    assert "`metrics` in run.json does not follow from samples.jsonl" in cli("verify", run).complaint
    (run / "run.json").write_text(json.dumps(info))
    scores = read_run(run).scores

    def rewrite(**changes: Any) -> str:
        first = replace(scores[0], **changes)
        data = b"".join(encode(score) for score in (first, *scores[1:]))
        (run / "samples.jsonl").write_bytes(data)
        info = read_info(run) | {"samples_sha256": hashlib.sha256(data).hexdigest()}
        (run / "run.json").write_text(json.dumps(info))
        return cli("verify", run, "--samples", 7).complaint

    assert "sample 0: prediction, gold or correctness do not follow from its completion" in rewrite(extracted="7")
    assert scores[0].completion is not None
    other = replace(scores[0].completion, text="zz")
    assert "sample 0: greedy decoding in fp32, by itself, writes something else" in rewrite(
        completion=other, extracted=None
    )


def test_what_changes_a_completion_makes_another_run(tmp_path: Path) -> None:
    keys = {json.dumps(make_job(tmp_path).identity(), sort_keys=True)}
    for change in (
        {"generate": {"max_tokens": 6, "stop": ["\n"]}},
        {"generate": {"max_tokens": 5}},
        {"generate": {"max_tokens": 5, "stop": ["\n"], "temperature": 0.5}},
        {"extract": "text"},
        {"question": "{{ question }}="},
    ):
        keys.add(json.dumps(make_job(tmp_path, **change).identity(), sort_keys=True))
    assert len(keys) == 6


def test_the_dry_run_says_that_it_cannot_know(tmp_path: Path, cli: Bench) -> None:
    result = cli("run", write_plan(tmp_path, {"source": "fake"}), "--dry-run")
    assert (result.code, result.out) == (0, "")
    assert "how much it will write is not known beforehand" in result.err


def test_a_masked_language_model_is_told_from_those_that_write(tmp_path: Path, cli: Bench) -> None:
    model = tiny_kinds.write_folder(
        tmp_path / "model", tiny_kinds.tiny("masked", "bert", vocab_size=300), tiny_kinds.bert_tokenizer()
    )
    result = cli("run", write_plan(tmp_path, {"source": str(model)}))
    assert result.code == 2
    assert "answered in writing, and a masked language model writes nothing" in result.complaint

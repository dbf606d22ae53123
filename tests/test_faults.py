"""Whatever stops a run, the same command goes on with it and ends with the numbers of an uninterrupted one."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from runs import (
    Bench,
    Forks,
    assert_same_run,
    on_pack,
    only_run,
    raising,
    read_info,
    read_lines,
    write_plan,
)

import bench.runs.disk
from bench.plan import load_plan
from bench.runs.reading import read_run
from bench.tasks.prepare import prepare_job


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of the small plan."""
    from bench.cli import main

    folder = tmp_path_factory.mktemp("whole")
    assert main(["run", str(write_plan(folder))]) == 0
    return only_run(folder / "results")


@pytest.fixture(scope="module")
def num_packs(whole: Path) -> int:
    num: int = read_info(whole)["packs"]["num"]
    assert num > 4
    return num


def loglikelihoods(run: Path) -> dict[str, list[float]]:
    return {line["id"]: line["loglikelihoods"] for line in read_lines(run)}


# --- killed ---


def test_killed_at_ten_random_points_and_continued(tmp_path: Path, forks: Forks) -> None:
    tasks = [{"task": "pocket", "num_fewshot": 0, "limit": 200}]
    plans = [tmp_path / name for name in ("killed", "uninterrupted")]
    for folder in plans:
        folder.mkdir()
        write_plan(folder, tasks=tasks, max_batch_tokens=256)
    killed, uninterrupted = (folder / "results" for folder in plans)
    scored, output = tmp_path / "scored", tmp_path / "output"
    delays = [random.uniform(0.001, 0.08) for _ in range(10)]
    num_batches: list[int] = []
    kept: list[set[str]] = []
    for delay in delays:
        pid = forks.start("run", plans[0] / "plan.yaml", output=output, scored=str(scored), dies_after=delay)
        assert forks.wait(pid) == -signal.SIGALRM, output.read_text()
        num_batches.append(scored.read_bytes().count(b"\n"))
        kept.append({score.id for score in read_run(only_run(killed)).scores})
        assert read_info(only_run(killed))["status"] == "running"
    pids = [forks.start("run", folder / "plan.yaml", output=output, scored=str(folder / "scored")) for folder in plans]
    assert [forks.wait(pid) for pid in pids] == [0, 0], output.read_text()
    assert_same_run(only_run(killed), only_run(uninterrupted))
    info = read_info(only_run(killed))
    assert info["num_sittings"] == 11
    assert 0 < len(kept[0]) < len(kept[-1]) < 200
    # A sitting scores what is not in the journal, and all but its last pack is there afterwards.
    batches = [json.loads(line) for line in scored.read_text().splitlines()]
    starts = [0, *num_batches[:-1]]
    for number, (start, end) in enumerate(zip(starts, num_batches, strict=True)):
        own = [sample_id for batch in batches[start:end] for sample_id in batch]
        assert kept[number - 1].isdisjoint(own) or number == 0, delays
        assert kept[number].issuperset(sample_id for batch in batches[start : end - 1] for sample_id in batch), delays
    times = Counter(sample_id for batch in batches for sample_id in batch)
    assert sum(times.values()) - len(times) <= 10 * max(map(len, batches)), delays


def test_killed_before_the_first_pack_leaves_a_run_that_goes_on(tmp_path: Path, cli: Bench, whole: Path) -> None:
    plan = write_plan(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        on_pack(patch, raising(KeyboardInterrupt(), [0]))
        assert cli("run", plan).code == 130
    run = only_run(tmp_path / "results")
    assert not (run / "samples.jsonl").exists()
    assert cli("run", plan).code == 0
    assert_same_run(run, whole)


@pytest.mark.parametrize("place", [3, -1])
def test_interrupted_by_hand_and_continued(tmp_path: Path, cli: Bench, whole: Path, num_packs: int, place: int) -> None:
    plan = write_plan(tmp_path)
    pack = place % num_packs
    with pytest.MonkeyPatch.context() as patch:
        on_pack(patch, raising(KeyboardInterrupt(), [pack]))
        stopped = cli("run", plan)
    assert stopped.code == 130
    assert stopped.complaint == "interrupted; what was scored is kept, the same command continues"
    run = only_run(tmp_path / "results")
    info = read_info(run)
    assert (info["status"], "metrics" in info) == ("running", False)
    assert info["timing"]["score_s"] > 0
    num_done = len(read_lines(run))
    assert 0 < num_done < 12
    with pytest.MonkeyPatch.context() as patch:
        packs = on_pack(patch, lambda _number, _pack, logits: logits)
        assert cli("run", plan).code == 0
    assert len(packs) <= num_packs - pack + 2  # the trunks above, and what was left
    assert_same_run(run, whole)
    info = read_info(run)
    assert info["num_sittings"] == 2
    floor = info["floor"]
    assert floor["timed_flops"] >= floor["flops"]
    once = floor["flops"] / floor["timed_flops"]
    assert floor["share"] == pytest.approx(once * floor["timed_floor_s"] / info["timing"]["score_s"], rel=1e-3)
    assert info["tokens"]["forwarded"] < 2 * info["tokens"]["distinct"]


# --- the disk ---


@pytest.mark.parametrize("damage", [lambda line: line[:-9], lambda line: line.replace(b"false", b"true!", 1)])
def test_a_damaged_last_line_is_scored_again(tmp_path: Path, cli: Bench, whole: Path, damage: Any) -> None:
    plan = write_plan(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        on_pack(patch, raising(KeyboardInterrupt(), [4]))
        cli("run", plan)
    journal = only_run(tmp_path / "results") / "samples.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert damage(lines[-1]) != lines[-1]
    journal.write_bytes(b"".join([*lines[:-1], damage(lines[-1])]))
    assert cli("run", plan).code == 0
    assert_same_run(journal.parent, whole)
    assert read_info(journal.parent)["num_damaged_lines"] == 1


@pytest.mark.parametrize("num_bytes", [0, 3000, 6500, 12000])
def test_a_full_disk_is_one_line_and_the_run_goes_on(tmp_path: Path, cli: Bench, whole: Path, num_bytes: int) -> None:
    plan = write_plan(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        left = [num_bytes]
        write = os.write

        def limited(fd: int, data: Any) -> int:
            if len(data) > left[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            left[0] -= len(data)
            return write(fd, data)

        patch.setattr(bench.runs.disk.os, "write", limited)
        found = cli("run", plan)
    assert (found.code, found.out) == (1, "")
    assert "cannot be written: No space left on device (ENOSPC)" in found.complaint
    assert "the same command continues" in found.complaint
    assert cli("run", plan).code == 0
    assert_same_run(only_run(tmp_path / "results"), whole)


def test_a_real_limit_of_the_system_is_one_line_too(tmp_path: Path, cli: Bench, whole: Path, forks: Forks) -> None:
    """The log cannot be written either, and must not add a word to it."""
    plan, output = write_plan(tmp_path), tmp_path / "output"
    run = tmp_path / "results" / whole.name
    run.mkdir(parents=True)
    (run / "run.log").write_text("x" * 4500)
    pid = forks.start("run", plan, output=output, file_limit=4500)
    assert forks.wait(pid) == 1, output.read_text()
    first, second = output.read_text().splitlines()
    assert first == "fake · pocket cloze 0-shot"
    assert second.startswith(f"bench: fake · pocket cloze 0-shot: {run}")
    assert "cannot be written: File too large (EFBIG)" in second
    assert 0 < len(read_lines(run)) < 12
    assert cli("run", plan).code == 0
    assert_same_run(run, whole)


# --- memory ---


def test_memory_may_run_out_in_any_pack(tmp_path: Path, cli: Bench, whole: Path, num_packs: int) -> None:
    expected = loglikelihoods(whole)
    for pack in range(num_packs):
        folder = tmp_path / str(pack)
        folder.mkdir()
        plan = write_plan(folder)
        with pytest.MonkeyPatch.context() as patch:
            on_pack(patch, raising(MemoryError(), [pack]))
            found = cli("run", plan)
        run = only_run(folder / "results")
        assert found.code == 0, pack
        note = "memory ran out with 512 tokens a pack; went on with 256"
        assert found.err.splitlines()[1:] == [f"fake · pocket cloze 0-shot: {note}"]
        info, values = read_info(run), loglikelihoods(run)
        assert (info["engine"]["num_out_of_memory"], info["notes"]) == (1, [note])
        assert list(values) == list(expected)
        for sample_id, own in values.items():
            assert own == pytest.approx(expected[sample_id], abs=1e-3), (pack, sample_id)
        assert info["metrics"] == read_info(whole)["metrics"]


def test_what_fits_nowhere_is_an_error_on_that_sample(tmp_path: Path, cli: Bench, whole: Path) -> None:
    """The longest question never finds memory; the others do, in smaller packs."""
    plan = write_plan(tmp_path)
    samples = prepare_job(load_plan(plan).tasks[0]).samples
    num_tokens = {
        sample.sample.id: max(len(f"{one.prompt.text}{one.continuation}".encode()) - 1 for one in sample.requests)
        for sample in samples
    }
    *_, second_longest, longest = sorted(num_tokens.values())

    def change(_: int, pack: Any, logits: Any) -> Any:
        if second_longest <= int(pack.positions.max()):
            raise MemoryError
        return logits

    with pytest.MonkeyPatch.context() as patch:
        on_pack(patch, change)
        found = cli("run", plan)
    run = only_run(tmp_path / "results")
    failed = {line["id"]: line["error"] for line in read_lines(run) if line["error"]}
    reason = "out of memory even in the smallest pack"
    assert failed == {key: reason for key, num in num_tokens.items() if num == longest}
    assert found.code == 1
    assert f"1 of 12 samples have no score: {reason}" in found.complaint
    info = read_info(run)
    assert info["status"] == "finished"
    assert (info["metrics"]["acc"]["num_failed"], info["metrics"]["acc"]["num_scored"]) == (1, 11)
    expected = loglikelihoods(whole)
    for line in read_lines(run):
        if not line["error"]:
            assert line["loglikelihoods"] == pytest.approx(expected[line["id"]], abs=1e-3)


# --- what is no number ---


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_an_error_on_the_sample_and_never_a_score(
    tmp_path: Path, cli: Bench, whole: Path, value: float
) -> None:
    plan = write_plan(tmp_path)

    def change(number: int, _: Any, logits: Any) -> Any:
        if number == 2:
            logits = logits.clone()
            logits[0] = value
        return logits

    with pytest.MonkeyPatch.context() as patch:
        on_pack(patch, change)
        found = cli("run", plan)
    run = only_run(tmp_path / "results")
    failed = [line for line in read_lines(run) if line["error"]]
    assert len(failed) == 1
    assert failed[0]["error"] == "the model returned nan instead of a loglikelihood"
    assert (failed[0]["prediction"], failed[0]["correct"], failed[0]["loglikelihoods"]) == (None, None, [])
    assert found.code == 1
    assert found.complaint.endswith("1 of 12 samples have no score: the model returned nan instead of a loglikelihood")
    assert "1 sample failed" in found.out
    info = read_info(run)
    acc = info["metrics"]["acc"]
    assert (info["status"], acc["num_scored"], acc["num_failed"]) == ("finished", 11, 1)
    right = [line["correct"] for line in read_lines(run) if not line["error"]]
    assert acc["value"] == pytest.approx(sum(right) / 11)
    # The same command tries what has failed again, and nothing else.
    with pytest.MonkeyPatch.context() as patch:
        packs = on_pack(patch, lambda _number, _pack, logits: logits)
        assert cli("run", plan).code == 0
    assert len(packs) <= 3  # two trunks are above it
    assert_same_run(run, whole)


def test_a_model_without_a_single_number_has_no_metrics(tmp_path: Path, cli: Bench) -> None:
    with pytest.MonkeyPatch.context() as patch:
        on_pack(patch, lambda _number, _pack, logits: logits * float("nan"))
        found = cli("run", write_plan(tmp_path))
    info = read_info(only_run(tmp_path / "results"))
    assert (found.code, found.out) == (1, "")
    assert "no sample has a score, so there is nothing to report: all 12 failed" in found.complaint
    assert (info["status"], "metrics" in info) == ("failed", False)


def test_what_cannot_be_put_to_the_model_is_an_error_on_the_sample(tmp_path: Path, cli: Bench) -> None:
    plan = write_plan(tmp_path, max_length=15)
    found = cli("run", plan)
    run = only_run(tmp_path / "results")
    failed = [line for line in read_lines(run) if line["error"]]
    assert 0 < len(failed) < 12
    assert all(line["error"].endswith("exceeds max_length 15") for line in failed)
    assert f"{len(failed)} of 12 samples have no score" in found.complaint
    before = (run / "samples.jsonl").read_bytes()
    again = cli("run", plan)
    assert (again.code, again.complaint) == (found.code, found.complaint)
    assert (run / "samples.jsonl").read_bytes() == before

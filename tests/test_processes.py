"""Several processes on one run: the bits of a single one, and what happens when one of them is lost."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import PATIENCE_S, Bench, Forks, assert_same_run, only_run, read_info, run_folders, write_plan
from tiny_kinds import bert_tokenizer, t5_tokenizer, tiny, write_folder

from bench.runs.reading import read_run

TASKS = [{"task": "pocket", "num_fewshot": 0, "limit": 200}]
TWO = "--set=engine.num_processes=2"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Path:
    """The run of a single process."""
    folder = tmp_path_factory.mktemp("whole")
    plan = write_plan(folder, tasks=TASKS, max_batch_tokens=256)
    assert forks.wait(forks.start("run", plan, output=folder / "output")) == 0, (folder / "output").read_text()
    return only_run(folder / "results")


class Command:
    """`bench run` of the same plan with two processes, its output, and what it has scored so far."""

    def __init__(self, forks: Forks, folder: Path) -> None:
        self.forks = forks
        self.plan = write_plan(folder, tasks=TASKS, max_batch_tokens=256)
        self.results, self.output, self.scored = folder / "results", folder / "output", folder / "scored"

    def start(self, *options: str, **more: Any) -> int:
        return self.forks.start("run", self.plan, *options, output=self.output, scored=str(self.scored), **more)

    def run(self, *options: str, **more: Any) -> int:
        return self.forks.wait(self.start(*options, **more))

    @property
    def num_scored(self) -> int:
        return self.scored.read_bytes().count(b"\n") if self.scored.exists() else 0

    def wait_for(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not is_so():
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.003)

    @property
    def complaints(self) -> list[str]:
        assert "Traceback" not in self.output.read_text()
        lines = self.output.read_text().splitlines()
        return [line.removeprefix("bench: ") for line in lines if line.startswith("bench: ")]


@pytest.fixture
def command(forks: Forks, tmp_path: Path) -> Command:
    return Command(forks, tmp_path)


def children(pid: int) -> list[int]:
    """The processes that a process has started, the first first."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if fields[1] == str(pid) and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return sorted(found)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# --- the same numbers ---


def test_two_processes_end_with_the_bits_of_one(command: Command, whole: Path) -> None:
    assert command.run(TWO) == 0, command.output.read_text()
    run = only_run(command.results)
    assert_same_run(run, whole)
    info, alone = read_info(run), read_info(whole)
    assert (info["engine"].pop("num_processes"), alone["engine"].pop("num_processes")) == (2, 1)
    for key in ("packs", "requests", "engine", "notes", "num_sittings", "model", "task"):
        assert info[key] == alone[key], key
    for key in ("flops", "attention_flops", "head_flops"):
        assert info["floor"][key] == alone["floor"][key]
    assert alone["tokens"]["forwarded"] == info["tokens"]["distinct"]
    assert info["tokens"]["distinct"] < info["tokens"]["forwarded"] < 1.1 * info["tokens"]["distinct"]
    assert info["floor"]["timed_flops"] > alone["floor"]["timed_flops"] == info["floor"]["flops"]
    assert 0 < info["floor"]["share"] < 1
    assert {path.name for path in run.iterdir()} == {"run.json", "samples.jsonl", "run.log", ".lock"}
    assert "fake" in command.output.read_text()
    # Both did their part, and a finished run is finished for two processes as for one.
    sizes = [len(json.loads(line)) for line in command.scored.read_text().splitlines()]
    assert sum(sizes) == 200
    command.output.unlink()
    assert command.run(TWO) == 0
    assert command.output.read_text().startswith("fake · pocket letter 0-shot: finished before, nothing to score\n")


@pytest.mark.parametrize("kind", ["seq2seq", "masked"])
def test_other_kinds_of_models_are_shared_as_well(tmp_path: Path, forks: Forks, kind: str) -> None:
    tokenizer = t5_tokenizer() if kind == "seq2seq" else bert_tokenizer()
    more = {"max_position_embeddings": 400} if kind == "masked" else {}
    model = tiny(kind, "t5" if kind == "seq2seq" else "bert", vocab_size=len(tokenizer), **more)
    folder = write_folder(tmp_path / "model", model, tokenizer)
    tasks = [{"task": "pocket", "scoring": "cloze", "num_fewshot": 0, "limit": 24}]
    runs = []
    for num in (1, 2):
        (tmp_path / str(num)).mkdir()
        plan = write_plan(
            tmp_path / str(num), models=[{"source": str(folder)}], tasks=tasks, num_processes=num, max_batch_tokens=256
        )
        output, scored = tmp_path / str(num) / "output", tmp_path / str(num) / "scored"
        assert forks.wait(forks.start("run", plan, output=output, scored=str(scored))) == 0, output.read_text()
        runs.append(only_run(tmp_path / str(num) / "results"))
    assert_same_run(runs[1], runs[0])
    assert read_info(runs[1])["engine"]["num_processes"] == 2


def test_processes_are_started_for_real(tmp_path: Path, cli: Bench) -> None:
    """Not as forks of a process that has everything, but as the command line does."""
    tasks = [{"task": "pocket", "scoring": form, "num_fewshot": 0, "limit": 20} for form in ("cloze", "letter")]
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for name, options in (("one", []), ("two", [TWO])):
        (tmp_path / name).mkdir()
        found = cli("run", write_plan(tmp_path / name, tasks=tasks), *options)
        assert found.code == 0, found.err
        assert "Run folders" in found.out
    one, two = run_folders(tmp_path / "one/results"), run_folders(tmp_path / "two/results")
    assert len(one) == 2
    for run, alone in zip(two, one, strict=True):
        assert_same_run(run, alone)
        assert (run / "run.log").read_text().count("rank 1 INFO bench.session: loaded fake") <= 1
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert [read_info(run)["engine"]["num_processes"] for run in two] == [2, 2]


# --- a rank is lost ---


@pytest.mark.parametrize(("rank", "then"), [(0, "--set=engine.num_processes=3"), (1, "--set=engine.num_processes=1")])
def test_a_killed_rank_is_told_and_nothing_is_lost(command: Command, whole: Path, rank: int, then: str) -> None:
    pid = command.start(TWO)
    command.wait_for(lambda: command.num_scored > 6)
    killed = children(pid)[rank]
    os.kill(killed, signal.SIGKILL)
    assert command.forks.wait(pid) == 1
    assert command.complaints == [
        f"rank {rank} of 2 (pid {killed}) was killed (SIGKILL), by hand or by a system short of memory; "
        "what was scored is kept, the same command continues"
    ]
    run = only_run(command.results)
    assert read_info(run)["status"] == "running"
    batches = [json.loads(line) for line in command.scored.read_text().splitlines()]
    noted = {sample_id for batch in batches for sample_id in batch}
    kept = {score.id for score in read_run(run).scores}
    assert kept <= noted
    assert len(noted - kept) <= 2 * max(map(len, batches))  # the pack under way in each process
    assert 0 < len(kept) < 200
    assert read_run(run).problems == ()
    command.scored.unlink()
    assert command.run(then) == 0, command.output.read_text()
    assert_same_run(run, whole)
    again = [sample_id for line in command.scored.read_text().splitlines() for sample_id in json.loads(line)]
    assert kept.isdisjoint(again)
    assert read_info(run)["num_sittings"] == 2


def test_a_rank_that_fails_is_told_and_the_other_ends_its_share(command: Command, whole: Path) -> None:
    assert command.run(TWO, broken_rank=1) == 1
    run = only_run(command.results)
    reason = "rank 1 of 2: RuntimeError: the device is lost"
    assert command.complaints == [f"fake · pocket letter 0-shot: {reason}"]
    info = read_info(run)
    assert (info["status"], info["reason"]) == ("failed", reason)
    assert "RuntimeError: the device is lost" in (run / "run.log").read_text()
    num_kept = [len((run / name).read_bytes().splitlines()) for name in ("samples.jsonl", "samples.rank1.jsonl")]
    assert num_kept[0] > 60 > num_kept[1] > 0
    assert command.run(TWO) == 0
    assert_same_run(run, whole)


@pytest.mark.parametrize("who", ["command", "all"])
def test_interrupted_by_hand_all_stop_and_the_run_goes_on(command: Command, whole: Path, who: str) -> None:
    pid = command.start(TWO)
    command.wait_for(lambda: command.num_scored > 6)
    ranks = children(pid)
    assert len(ranks) >= 2
    for one in [pid] if who == "command" else [pid, *ranks]:
        os.kill(one, signal.SIGINT)
    assert command.forks.wait(pid) == 130
    assert command.complaints == ["interrupted; what was scored is kept, the same command continues"]
    assert not any(map(is_running, ranks))
    info = read_info(only_run(command.results))
    assert (info["status"], "metrics" in info) == ("running", False)
    assert info["timing"]["score_s"] > 0
    assert command.run(TWO) == 0, command.output.read_text()
    assert_same_run(only_run(command.results), whole)


def test_ranks_do_not_outlive_a_killed_command(command: Command, whole: Path) -> None:
    pid = command.start(TWO)
    command.wait_for(lambda: command.num_scored > 6)
    ranks = children(pid)
    os.kill(pid, signal.SIGKILL)
    command.forks.wait(pid)
    command.wait_for(lambda: not any(map(is_running, ranks)))
    assert command.run(TWO) == 0, command.output.read_text()
    assert_same_run(only_run(command.results), whole)


def test_a_second_command_on_the_folder_is_refused(command: Command, whole: Path) -> None:
    pid = command.start(TWO)
    command.wait_for(lambda: command.num_scored > 2)
    output = command.output.with_name("second")
    os.kill(children(pid)[0], signal.SIGSTOP)  # or it might be done before the second one looks
    for options in ((), (TWO,)):
        second = command.forks.start("run", command.plan, *options, output=output)
        assert command.forks.wait(second) == 2, output.read_text()
        assert "is in use by another process" in output.read_text().splitlines()[-1]
        output.unlink()
    os.kill(children(pid)[0], signal.SIGCONT)
    assert command.forks.wait(pid) == 0, command.output.read_text()
    assert_same_run(only_run(command.results), whole)


# --- what cannot be ---


@pytest.mark.parametrize(
    ("num_gpus", "device", "wanted", "expected"),
    [
        (0, "auto", "auto", 1),
        (0, "auto", 3, 3),
        (0, "cpu", 2, 2),
        (4, "auto", "auto", 4),
        (4, "auto", 2, 2),
        (4, "cuda:1", "auto", 1),
        (4, "cpu", "auto", 1),
        (1, "auto", "auto", 1),
        (4, "auto", 5, "model m: engine.num_processes 5: 4 GPUs are visible"),
        (4, "cuda:1", 2, "model m: engine.num_processes 2: device cuda:1 is one GPU; use auto"),
    ],
)
def test_how_many_processes(
    monkeypatch: pytest.MonkeyPatch, num_gpus: int, device: str, wanted: Any, expected: Any
) -> None:
    import torch

    from bench.config import EngineSpec, ModelSpec
    from bench.errors import ModelInputError
    from bench.session import num_processes

    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    spec, engine = ModelSpec(source="fake", name="m", device=device), EngineSpec(num_processes=wanted)
    if isinstance(expected, int):
        assert num_processes(spec, engine) == expected
        return
    with pytest.raises(ModelInputError) as caught:
        num_processes(spec, engine)
    assert str(caught.value) == expected


def test_wrong_input_is_one_line_with_several_processes_too(command: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    plan = write_plan(tmp_path, models=[{"source": str(tmp_path / "empty")}], tasks=TASKS, name="bad.yaml")
    pid = command.forks.start("run", plan, TWO, output=command.output)
    assert command.forks.wait(pid) == 2
    assert command.complaints == [f"model empty: {tmp_path / 'empty'} has no config.json"]
    assert not command.results.exists()

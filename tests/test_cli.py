"""The command line: what it prints, where, and what it answers."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from runs import SMALL, Bench, Forks, only_run, read_info, read_lines, run_folders, write_plan

from bench.tasks.task import TASKS_DIR
from bench.telemetry.matmul import MatmulProbe

ANSI = "\x1b"


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, loading a model's weights fails the test."""

    def load(*_: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("bench.session.load_model", load)


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    """A task of three questions, in a folder of its own."""
    (tmp_path / "own.csv").write_text("q,a,b,gold\nTwo and two?,four,five,A\nA cat?,no,yes,B\nIce?,cold,hot,A\n")
    path = tmp_path / "own.yaml"
    path.write_text(
        "version: 1\ntitle: Own\nsources:\n  - folder: .\n    test: own.csv\n"
        "    columns: {question: q, choices: [a, b], gold: {column: gold, as: letter}}\n"
        'scoring: cloze\nforms:\n  cloze: {question: "{{ question }}\\n", continuations: choices, metric: acc_norm}\n'
    )
    return path


# --- what is refused ---


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("{plan}", "--set", "engin.bos=never"), "--set engin.bos=never: engin: unknown key; did you mean 'engine'?"),
        (("{plan}", "--set", "engine.bos=seldom"), "engine.bos: 'seldom' is not one of the allowed values"),
        (("{plan}", "--set", "tasks.0.task=pockt"), "unknown task 'pockt'; did you mean 'pocket'?"),
        (("{plan}", "--set", "tasks.0.subjects=[astronmy]"), "unknown subject 'astronmy'; did you mean 'astronomy'?"),
        (("{plan}", "--set", "tasks.0.task=mmlu", "--set", "tasks.0.data_dir=/no/such"), "task mmlu: rows not at hand"),
        (("{plan}", "--set", "models.0.device=cuda:7"), "device 'cuda:7' is not on this machine (here: cpu"),
        (("{plan}", "--set", "engine.attention=varlen"), "engine.attention varlen needs CUDA and bfloat16 or float16"),
        (("{plan}", "--set", "models.0.source=./no/such"), "source './no/such' is neither a folder nor a hub id"),
        (("{plan}", "--limit", "-3"), "argument --limit: '-3' is not a whole number of at least 1"),
        (("{plan}", "--limit", "0"), "argument --limit: '0' is not a whole number of at least 1"),
        (("{plan}", "--limt", "3"), "unrecognized arguments: --limt 3"),
        (("{folder}/plann.yaml",), "plann.yaml: no such file; did you mean 'plan.yaml'?"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(
    tmp_path: Path, cli: Bench, arguments: tuple[str, ...], complaint: str
) -> None:
    plan = write_plan(tmp_path)
    found = cli("run", *(argument.format(plan=plan, folder=tmp_path) for argument in arguments))
    assert (found.code, found.out) == (2, "")
    assert found.err.count("\n") == 1
    assert complaint in found.complaint
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("text", "other", "complaint"),
    [
        ("version: 1", "version: one", "own.yaml:1: version: should be a valid integer, not 'one'"),
        ("scoring: cloze", "scoring: clos", "'clos' is not one of the forms; did you mean 'cloze'?"),
        ("own.csv", "owne.csv", "no files owne.csv"),
        ("question: q", "question: qq", "own.csv: row 1: no column 'qq'; did you mean 'q'?"),
        (
            "{{ question }}",
            "{{ questin }}",
            "forms.cloze.question: unknown variable 'questin'; did you mean 'question'?",
        ),
        ("as: letter", "as: index", "own.csv: row 1: column 'gold': 'A' is not one index out of 0, 1"),
        ("title: Own", "titel: Own", "own.yaml:2: titel: unknown key; did you mean 'title'?"),
    ],
)
def test_mistakes_in_a_task_file_reach_the_user(
    tmp_path: Path, cli: Bench, task_file: Path, text: str, other: str, complaint: str
) -> None:
    assert text in task_file.read_text()
    task_file.write_text(task_file.read_text().replace(text, other))
    for arguments in (["run", write_plan(tmp_path, tasks=[{"task": str(task_file)}])], ["tasks", "--check", task_file]):
        found = cli(*arguments)
        assert (found.code, found.out) == (2, "")
        assert complaint in found.complaint
    assert not (tmp_path / "results").exists()


def test_a_model_folder_without_tokenizer_is_told_before_anything_runs(tmp_path: Path, cli: Bench) -> None:
    from bench.models.fake import fake_config, fake_model

    folder = tmp_path / "bare"
    fake_model(fake_config()).save_pretrained(folder)
    found = cli("run", write_plan(tmp_path, models=[{"source": "fake"}, {"source": str(folder)}]))
    assert found.code == 2
    assert found.complaint == f"model bare: {folder} has no tokenizer (tokenizer.json, tokenizer.model or vocab file)"
    assert not (tmp_path / "results").exists()


def test_a_command_is_wanted(cli: Bench) -> None:
    for arguments in ([], ["runn"]):
        found = cli(*arguments)
        assert (found.code, found.out) == (2, "")
        assert "--help" in found.complaint


def test_a_defect_is_one_line_too(cli: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("bench.doctor.examine", broken)
    assert cli("doctor").complaint == "defect: ZeroDivisionError: division by zero (-v shows the traceback)"
    with pytest.raises(ZeroDivisionError):
        cli("doctor", "-v")


# --- run ---


def test_results_go_to_stdout_and_what_happens_to_stderr(tmp_path: Path, cli: Bench) -> None:
    found = cli(
        "run", write_plan(tmp_path), "--limit", 3, "--set", "tasks.0.scoring=letter", "--out", tmp_path / "other"
    )
    assert found.code == 0
    assert found.err == "fake · pocket letter 0-shot\n"
    run = only_run(tmp_path / "other")
    assert "pocket · letter · 0-shot · 3 of 336 samples" in found.out
    assert str(run) in found.out
    assert ANSI not in found.out + found.err
    assert len(read_lines(run)) == 3
    assert read_info(run)["config"]["tasks"][0]["limit"] == 3


def test_without_a_plan_the_one_for_this_machine_is_taken(
    tmp_path: Path, cli: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bench.telemetry.machine.describe_gpus", lambda: {"gpu": "H200"})
    assert "configs/gpu.yaml is not below" in cli("run").complaint
    monkeypatch.setattr("bench.telemetry.machine.describe_gpus", lambda: {"gpu": None})
    (tmp_path / "configs").mkdir()
    write_plan(tmp_path / "configs", name="cpu.yaml")
    assert "12 samples, 48 requests" in cli("run", "--dry-run").out


def test_rows_that_are_not_at_hand_are_skipped_in_one_line(
    tmp_path: Path, cli: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMLU_DIR", str(tmp_path))
    plan = write_plan(tmp_path, tasks=[{"task": "mmlu", "skip_if_missing": True}, {**SMALL, "limit": 1}])
    found = cli("run", plan)
    assert found.code == 0
    assert found.err.splitlines() == [
        "skipped mmlu, whose rows are not at hand: set MMLU_DIR or STEELYARD_DATA (the folder above mmlu) "
        "or set data_dir for this task in the plan or go online",
        "fake · pocket cloze 0-shot",
    ]


def test_the_log_is_printed_when_asked_for(tmp_path: Path, cli: Bench) -> None:
    found = cli("run", write_plan(tmp_path), "--limit", 1, "-v")
    log = (only_run(tmp_path / "results") / "run.log").read_text()
    for line in ("loaded fake (float32 on cpu)", "finished: {'acc': "):
        assert line in log
        assert line in found.err
    assert "loaded" not in cli("run", write_plan(tmp_path), "--limit", 2).err


def test_a_dry_run_counts_and_loads_nothing(tmp_path: Path, cli: Bench, no_weights: None) -> None:
    found = cli("run", write_plan(tmp_path), "--dry-run", "--limit", 5)
    assert (found.code, found.err) == (0, "")
    for pattern in (
        r"fake · pocket cloze 0-shot",
        r"requests +5 samples, 20 requests",
        r"tokens +[\d,]+ logical, [\d,]+ distinct \(\d\.\d times fewer\)",
        r"packs +3 of at most 512 tokens",
        r"work +[\d.]+ [MG]FLOP, \d+ % of it attention",
        r"machine +.* in float32 matrix products, measured now",
        r"predicted +.* of scoring",
    ):
        assert re.search(pattern, found.out), pattern
    assert not (tmp_path / "results").exists()


def test_a_dry_run_goes_by_a_rate_that_one_held_up_measurement_does_not_change(
    tmp_path: Path, cli: Bench, no_weights: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = iter([7e9, 1e3, 8e9])
    monkeypatch.setattr(MatmulProbe, "measure", lambda self: self.rates.append(next(rates)))
    assert re.search(r"machine +7 GFLOP/s in", cli("run", write_plan(tmp_path), "--dry-run", "--limit", 5).out)


def test_a_dry_run_of_what_cannot_run_fails_as_the_run_would(tmp_path: Path, cli: Bench) -> None:
    models = [{"source": "fake"}, {"source": "fake", "name": "other"}]
    found = cli("run", write_plan(tmp_path, models=models, max_length=9999), "--dry-run")
    assert (found.code, found.out) == (2, "")
    assert found.err.count("bench: engine.max_length 9999 exceeds the 4096 of model") == 2


def test_counts_of_a_dry_run_are_those_of_the_run(tmp_path: Path, cli: Bench) -> None:
    plan = write_plan(tmp_path)
    forecast = cli("run", plan, "--dry-run").out
    cli("run", plan)
    info = read_info(only_run(tmp_path / "results"))
    assert f"{info['tokens']['logical']:,} logical, {info['tokens']['distinct']:,} distinct" in forecast
    assert f"{info['packs']['num']} of at most {info['packs']['max_batch_tokens']} tokens" in forecast


# --- looking at runs ---


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one finished run."""
    from bench.cli import main

    folder = tmp_path_factory.mktemp("cli")
    assert main(["run", str(write_plan(folder))]) == 0
    return folder / "results"


def test_a_run_is_shown_in_full(results: Path, cli: Bench) -> None:
    run = only_run(results)
    found = cli("show", run)
    assert (found.code, found.err) == (0, "")
    info = read_info(run)
    for text in (
        f"{100 * info['metrics']['acc']['value']:.2f}",
        f"{info['tokens']['distinct']:,} distinct",
        info["identity"],
        "astronomy",
        "attention sdpa",
    ):
        assert text in found.out


def test_a_sample_is_shown_with_its_prompt_and_choices(results: Path, cli: Bench) -> None:
    run = only_run(results)
    line = read_lines(run)[4]
    found = cli("show", run, "--sample", line["id"])
    assert (found.code, found.err) == (0, "")
    with (TASKS_DIR / "pocket.csv").open() as file:
        row = next(row for row in csv.DictReader(file) if row["id"] == line["id"])
    for text in (row["question"].split("?")[0][:60], row["A"], row["D"], f"{line['loglikelihoods'][0]:.4f}"):
        assert text in found.out


def test_the_nearest_sample_is_named(results: Path, cli: Bench) -> None:
    run = only_run(results)
    line = read_lines(run)[0]
    found = cli("show", run, "--sample", line["id"] + "0")
    assert (found.code, found.out) == (2, "")
    assert found.complaint.endswith(f"has no sample '{line['id']}0' among 12; did you mean '{line['id']}'?")


def test_what_is_no_run_is_refused(tmp_path: Path, cli: Bench) -> None:
    for command in ("show", "table", "verify"):
        found = cli(command, tmp_path)
        assert (found.code, found.out) == (2, "")
        assert str(tmp_path) in found.complaint
        assert list(tmp_path.iterdir()) == []


def test_a_table_is_made_of_folders_of_runs(results: Path, cli: Bench) -> None:
    found = cli("table", results)
    assert found.code == 0
    assert found.out == cli("table", only_run(results)).out
    assert "pocket · cloze · 0-shot" in found.out


# --- tasks and machine ---


def test_tasks_are_listed(cli: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMLU_DIR", raising=False)
    found = cli("tasks")
    assert (found.code, found.err) == (0, "")
    assert re.search(r"^mmlu +not here +5, 5, 0, 0 +letter", found.out, re.MULTILINE)
    assert re.search(r"^pocket +336 +5, 5, 5, 0 +letter, cloze", found.out, re.MULTILINE)


def test_a_task_is_checked_by_name_or_path(cli: Bench, task_file: Path) -> None:
    assert cli("tasks", "--check", "pocket").out == "pocket: 336 samples in 14 subjects, nothing found\n"
    assert cli("tasks", "--check", "pocket").code == 0
    file = task_file.parent / "own.csv"
    file.write_text(file.read_text() + "Two and two?,four,five,A\n")
    found = cli("tasks", "--check", task_file)
    assert found.code == 1
    assert found.out.startswith("own: 4 samples in 1 subject, 1 finding\n")


def test_all_tasks_are_checked_at_once(cli: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from original_rows import write_originals

    write_originals(tmp_path)
    row = {"premise": "p.", "choice1": "a", "choice2": "b", "question": "cause", "label": 2}
    (tmp_path / "superglue/COPA/val.jsonl").write_text(json.dumps(row))
    (tmp_path / "mmlu_pro/validation.jsonl").unlink()
    for name in ("MMLU_DIR", "TEXT_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("STEELYARD_DATA", str(tmp_path))
    found = cli("tasks", "--check")
    assert found.code == 2
    assert re.search(r"^bbh +10 +8 +4 +12\b", found.out, re.MULTILINE)
    assert re.search(r"^belebele +4 +4 +2 +0\b", found.out, re.MULTILINE)
    told = "".join(found.out.split())  # long lines are broken, wherever they have to be
    for part in (
        "copa: ",
        "val.jsonl: row 1: column 'label': 2 is not one index out of 0, 1",
        "mmlu_pro: checked without shots: ",
        "text: not here; set TEXT_DIR or STEELYARD_DATA (the folder above text)",
    ):
        assert part.replace(" ", "") in told


def test_the_doctor_names_what_is_here(cli: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MMLU_DIR", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = cli("doctor")
    assert (found.code, found.err) == (0, "")
    for label in ("steelyard", "python", "packages", "processor", "memory", "GPU", "embedded", "MMLU", "hub token"):
        assert re.search(f"^{label} ", found.out, re.MULTILINE), label
    assert f"{tmp_path} lacks dev and test/" in found.out
    assert "hf_secret" not in found.out


# --- on a terminal ---


def test_on_a_terminal_a_bar_shows_tokens_and_the_time_left(tmp_path: Path, forks: Forks) -> None:
    plan = write_plan(tmp_path, tasks=[{**SMALL, "limit": 80}], max_batch_tokens=256)
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 110, 0, 0))
    pid = forks.start("run", plan, output=Path(os.ttyname(slave)))
    written = b""
    while b"Run folders" not in written:
        written += os.read(master, 1 << 16)
    assert forks.wait(pid) == 0
    os.close(slave)
    os.close(master)
    shown = written.decode()
    distinct = read_info(run_folders(tmp_path / "results")[0])["tokens"]["distinct"]
    assert ANSI in shown
    assert re.search(rf"fake · pocket cloze 0-shot.*[\d,]+ of {distinct:,} tokens · [\d,]+/s · [\d.]+ s left", shown)


def test_a_reader_that_has_left_is_no_error(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(TASKS_DIR.parent)}
    command = [sys.executable, "-m", "bench", "tasks"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1

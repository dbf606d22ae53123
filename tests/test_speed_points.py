"""Speed runs in a report: every point with its figures, in every format, and beside the scores of the same model."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from report_runs import EVIL, cell, decode_point, make_run, make_served_run, make_speed_run, served_point

from bench.report.beside import speed_beside
from bench.report.data import render_csv, render_json
from bench.report.markdown import render_markdown
from bench.report.publish import FORMATS, render_report
from bench.report.results import build_report
from bench.report.tables import render_runs
from bench.report.text import Screen

POINTS = (decode_point(1, 0.01), decode_point(4, 0.0125))


def test_a_row_holds_what_the_point_holds() -> None:
    costs = {"costs": {"machine_usd_per_hour": 3.6}}
    (section,) = build_report([], speeds=[make_speed_run("lab/m", *POINTS, config=costs)]).speed
    found = {column.key: cell(section.results, column.key, 1).text for column in section.results.columns}
    assert {key: text for key, text in found.items() if text != "–"} == {
        "model": "m",
        "weights": "fp32",
        "phase": "decode",
        "setting": "4 × 512 cached",
        "batch_size": "4",
        "length": "512",
        "tokens_per_s": "320",
        "spread": "2.0",
        "tpot_p50_s": "12.5",
        "tpot_p99_s": "12.5",
        "share": "60",
        "mfu": "25",
        "mbu": "60",
        "cost_usd_per_million_tokens": "3.12",  # 3,125 s at 3.60 an hour
        "peak_memory_bytes": "16.0 GiB",
    }
    shown = [column.key for column in section.results.for_readers().columns]
    assert "ttft_p50_s" not in shown  # nothing stands there
    assert "batch_size" not in shown  # `setting` says it


def test_points_of_a_server_stand_in_a_table_of_their_own_with_the_figures_they_have() -> None:
    points = (served_point(8), served_point(2, is_rate=True))
    report = build_report([], speeds=[make_speed_run("lab/m", *POINTS), make_served_run("vllm:m", *points)])
    assert [section.results.title for section in report.speed] == ["Speed · reading and writing", "Speed · served"]
    table = report.speed[1].results
    expected = {
        "setting": "concurrency 8",
        "concurrency": "8",
        "requests_per_s": "8",
        "goodput_per_s": "8",
        "tokens_per_s": "320",
        "ttft_p50_s": "220",
        "tpot_p50_s": "20",
    }
    assert {key: cell(table, key).text for key in expected} == expected
    assert [cell(table, key, 1).text for key in ("setting", "tokens_per_s")] == ["2 requests/s", "80"]
    assert cell(table, "share").value is None
    assert any("goodput's objective: TTFT 0.5 s" in note for note in report.footnotes)
    assert any("vLLM at http://x" in note for note in report.footnotes)


def test_what_a_point_says_it_could_not_measure_is_told() -> None:
    point = {**served_point(1), "tpot_s": None, "not_measured": {"tpot_s": "one piece only"}}
    (section,) = build_report([], speeds=[make_served_run("m", point)]).speed
    assert cell(section.results, "tpot_p50_s").value is None
    assert "one piece only" in str(cell(section.results, "tpot_p50_s").reason)


def test_a_phase_that_is_not_known_shows_the_figures_it_shares() -> None:
    point = {"key": "later 1", "phase": "later", "tokens_per_s": 5.0}
    known = {"is_tight": True, "share": 0.1, "matmul_flops_per_s": None, "memory_bytes_per_s": None}
    energy = {"energy": {"total_j": 1.0, "per_token_j": None}}
    (section,) = build_report([], speeds=[make_speed_run("m", {**known, **energy, **point})]).speed
    assert section.results.title == "Speed · later"
    assert [cell(section.results, key).text for key in ("setting", "tokens_per_s", "mfu")] == ["later 1", "5", "–"]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_shows_speed_with_runs_and_alone(name: str) -> None:
    speeds = [make_speed_run(EVIL, *POINTS), make_served_run(EVIL, served_point(3))]
    for runs in ([], [make_run(EVIL)]):
        text = render_report(build_report(runs, speeds=speeds), name)
        assert "concurrency 3" in text
        assert "320" in text
        assert "<script>alert" not in text.replace("\\<", "") or name in ("csv", "json")


def test_csv_stays_one_table_and_json_tells_what_is_missing() -> None:
    report = build_report([make_run("a")], speeds=[make_speed_run("b", *POINTS)])
    rows = list(csv.DictReader(io.StringIO(render_csv(report))))
    runs, points = ([row for row in rows if row["kind"] == kind] for kind in ("run", "speed"))
    assert (runs[0]["score"], runs[0]["tokens_per_s"]) == ("0.75", "")
    assert [(row["score"], float(row["tokens_per_s"]), row["batch_size"]) for row in points] == [
        ("", 100.0, "1"),
        ("", 320.0, "4"),
    ]
    assert all(None not in row and None not in row.values() for row in rows)  # as many fields as headings
    (speed,) = json.loads(render_json(report))["speed"]
    assert speed["points"][0]["run"] == "b.speed"
    assert speed["points"][0]["missing"]["energy_j_per_token"] == "energy: not measured, no counter"
    assert "tokens_per_s" not in next(csv.reader(io.StringIO(render_csv(build_report([make_run("a")])))))


def test_speed_stands_beside_the_score_of_the_same_model_only() -> None:
    speeds = [make_speed_run("a", *POINTS), make_speed_run("other", decode_point(64, 0.001))]
    report = build_report([make_run("a"), make_run("b", 10)], speeds=speeds)
    table = report.sections[0].results
    assert [c.text for c in table.cells("decode_tokens_per_s")] == ["320", "–"]
    assert [c.text for c in table.cells("tpot_s")] == ["12.5", "–"]
    assert any(note == "speed: decode at 4 × 512 cached (a.speed, on a GPU)" for note in report.footnotes)
    assert any("equal in source, revision, files" in text for text in report.remarks)
    assert "decode tokens/s" not in render_markdown(build_report([make_run("a")]))


@pytest.mark.parametrize(
    "change",
    [
        {"source": "b"},
        {"revision": "v2"},
        {"fingerprint": "ffff"},
        {"dtype": "bfloat16"},
        {"quantization": "bnb-4bit"},
        {"gguf": "Q4_1"},
        {"adapter": {"source": "l", "revision": None}},
    ],
)
def test_another_model_is_not_taken_for_it(change: dict[str, Any]) -> None:
    run, speed = make_run("a"), make_speed_run("a", *POINTS)
    assert speed_beside(run, [speed]) is not None
    speed.info["model"] |= change
    assert speed_beside(run, [speed]) is None
    run.info["model"] |= change
    assert speed_beside(run, [speed]) is not None


@pytest.mark.parametrize("width", [80, 160])
def test_a_screen_shows_speed_beside_scores(width: int) -> None:
    text = render_runs([make_run("a"), make_run("b")], Screen(width), [make_speed_run("a", *POINTS)])
    assert max(map(len, text.splitlines())) <= width
    assert "speed: decode at 4 × 512 cached" in " ".join(text.split())
    if width == 160:
        assert "decode/s" in text
        row = next(line for line in text.splitlines() if line.startswith("  a ¹"))
        assert row.split()[-2:] == ["320", "12.5"]
    assert "decode/s" not in render_runs([make_run("a")], Screen(160))


def test_what_a_server_writes_stands_beside_the_scores_of_what_it_serves() -> None:
    run = make_run("vllm:m", lane="generate")
    run.info["model"] = {"name": "vllm:m", "source": "vllm:m", "kind": "api"}
    speed = make_served_run("vllm:m", served_point(2), served_point(8))
    found = speed_beside(run, [speed])
    assert found is not None
    assert found.prefill is None
    assert found.note == "speed: served at concurrency 8 (vllm:m.speed, on vLLM at http://x)"

"""What stands in a report: each number, what must be known of it, and what is never put side by side."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
from report_runs import cell, make_run

from bench.report.data import render_csv, render_json
from bench.report.markdown import render_markdown
from bench.report.publish import FORMATS, render_report
from bench.report.results import Choice, build_report


def test_a_row_holds_what_the_run_holds() -> None:
    run = make_run("EleutherAI/gpt-j-6b", config={"costs": {"machine_usd_per_hour": 3.6, "energy_usd_per_kwh": 0.5}})
    run.info["energy"] = {"total_j": 72_000.0, "scope": "gpu"}
    run.info.update(tokens={"logical": 16_000}, requests={"num": 160})
    table = build_report([run]).sections[0].results
    found = {column.key: cell(table, column.key).text for column in table.columns}
    assert found == {
        "model": "gpt-j-6b",
        "score": "75.00",
        "ci95": "59.8 – 85.8",  # statsmodels.stats.proportion.proportion_confint(30, 40, method="wilson")
        "num_scored": "40",
        "lane": "likelihood",
        "num_fewshot": "5",
        "weights": "fp32",
        "questions_per_s": "2",
        "peak_memory_bytes": "1.0 GiB",
        "energy_wh_per_1000": "500",  # 72 kJ are 20 Wh, for 40 questions
        "cost_usd_per_1000": "0.75",  # 20 s at 3.60 an hour are 0.02 and 20 Wh are 0.01, for 40 questions
        "cost_usd_per_million_tokens": "7.5",  # of a question's four requests of 100 tokens each, one is counted
        "openness": "MOT 3 of 17",
        "licence": "Apache-2.0",
    }


def test_unlike_settings_stand_in_tables_of_their_own_and_published_scores_say_what_differs() -> None:
    runs = [make_run("fake"), make_run("gpt-4o", lane="generate"), make_run("gpt-j-6b", task="hellaswag")]
    report = build_report(runs)
    assert [len(section.results.rows) for section in report.sections] == [1, 1, 1]
    published = report.sections[0].published
    assert published is not None
    rows = dict(zip((c.text for c in published.cells("source")), published.rows, strict=True))
    (gpt4,) = (row for source, row in rows.items() if source.startswith("GPT-4 Tech") for row in [row])
    assert "lane not stated" in gpt4[5].text
    assert all(row[5].text for row in published.rows)  # none is passed off as like ours
    own = build_report(runs, Choice(published="own"))
    assert [section.published is None for section in own.sections] == [True, False, False]
    assert build_report(runs, Choice(published="none")).sections[1].published is None
    text = render_markdown(report)
    assert "names a winner" in text
    assert re.search(r"\| Bard .*no public baseline", text)


def test_what_is_published_of_a_task_stands_once_beside_most_samples() -> None:
    part = {"name": "mmlu", "scoring": "letter", "num_fewshot": 5, "headline": "acc", "subjects": ["virology"]}
    runs = [make_run("part", of=20, right=9), make_run("whole", of=40), make_run("other", task="pocket")]
    runs[0].info["task"] = {**part, "num_samples": 20}
    report = build_report(runs)
    beside = {section.runs[0]: section.published is not None for section in report.sections}
    assert beside == {"part": False, "whole": True, "other": False}
    points = {section.runs[0]: any(one.is_published for one in section.points) for section in report.sections}
    assert points == beside


def test_what_is_published_can_be_shown_without_a_run() -> None:
    report = build_report([make_run("fake", task="pocket")], Choice(also=("mmlu", "pocket")))
    (table,) = report.also  # nothing is published for pocket
    assert "of which there is no run" in table.title
    assert {"GPT-3", "GPT-4o", "Chinchilla"} <= {cell.text for cell in table.cells("model")}
    assert "GPT-4o" in {cell.text for cell in report.models.cells("model")}
    for name in FORMATS:
        assert "Chinchilla" in render_report(report, name), name
    again = build_report([make_run("fake")], Choice(also=("mmlu",)))
    assert again.also == ()  # it stands beside the run


def test_the_models_table_says_who_sees_the_questions() -> None:
    api = {"kind": "api", "provider": "OpenRouter"}
    through_api = make_run("openrouter:EleutherAI/gpt-j-6b", lane="generate")
    through_api.info["model"] |= api
    unknown = make_run("somewhere:some-model", lane="generate")
    unknown.info["model"] |= {"kind": "api", "provider": "Somewhere"}
    runs = [make_run("EleutherAI/gpt-j-6b"), through_api, unknown, make_run("fake"), make_run("gpt-4-0613")]
    table = build_report(runs, Choice(published="none")).models
    columns = [[cell.text for cell in table.cells(key)] for key in ("model", "data_goes_to", "licence")]
    assert list(zip(*columns, strict=True)) == [
        ("GPT-J-6B", "local", "Apache-2.0"),
        ("GPT-J-6B", "OpenRouter", "Apache-2.0"),
        ("somewhere:some-model", "Somewhere", "not in the catalogue"),
        ("fake", "local", "not in the catalogue"),
        ("GPT-4", "OpenAI", "proprietary"),
    ]


def test_footnotes_say_what_was_shortened_failed_tied_and_not_answered() -> None:
    run = make_run("fake", 10)
    counts = {
        "num_failed": 1,
        "num_truncated": 2,
        "num_ties": 3,
        "num_no_answer": 4,
        "num_cut_off": 5,
        "num_refused": 6,
    }
    run.info["metrics"]["acc"] |= counts
    report = build_report([run])
    for words in ("1 sample failed", "2 samples shortened", "3 samples with a tie", "4 completions held no answer"):
        assert any(words in note for note in report.footnotes), words
    assert cell(report.sections[0].results, "model").notes == (1, 2, 3, 4, 5, 6)


@pytest.mark.parametrize(
    ("num_no_answer", "has", "uses", "is_said"),
    [
        (30, True, False, True),
        (20, True, False, False),
        (30, True, True, False),
        (30, False, False, False),
    ],
)
def test_a_chat_model_that_writes_nothing_without_its_template_is_explained(
    num_no_answer: int, has: bool, uses: bool, is_said: bool
) -> None:
    run = make_run("instruct", lane="generate", config={"tasks": [{"task": "mmlu", "chat_template": uses}]})
    run.info["model"]["has_chat_template"] = has
    run.info["metrics"]["acc"]["num_no_answer"] = num_no_answer  # of 40
    assert any("chat template" in note for note in build_report([run]).footnotes) == is_said


def test_a_run_without_a_number_has_a_dash_and_never_a_zero() -> None:
    run = make_run("fake", status="running", metrics={}, timing={})
    report = build_report([run, make_run("other")])
    table = report.sections[0].results
    assert [c.text for c in table.cells("model")] == ["other", "fake"]
    assert (cell(table, "score", 1).value, cell(table, "score", 1).text) == (None, "–")
    (line,) = (row for row in csv.DictReader(io.StringIO(render_csv(report))) if row["model"] == "fake")
    assert line["score"] == line["ci95_low"] == ""
    data = json.loads(render_json(report))
    assert data["sections"][0]["runs"][1]["score"] is None
    assert "not finished" in data["sections"][0]["runs"][1]["missing"]["score"]

"""`bench show TASK --sample ID` shows a prompt exactly as a model is asked it."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import Bench

from bench.asked import Asked, Tokens, ask
from bench.plan import resolve_plan
from bench.report.asked import render_asked
from bench.report.text import Screen
from bench.tasks.prepare import prepare_job


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100000")


def test_prompt_shots_and_hashes(cli: Bench) -> None:
    plan = resolve_plan({"models": [{"source": "fake"}], "tasks": [{"task": "pocket"}]}, ["tasks.0.num_fewshot=2"], "x")
    job = prepare_job(plan.tasks[0])
    sample = job.samples[3]
    result = cli("show", "pocket", "--sample", sample.sample.id, "--set", "tasks.0.num_fewshot=2")
    assert result.code == 0
    assert sample.prompt.text in result.out
    assert sample.prompt.sha256 in result.out
    assert job.prompt_hash in result.out
    assert job.dataset.checksum in result.out
    shots = job.dataset.shots[sample.sample.subject]
    assert f"{shots[0].id}, {shots[1].id}\n" in result.out
    assert "' A' · ' B' · ' C' · ' D'" in result.out
    assert "tokens:" not in result.out


@pytest.mark.parametrize(("scoring", "num_requests"), [("cloze", 4), ("written", 1)])
def test_tokens_are_those_that_are_scored(scoring: str, num_requests: int) -> None:
    overrides = [f"tasks.0.scoring={scoring}", "tasks.0.num_fewshot=1"]
    plan = resolve_plan({"models": [{"source": "fake"}], "tasks": [{"task": "pocket"}]}, overrides, "x")
    sample = prepare_job(plan.tasks[0]).samples[0]
    asked = ask(plan, sample.sample.id, plan.models[0])
    assert len(asked.requests) == num_requests
    for tokens, request in zip(asked.requests, sample.requests, strict=True):
        assert "".join(text for _, text in tokens.context) == sample.prompt.text
        assert "".join(text for _, text in tokens.continuation) == request.continuation


def test_the_command_shows_the_split(cli: Bench) -> None:
    plan = resolve_plan({"models": [{"source": "fake"}], "tasks": [{"task": "pocket"}]}, [], "x")
    first = prepare_job(plan.tasks[0]).samples[0].sample.id
    result = cli("show", "pocket", "--sample", first, "--model", "fake")
    assert result.code == 0
    assert "tokens: " in result.out
    assert result.out.count("then ") >= 4


def test_blanks_of_tokens_are_shown_and_no_line_ends_within_one() -> None:
    plan = resolve_plan({"models": [{"source": "fake"}], "tasks": [{"task": "pocket"}]}, [], "x")
    sample = prepare_job(plan.tasks[0]).samples[0]
    tokens = Tokens(tuple((number, " " * number) for number in range(1, 30)), ((7, " A"), (8, "  B")))
    asked = Asked("pocket", sample, ("s/1", "s/2"), (tokens,), {"prompt hash": "0" * 64}, None)
    lines = render_asked(asked, Screen(60)).splitlines()
    shown = " ".join(lines[next(i for i, line in enumerate(lines) if line.startswith("context")) :])
    for number in range(1, 30):
        assert f"{number} {' ' * number!r}" in shown
    assert all(line.count("'") % 2 == 0 for line in lines[-12:])
    assert max(map(len, lines)) <= 60
    assert any(line.startswith("then") and line.endswith("7 ' A' 8 '  B'") for line in lines)


def test_what_is_right_and_how_a_completion_is_asked_for(cli: Bench) -> None:
    plan = resolve_plan({"models": [{"source": "fake"}], "tasks": [{"task": "pocket"}]}, [], "x")
    sample = prepare_job(plan.tasks[0]).samples[0].sample
    arguments = ("show", "pocket", "--sample", sample.id, "--set")
    chosen, written = (cli(*arguments, f"tasks.0.scoring={form}").out for form in ("letter", "written"))
    right = f"{'ABCD'[sample.golds[0]]} {sample.choices[sample.golds[0]]!r}"
    assert right in chosen
    assert right in written
    settings = prepare_job(resolve_plan(plan_of("written"), [], "x").tasks[0]).settings
    assert f"at most {settings.max_tokens} tokens · greedy · stops at {settings.stop[0]!r}" in written
    assert "at most" not in chosen


def plan_of(scoring: str) -> dict[str, object]:
    return {"models": [{"source": "fake"}], "tasks": [{"task": "pocket", "scoring": scoring}]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pocket", "--sample", "nowhere"), "task pocket has no sample 'nowhere' among 336; did you mean '"),
        (("pockt", "--sample", "x"), "unknown task 'pockt'; did you mean 'pocket'?"),
        (("pocket", "--sample", "x", "--set", "tasks.0.num_fewshots=1"), "did you mean 'num_fewshot'?"),
    ],
)
def test_mistakes_are_told(cli: Bench, arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    result = cli("show", *arguments)
    assert result.code == 2
    assert message in result.complaint

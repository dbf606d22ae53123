"""Batches: whole runs with the official SDKs against a provider on the loopback interface."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from api_runs import PRICE, answer, files_with, write_plan
from api_server import KEY, Said
from batch_server import BatchApiServer
from runs import PATIENCE_S, Bench, Forks, only_run, read_info, read_lines

from bench.api import batched
from bench.api.batches.contract import BatchRequest
from bench.api.book import Batch, Book
from bench.api.parcels import plan_parcels
from bench.api.presets import BatchTerms
from bench.catalog.prices import BilledTokens, Discount, find_tariff

MODELS = {"openai": "openai:gpt-4o", "anthropic": "anthropic:claude-sonnet-5", "gemini": "gemini:gemini-2.5-flash"}
VENDORS = pytest.mark.parametrize("vendor", MODELS)
NUM = 12


@pytest.fixture
def server() -> Iterator[BatchApiServer]:
    with BatchApiServer(answer) as running:
        yield running


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Bench:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.setenv(name, KEY)
    monkeypatch.setattr(batched, "_POLL_S", 0.01)
    monkeypatch.setattr("bench.api.pool._LONGEST_BACKOFF_S", 0.02)
    return Bench(capsys)


def plan_for(folder: Path, server: BatchApiServer, vendor: str, num: int = NUM, **api: Any) -> Path:
    base_url = server.address + ("/v1" if vendor == "openai" else "")
    asked = {"batch": True, "base_url": base_url, "concurrency": 1, **api}
    return write_plan(folder, server, num, MODELS[vendor], **asked)


def replace_rows(folder: Path, change: Callable[[int, str], str]) -> None:
    rows = [json.loads(line) for line in (folder / "sums.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row["question"] = change(number, row["question"])
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def batch_files(run: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in sorted(run.glob("batch.*.json"))]


def assert_answered_once(folder: Path, server: BatchApiServer, num: int = NUM) -> None:
    lines = read_lines(only_run(folder / "results"))
    assert [line["completion"]["text"] for line in lines] == [answer(f"{number} +").text for number in range(num)]
    assert server.counts.billed.total() == num
    assert set(server.counts.billed.values()) == {1}


@VENDORS
def test_a_run_in_batches_is_a_run_like_any_other(
    server: BatchApiServer, bench: Bench, tmp_path: Path, vendor: str
) -> None:
    server.failing_looks = 2
    done = bench("run", plan_for(tmp_path, server, vendor), "-v")
    assert done.code == 0, done.err
    assert f"{NUM} requests in batches" in done.out + done.err
    assert_answered_once(tmp_path, server)
    assert len(server.batches) == 1
    run = only_run(tmp_path / "results")
    info = read_info(run)
    assert info["metrics"]["exact_match"]["num_scored"] == NUM
    counts = server.counts
    bill = (counts.prompt_tokens * PRICE["input"] + counts.completion_tokens * PRICE["output"]) / 1e6
    assert info["cost_usd"] == pytest.approx(bill)
    assert info["api"]["spent_usd"] == pytest.approx(bill)
    assert info["tokens"]["cached"] == counts.cached_tokens
    (batch,) = batch_files(run)
    assert batch["is_collected"]
    assert len(batch["ids"]) == 1
    assert read_lines(run)[0]["completion"]["latency_s"] is None
    assert not files_with(KEY, tmp_path)


@VENDORS
def test_a_batch_asks_what_a_request_would(server: BatchApiServer, bench: Bench, tmp_path: Path, vendor: str) -> None:
    for folder, batch in (("one", True), ("other", False)):
        (tmp_path / folder).mkdir()
        assert bench("run", plan_for(tmp_path / folder, server, vendor, num=2, batch=batch)).code == 0
    bodies = [{key: value for key, value in body.items() if key != "model"} for body in server.counts.bodies]
    for body in bodies:
        body.setdefault("generationConfig", {}).pop("automaticFunctionCalling", None)
    assert bodies[:2] == bodies[2:]


@VENDORS
def test_what_is_not_answered_is_an_error_that_the_next_command_tries_again(
    server: BatchApiServer, bench: Bench, tmp_path: Path, vendor: str
) -> None:
    plan = plan_for(tmp_path, server, vendor)
    faults = {1: "expired", 4: "errored", 7: "cancelled"}
    replace_rows(tmp_path, lambda number, question: f"{faults.get(number, '')} {question}".strip())
    server.answer = lambda prompt: answer(prompt.removeprefix(prompt.split()[0]) if prompt[0].isalpha() else prompt)
    done = bench("run", plan)
    assert done.code == 1
    metric = read_info(only_run(tmp_path / "results"))["metrics"]["exact_match"]
    assert (metric["num_failed"], metric["num_scored"]) == (3, NUM - 3)
    errors = {number: line["error"] for number, line in enumerate(read_lines(only_run(tmp_path / "results")))}
    assert {number for number, error in errors.items() if error} == set(faults)
    assert "expired" in errors[1]
    assert "answered" in errors[4] or "errored" in errors[4]
    assert bench("run", plan).code == 1
    assert [len(held.requests) for held in server.batches] == [NUM, 3]
    assert set(server.counts.billed.values()) == {1}


@pytest.mark.parametrize(("vendor", "end"), [("openai", "failed"), ("openai", "expired"), ("gemini", "expired")])
def test_a_batch_without_results_is_errors_and_costs_nothing(
    server: BatchApiServer, bench: Bench, tmp_path: Path, vendor: str, end: str
) -> None:
    server.ends_as = end
    plan = plan_for(tmp_path, server, vendor, max_cost_usd=1.0)
    done = bench("run", plan)
    assert done.code == 1
    assert end in done.err
    run = only_run(tmp_path / "results")
    assert len(read_lines(run)) == NUM
    assert read_info(run)["api"]["lost_usd"] == 0.0
    assert all(line["error"] for line in read_lines(run))
    server.ends_as = "completed"
    assert bench("run", plan).code == 0
    assert_answered_once(tmp_path, server)


def test_an_answer_that_does_not_say_whose_it_is_is_given_to_nobody(
    server: BatchApiServer, bench: Bench, tmp_path: Path
) -> None:
    server.keyless = True
    done = bench("run", plan_for(tmp_path, server, "gemini", max_cost_usd=1.0))
    assert done.code == 1
    assert "without a result that bears its key" in done.err
    assert read_info(only_run(tmp_path / "results"))["api"]["lost_usd"] > 0


@VENDORS
def test_coming_back_later(server: BatchApiServer, bench: Bench, tmp_path: Path, vendor: str) -> None:
    server.is_held = True
    plan = plan_for(tmp_path, server, vendor, wait_s=0)
    for _ in range(2):
        away = bench("run", plan)
        assert away.code == 1
        assert f"{NUM} requests are with" in away.err
        assert "run the same command again to collect them: at the latest after 20" in away.err
    live = bench("run", plan, "--set", "models.0.api.batch=false", "--set", "models.0.api.wait_s=null")
    assert "still to be collected" in live.err
    server.is_held = False
    assert bench("run", plan).code == 0
    assert_answered_once(tmp_path, server)
    assert len(server.batches) == 1


@VENDORS
def test_a_batch_of_which_no_word_came_back_is_found_and_not_paid_twice(
    server: BatchApiServer, bench: Bench, tmp_path: Path, vendor: str
) -> None:
    server.losing_words = 1
    assert bench("run", plan_for(tmp_path, server, vendor)).code == 0
    assert_answered_once(tmp_path, server)


@VENDORS
def test_killed_between_submitting_and_writing_it_down(
    server: BatchApiServer, bench: Bench, tmp_path: Path, vendor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = Book.put

    def dying(book: Book, batch: Batch) -> None:
        if batch.ids:
            raise KeyboardInterrupt
        put(book, batch)

    plan = plan_for(tmp_path, server, vendor)
    with monkeypatch.context() as patched:
        patched.setattr(Book, "put", dying)
        assert bench("run", plan).code == 130
    assert len(server.batches) == 1
    (known,) = batch_files(only_run(tmp_path / "results"))
    assert known["ids"] == []
    assert bench("run", plan).code == 0
    assert_answered_once(tmp_path, server)
    (known,) = batch_files(only_run(tmp_path / "results"))
    assert len(known["ids"]) == 1


def test_another_batch_of_the_same_size_is_not_taken_for_ours(
    server: BatchApiServer, bench: Bench, tmp_path: Path
) -> None:
    """Anthropic's batches have no name: a stranger's is looked into, and left alone."""
    (tmp_path / "stranger").mkdir()
    server.answer = lambda _: Said("It is another's.")
    assert bench("run", plan_for(tmp_path / "stranger", server, "anthropic")).code == 0
    server.answer = answer
    server.losing_words = 1
    (tmp_path / "ours").mkdir()
    assert bench("run", plan_for(tmp_path / "ours", server, "anthropic")).code == 0
    (known,) = batch_files(only_run(tmp_path / "ours" / "results"))
    assert len(known["ids"]) == 2
    lines = read_lines(only_run(tmp_path / "ours" / "results"))
    assert [line["completion"]["text"] for line in lines] == [answer(f"{number} +").text for number in range(NUM)]
    assert set(server.counts.billed.values()) == {2}  # once by each run


def test_a_batch_that_was_never_taken_is_submitted_again(server: BatchApiServer, bench: Bench, tmp_path: Path) -> None:
    plan = plan_for(tmp_path, server, "openai")
    server.key = "another"
    assert "the key is the one in OPENAI_API_KEY" in bench("run", plan).err
    run = only_run(tmp_path / "results")
    assert not batch_files(run)
    (run / "batch.0123456789abcdef.json").write_text(
        json.dumps({"label": "0123456789abcdef", "submitted_at": 0.0, "keys": ["x-0"]})
    )
    server.key = KEY
    assert bench("run", plan).code == 0
    assert_answered_once(tmp_path, server)


def test_a_batch_that_is_gone_is_not_paid_for_again_unasked(
    server: BatchApiServer, bench: Bench, tmp_path: Path
) -> None:
    server.is_held = True
    plan = plan_for(tmp_path, server, "openai", wait_s=0)
    assert bench("run", plan).code == 1
    server.failing_looks = 8
    done = bench("run", plan)
    assert "500" in done.err
    assert "gone for good" not in done.err
    server.batches.clear()
    done = bench("run", plan)
    assert done.code == 1
    assert "gone for good, remove " in done.err
    (path,) = only_run(tmp_path / "results").glob("batch.*.json")
    path.write_text("{")
    assert "is damaged" in bench("run", plan).complaint


def test_the_cap_parts_a_run_into_what_can_be_paid_for(server: BatchApiServer, bench: Bench, tmp_path: Path) -> None:
    plan = plan_for(tmp_path, server, "openai", num=60, max_cost_usd=0.003)
    done = bench("run", plan)
    assert done.code == 1
    assert "max_cost_usd leaves; raise it" in done.err
    assert 0.0025 < read_info(only_run(tmp_path / "results"))["api"]["spent_usd"] <= 0.003
    assert len(server.batches) > 1
    assert bench("run", plan, "--set", "models.0.api.max_cost_usd=1").code == 0
    assert_answered_once(tmp_path, server, 60)


def test_no_more_are_with_the_provider_at_once_than_the_plan_says(
    server: BatchApiServer, bench: Bench, tmp_path: Path
) -> None:
    assert bench("run", plan_for(tmp_path, server, "openai", batch_requests=5)).code == 0
    assert [len(held.requests) for held in server.batches] == [5, 5, 2]
    assert_answered_once(tmp_path, server)


def test_equal_prompts_get_an_answer_each_and_a_repeated_answer_counts_once(
    server: BatchApiServer, bench: Bench, tmp_path: Path
) -> None:
    server.repeats = True
    numbers = count()
    server.answer = lambda _: Said(f"It is {next(numbers)}.")
    plan = plan_for(tmp_path, server, "anthropic", num=4)
    replace_rows(tmp_path, lambda *_: "5 + 1")
    assert bench("run", plan).code == 0
    assert server.counts.billed.total() == 4
    texts = {line["completion"]["text"] for line in read_lines(only_run(tmp_path / "results"))}
    assert texts == {f"It is {number}." for number in range(4)}


def test_what_cannot_be_followed_is_one_line(server: BatchApiServer, bench: Bench, tmp_path: Path) -> None:
    plan = plan_for(tmp_path, server, "openai")

    def complaint(*settings: str) -> str:
        return bench(
            "run", plan, *(word for setting in settings for word in ("--set", f"models.0.{setting}"))
        ).complaint

    assert "wait_s is for batches" in complaint("api={wait_s: 5}")
    assert "batch_requests is for batches" in complaint("api={batch_requests: 5}")
    assert "likelihoods are not asked for in batches" in complaint("api={batch: true, likelihoods: letters}")
    assert "api.batch is for anthropic, gemini, openai" in complaint("source=vllm:m", "api={batch: true}")
    told = complaint("source=gemini:gemini-2.5-flash", "api={batch: true, extra_body: {a: 1}}")
    assert "api.extra_body has no place in the batches of Google Gemini" in told
    assert not server.counts.requests


def test_parcels_are_as_large_as_may_be() -> None:
    terms = BatchTerms(num_requests=3, num_bytes=100, ends_s=1, price=0.5, documented="x")
    sizes = [10, 10, 10, 10, 60, 31, 200, 5]
    parcels = list(plan_parcels([(str(n), n) for n in range(8)], lambda key, n: BatchRequest(key, sizes[n]), terms))
    assert [parcel.keys for parcel in parcels] == [["0", "1", "2"], ["3", "4"], ["5"], ["6"], ["7"]]
    for parcel in parcels:
        assert [request.body for request in parcel.requests] == [f"{parcel.label}-{key}" for key in parcel.keys]
    assert len({parcel.label for parcel in parcels}) == 5


def test_prices_of_batches() -> None:
    discount = Discount(0.5, "they say so")
    tokens = BilledTokens(1_000_000, 1_000_000, cached=1_000_000)
    known = find_tariff("openai", "openai", "gpt-4o", discount)
    assert known is not None
    assert known.cost_usd(tokens) == pytest.approx(1.25 + 5)  # what is cached costs there what it always does
    assert "gpt-4o, batch" in known.basis
    halved = find_tariff("gemini", "google", "gemini-1.5-flash", discount)
    usual = find_tariff("gemini", "google", "gemini-1.5-flash")
    assert halved is not None
    assert usual is not None
    assert halved.cost_usd(tokens) == pytest.approx(usual.cost_usd(tokens) / 2)
    assert "they say so" in halved.basis
    assert find_tariff("openai", "openai", "no-such-model", discount) is None


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    started = Forks()
    yield started
    started.close()


def test_killed_anywhere_nothing_is_paid_twice(server: BatchApiServer, forks: Forks, tmp_path: Path) -> None:
    plan = plan_for(tmp_path, server, "openai", num=150)
    output, scored = tmp_path / "out.txt", tmp_path / "scored.txt"
    server.is_held = True

    def started() -> int:
        return forks.start("run", plan, output=output, scored=str(scored), environment={"OPENAI_API_KEY": KEY})

    def killed(pid: int, when: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE_S
        while not when():
            assert time.monotonic() < until, output.read_text()
            time.sleep(0.002)
        os.kill(pid, signal.SIGKILL)
        assert forks.wait(pid) == -signal.SIGKILL

    killed(started(), lambda: bool(server.batches))  # while it is being submitted
    num = server.counts.requests
    killed(started(), lambda: server.counts.requests >= num + 2)  # while it waits
    server.is_held = False
    for wanted in (20, 60):  # while it collects
        killed(started(), lambda wanted=wanted: scored.exists() and len(scored.read_text().splitlines()) > wanted)  # type: ignore[misc]
    assert forks.wait(started()) == 0, output.read_text()
    assert_answered_once(tmp_path, server, 150)
    assert len(server.batches) == 1

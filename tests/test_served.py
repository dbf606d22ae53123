"""`bench speed` of models behind an API, over real HTTP to the tests' own server: whole commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_runs import files_with
from api_server import KEY, ApiServer, Faults, Said
from api_stream import Tempo
from runs import Bench, only_run, read_info, run_folders

from bench.api.pool import Patience
from bench.report.speed import read_speed_run, render_speed
from bench.report.text import Screen
from bench.speed import measure, runner, served
from bench.speed.folder import POINTS_FILE, read_points

SERVED: dict[str, Any] = {
    "concurrencies": [1, 3],
    "request_rates": [50.0],
    "prompt_tokens": 40,
    "completion_tokens": 8,
    "num_requests": 6,
    "warm_up_requests": 2,
    "objective": {"ttft_s": 30.0},
}
KEYS = ["served 1 x 40+8", "served 3 x 40+8", "served 50/s x 40+8"]
NUM_PROBES = 2
PRICE = {"input": 1000.0, "output": 1000.0}  # a thousandth of a dollar a token


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.setenv(name, KEY)
    with ApiServer(lambda _: Said("one two three four five six seven eight", "length", num_tokens=8)) as running:
        yield running


def write_served_plan(
    folder: Path, server: ApiServer, source: str = "openai:gpt-4o", *, api: Any = None, models: Any = (), **changes: Any
) -> Path:
    is_own = source.startswith("vllm")
    base_url = server.address + ("/v1" if source.startswith("openai") or is_own else "")
    price = {} if is_own else {"price": PRICE}
    server.key = None if is_own else server.key
    plan = {
        "models": [{"source": source, "api": {"base_url": base_url, **price, **(api or {})}}, *models],
        "tasks": ["pocket"],
        "speed": {
            "served": {**SERVED, **changes},
            "prompt_lengths": [8],
            "batch_sizes": [1],
            "contexts": [8],
            "decode_tokens": 2,
            "min_s": 0.001,
            "max_s": 0.002,
            "repeats": 6,
        },
        "out": str(folder / "results"),
    }
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan))
    return path


@pytest.mark.parametrize("provider", ["openai:gpt-4o", "anthropic:claude-sonnet-5", "gemini:gemini-2.5-flash"])
def test_every_load_is_put_and_recorded(cli: Bench, tmp_path: Path, server: ApiServer, provider: str) -> None:
    done = cli("speed", write_served_plan(tmp_path, server, provider))
    assert done.code == 0, done.err
    run = only_run(tmp_path / "results")
    info, points = read_info(run), read_points(run)
    assert (info["status"], info["lane"], info["num_points"]) == ("finished", "speed", 3)
    assert list(points) == KEYS
    assert server.counts.requests == NUM_PROBES + 3 * (6 + 2)
    for point in points.values():
        assert point["phase"] == "served"
        assert (point["num_requests"], point["num_answered"], point["failures"]) == (6, 6, {})
        assert point["tokens"]["completion"] == point["num_pieces"] == 48
        assert point["tokens_per_s"] == pytest.approx(48 / point["duration_s"])
        assert point["goodput"]["requests_per_s"] == pytest.approx(6 / point["duration_s"])
        assert point["ttft_s"]["num"] == point["tpot_s"]["num"] == point["latency_s"]["num"] == 6
        assert point["itl_s"]["num"] == 42
        for request in point["requests"]:
            assert request["num_prompt_tokens"] == pytest.approx(40, abs=4)
            assert request["due_s"] <= request["sent_s"] < request["pieces_s"][0] <= request["end_s"]
    assert [point["load"] for point in points.values()] == [
        {"concurrency": 1},
        {"concurrency": 3},
        {"request_rate_per_s": 50.0},
    ]
    # 6 requests and 2 of warm-up, by the server's own count
    spent = sum(point["cost_usd"] for point in points.values()) / 0.001
    tokens = server.counts.prompt_tokens + server.counts.completion_tokens
    probes = sum(len(text_of(body).split()) + 8 for body in server.counts.bodies[:NUM_PROBES])
    assert spent == pytest.approx(tokens - probes)
    assert info["api"]["spent_usd"] == pytest.approx(tokens / 1000)
    assert info["pending_usd"] == 0
    assert not files_with(KEY, tmp_path)


def text_of(body: dict[str, Any]) -> str:
    if "contents" in body:
        return str(body["contents"][0]["parts"][0]["text"])
    return str(body["messages"][0]["content"])


def test_what_is_sent_is_the_api_lanes_request_streamed(cli: Bench, tmp_path: Path, server: ApiServer) -> None:
    api = {"extra_body": {"ignore_eos": True}}
    assert cli("speed", write_served_plan(tmp_path, server, "vllm:mine", api=api)).code == 0
    for body in server.counts.bodies:
        assert (body["stream"], body["max_tokens"], body["ignore_eos"]) == (True, 8, True)
    assert len({text_of(body).partition(":")[0] for body in server.counts.bodies}) == server.counts.requests


def test_the_cost_is_said_before_and_a_server_of_ones_own_has_none(
    cli: Bench, tmp_path: Path, server: ApiServer
) -> None:
    # 3 points × 8 requests × 48 tokens at a thousandth each
    assert "24 requests, up to 1.15 USD" in cli("speed", write_served_plan(tmp_path, server)).err
    assert "USD" not in cli("speed", write_served_plan(tmp_path, server, "vllm:mine")).err


def test_a_finished_sweep_is_not_asked_again_and_a_larger_one_goes_on(
    cli: Bench, tmp_path: Path, server: ApiServer
) -> None:
    plan = write_served_plan(tmp_path, server)
    cli("speed", plan)
    before, num = (only_run(tmp_path / "results") / POINTS_FILE).read_bytes(), server.counts.requests
    again = cli("speed", plan, "--set", "speed.served.objective={ttft_s: 0.000001}")
    assert "nothing to measure" in again.err
    assert server.counts.requests == num
    rows = [line.split() for line in again.out.splitlines() if line.startswith("gpt-4o  ")]
    assert [row[-1] for row in rows] == ["0", "0", "0"]  # goodput, judged anew
    assert cli("speed", plan, "--set", "speed.served.concurrencies=[1,2,3]").code == 0
    assert server.counts.requests == num + NUM_PROBES + 8
    after = (only_run(tmp_path / "results") / POINTS_FILE).read_bytes()
    assert after.startswith(before)
    shown = cli("table", tmp_path / "results").out.splitlines()
    assert [line.split()[1] for line in shown if line.startswith("gpt-4o  ")] == ["1", "2", "3", "50/s"]


def test_interrupted_only_what_is_missing_is_asked(
    cli: Bench, tmp_path: Path, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = runner.append_point

    def interrupt(path: Path, record: dict[str, Any]) -> None:
        write(path, record)
        if record["key"] == KEYS[1]:
            raise KeyboardInterrupt

    monkeypatch.setattr(runner, "append_point", interrupt)
    plan = write_served_plan(tmp_path, server)
    assert cli("speed", plan).code == 130
    spent = read_info(only_run(tmp_path / "results"))["api"]["spent_usd"]
    assert spent == pytest.approx((server.counts.prompt_tokens + server.counts.completion_tokens) / 1000)
    monkeypatch.setattr(runner, "append_point", write)
    num = server.counts.requests
    assert cli("speed", plan).code == 0
    assert server.counts.requests == num + NUM_PROBES + 8
    run = only_run(tmp_path / "results")
    assert list(read_points(run)) == KEYS
    total = (server.counts.prompt_tokens + server.counts.completion_tokens) / 1000
    assert read_info(run)["api"]["spent_usd"] == pytest.approx(total)


def test_killed_amid_a_point_the_most_it_may_have_cost_counts_towards_the_cap(
    cli: Bench, tmp_path: Path, server: ApiServer
) -> None:
    plan = write_served_plan(tmp_path, server, api={"max_cost_usd": 100.0})
    pending: list[float] = []
    answer = server.answer

    def peek(prompt: str) -> Said:
        runs = run_folders(tmp_path / "results")
        pending.append(read_info(runs[0])["pending_usd"] if runs else 0.0)
        return answer(prompt)

    server.answer = peek
    cli("speed", plan)
    # while a request is under way, run.json holds the most that its point may cost: no less than it does cost
    assert min(pending) > 0
    assert max(pending) > 8 * 48 / 1000
    info_path = only_run(tmp_path / "results") / "run.json"
    info_path.write_text(info_path.read_text().replace('"pending_usd": 0.0', '"pending_usd": 99.5'))
    done = cli("speed", plan, "--set", "speed.served.concurrencies=[1,2,3]")
    assert done.code == 1
    assert "max_cost_usd" in done.complaint


def test_the_cap_holds_and_what_was_measured_stays(cli: Bench, tmp_path: Path, server: ApiServer) -> None:
    # a point is 8 requests of 48 tokens: 0.38; the second would still fit if every prompt were as long as asked
    plan = write_served_plan(tmp_path, server, api={"max_cost_usd": 0.9})
    done = cli("speed", plan)
    assert done.code == 1
    assert "max_cost_usd" in done.complaint
    bill = (server.counts.prompt_tokens + server.counts.completion_tokens) / 1000
    assert bill <= 0.9
    run = only_run(tmp_path / "results")
    assert list(read_points(run)) == KEYS[:1]
    assert read_info(run)["status"] == "failed"
    num = server.counts.requests
    assert cli("speed", plan).code == 1
    assert server.counts.requests <= num + NUM_PROBES
    assert cli("speed", plan, "--set", "models.0.api.max_cost_usd=100.0").code == 0
    assert list(read_points(run)) == KEYS


def test_a_wrong_key_stops_at_the_first_request(cli: Bench, tmp_path: Path, server: ApiServer) -> None:
    server.key = "another"
    done = cli("speed", write_served_plan(tmp_path, server))
    assert done.code == 1
    assert "OPENAI_API_KEY" in done.complaint
    assert server.counts.requests == 1
    assert KEY not in done.err + done.out
    assert not files_with(KEY, tmp_path)


def test_failures_are_counted_by_kind_and_are_no_latencies(
    cli: Bench, tmp_path: Path, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served.secrets, "token_hex", lambda _: "a1b2")  # which requests fail goes by their prompts
    monkeypatch.setattr(Patience, "pause_s", lambda *_: 0.0)
    server.faults = Faults(0.4, ("500", "429", "cut", "error"), in_a_row=99, seed=4)
    done = cli("speed", write_served_plan(tmp_path, server, "vllm:mine", num_requests=40, concurrencies=[4]))
    run = only_run(tmp_path / "results")
    points = read_points(run)
    assert done.code == 0, done.err
    for point in points.values():
        assert set(point["failures"]) <= {"service", "throttled", "lost"}
        assert 8 < sum(point["failures"].values()) == 40 - point["num_answered"] < 32
        assert point["ttft_s"]["num"] == point["num_answered"]
        assert point["goodput"]["num_met"] == point["num_answered"]
    assert "of 40 requests failed:" in " ".join(done.out.split())


def test_a_load_that_nothing_answers_is_not_measured(cli: Bench, tmp_path: Path, server: ApiServer) -> None:
    plan = write_served_plan(tmp_path, server, "vllm:mine", num_requests=40)
    server.answer = lambda prompt: Said("") if "-3-x-" in prompt else Said("one two", num_tokens=2)
    done = cli("speed", plan)
    assert done.code == 1
    assert "1 of 3 points were not measured: served 3 x 40+8: none of 10 requests was answered" in done.complaint
    assert list(read_points(only_run(tmp_path / "results"))) == [KEYS[0], KEYS[2]]
    server.answer = lambda _: Said("one two", num_tokens=2)
    assert cli("speed", plan).code == 0


def test_a_server_that_answers_nothing_at_all_ends_the_run(
    cli: Bench, tmp_path: Path, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Patience, "pause_s", lambda *_: 0.0)
    server.faults = Faults(1.0, ("500",), in_a_row=99)
    done = cli("speed", write_served_plan(tmp_path, server))
    assert done.code == 1
    assert "nothing can be measured: a first request has no answer" in done.complaint


def test_without_usage_tokens_are_counted_by_the_named_tokenizer_or_not_at_all(
    cli: Bench, tmp_path: Path, server: ApiServer
) -> None:
    server.has_usage = False
    plan = write_served_plan(tmp_path, server, "vllm:mine", concurrencies=[1], request_rates=[])
    assert cli("speed", plan).code == 0
    (run,) = run_folders(tmp_path / "results")
    (point,) = read_points(run).values()
    assert (point["tokens_per_s"], point["tpot_s"], point["tokens"]["completion"]) == (None, None, None)
    assert point["ttft_s"]["num"] == 6
    shown = " ".join(cli("show", run).out.split())
    assert "tokens_per_s not measured: the server does not say how many tokens it wrote" in shown
    assert cli("speed", plan, "--set", "speed.served.tokenizer=fake").code == 0
    other = next(path for path in run_folders(tmp_path / "results") if path != run)
    (point,) = read_points(other).values()
    assert point["tokens"]["completion"] == 6 * len("one two three four five six seven eight")  # a byte is a token


def test_a_plan_may_mix_models_of_both_kinds(
    cli: Bench, tmp_path: Path, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "measure_bandwidth", lambda _: 1e10)
    monkeypatch.setitem(measure._PROBE_TOKENS, "cpu", 64)
    plan = write_served_plan(tmp_path, server, "vllm:mine", models=[{"source": "fake"}], concurrencies=[2])
    done = cli("speed", plan)
    assert done.code == 0, done.err
    assert [line.split()[0] for line in done.out.splitlines() if line.startswith(("fake  ", "mine  "))] == [
        "fake",
        "fake",
        "mine",
        "mine",
    ]


@pytest.mark.parametrize("width", [80, 160])
def test_the_table_fits_its_screen(cli: Bench, tmp_path: Path, server: ApiServer, width: int) -> None:
    server.tempo = lambda _: Tempo(words_per_piece=4)
    cli("speed", write_served_plan(tmp_path, server))
    found = read_speed_run(only_run(tmp_path / "results"))
    assert found is not None
    text = render_speed([found], Screen(width))
    assert all(len(line) <= width for line in text.splitlines())
    words = " ".join(text.split())
    assert "goodput's objective: TTFT 30 s" in words
    assert "4.0 tokens a piece, so ITL is between pieces and not tokens" in words
    assert "at 1, 3, 50/s:" in words
    for title in ("load", "TTFT", "TPOT", "tokens/s"):
        assert title in text.splitlines()[0]


@pytest.mark.parametrize(
    ("mistake", "complaint"),
    [
        ({"concurrencies": [], "request_rates": []}, "both concurrencies and request_rates are empty"),
        ({"concurrencies": [2, 2]}, "concurrencies has a number twice"),
        ({"concurrency": [2]}, "speed.served.concurrency: unknown key; did you mean 'concurrencies'?"),
        ({"request_rates": [0.0]}, "speed.served.request_rates[0]: should be greater than 0"),
        ({"objective": {"itl_s": 1.0}}, "speed.served.objective.itl_s: unknown key"),
    ],
)
def test_a_mistake_in_the_section_is_one_line(
    cli: Bench, tmp_path: Path, server: ApiServer, mistake: dict[str, Any], complaint: str
) -> None:
    done = cli("speed", write_served_plan(tmp_path, server, **mistake))
    assert done.code == 2
    assert complaint in done.complaint
    assert server.counts.requests == 0


def test_batches_have_no_speed(cli: Bench, tmp_path: Path, server: ApiServer) -> None:
    done = cli("speed", write_served_plan(tmp_path, server, api={"batch": True}))
    assert done.code == 2
    assert "api.batch: batches are not streamed" in done.complaint


def test_a_report_shows_the_loads(cli: Bench, tmp_path: Path, server: ApiServer) -> None:
    cli("speed", write_served_plan(tmp_path, server))
    shown = cli("report", tmp_path / "results")
    assert shown.code == 0
    rows = [line.split("|") for line in shown.out.splitlines() if "| served |" in line]
    assert [row[3].strip() for row in rows] == ["concurrency 1", "concurrency 3", "50 requests/s"]
    assert all("–" not in cell for row in rows for cell in row)
    # a thousandth of a dollar a token, read or written, is what a million costs a thousand for
    assert all("| 1e+03 |" in "|".join(row) or "1e+03" in row[-2] for row in rows)

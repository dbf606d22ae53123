from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from api_server import KEY, ApiServer, Faults, Said

from bench.api.completer import ApiCompleter
from bench.api.connect import connect, find_access, settle_tariff
from bench.api.pool import Patience
from bench.api.presets import load_preset
from bench.api.spec import ApiSpec
from bench.catalog.prices import BilledTokens
from bench.completer import GenerationSettings
from bench.errors import ApiError
from bench.records import Completion, Message

MODELS = {
    "openai": "gpt-4o",
    "anthropic": "claude-sonnet-5",
    "gemini": "gemini-2.5-flash",
    "deepseek": "deepseek-chat",
}
SETTINGS = GenerationSettings(max_tokens=20)


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as running:
        yield running


def completer(
    server: ApiServer,
    monkeypatch: pytest.MonkeyPatch,
    provider: str = "openai",
    *,
    key: str = KEY,
    cap_usd: float | None = None,
    patience: Patience | None = None,
) -> ApiCompleter:
    preset = load_preset(provider)
    if preset.key:
        monkeypatch.setenv(preset.key, key)
    spec = ApiSpec(base_url=server.address + ("/v1" if preset.client == "openai" else ""))
    access = find_access(provider, preset, MODELS.get(provider, "m"), spec)
    tariff = settle_tariff(provider, preset, access.model, spec)
    patience = patience or Patience(concurrency=32, timeout_s=2.0, backoff_s=0.01)
    return ApiCompleter(lambda: connect(access, preset.client), patience, tariff, cap_usd)


def chats(num: int) -> list[tuple[Message, ...]]:
    return [(Message("user", f"what is {number} and four more words"),) for number in range(num)]


def until_the_end(results: Iterator[tuple[int, Completion | str]]) -> tuple[dict[int, Completion | str], str]:
    """What came before the provider would not go on, and what was said then."""
    found: dict[int, Completion | str] = {}
    try:
        for number, result in results:
            found[number] = result
    except ApiError as end:
        return found, str(end)
    raise AssertionError("it went on to the end")


NUM_ASKED = {"openai": 1000, "anthropic": 150, "gemini": 150, "deepseek": 100}


@pytest.mark.parametrize("provider", MODELS)
def test_thirty_per_cent_faults_lose_double_and_falsify_nothing(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    num = NUM_ASKED[provider]
    server.faults = Faults(0.3, seed=1)
    asked = completer(server, monkeypatch, provider)
    results = list(asked.complete(chats(num), SETTINGS))
    assert sorted(number for number, _ in results) == list(range(num))
    for number, completion in results:
        assert isinstance(completion, Completion)
        assert completion.text == f"echo what is {number} and four more words"
        assert completion.finish_reason == "stop"
    counts = server.counts
    assert set(counts.billed.values()) == {1}
    assert counts.billed.total() == num
    assert counts.requests == num + asked.tally.num_retries
    assert asked.tally.num_lost == counts.lost
    assert asked.tally.num_throttled == sum(counts.faults[kind] for kind in ("429", "429-after", "529"))
    assert min(counts.faults.values()) > 0
    assert asked.tariff is not None
    bill = asked.tariff.cost_usd(BilledTokens(counts.prompt_tokens, counts.completion_tokens, counts.cached_tokens))
    assert asked.tally.spent_usd == pytest.approx(bill, rel=1e-9)
    assert bill > 0


def test_the_sdks_own_retries_are_off(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for provider in MODELS:
        for kind in ("500", "429", "reset", "slow"):
            server.faults = Faults(1.0, (kind,), in_a_row=99)
            before = server.counts.requests
            patience = Patience(timeout_s=2.0, max_attempts=1, backoff_s=0.001)
            num = 1 if kind != "429" else 4  # attempts that are turned away count a quarter
            ((_, result),) = completer(server, monkeypatch, provider, patience=patience).complete(chats(1), SETTINGS)
            assert isinstance(result, str)
            assert "given up after" in result
            assert server.counts.requests - before == num


def test_a_wrong_key_stops_everything_at_once_and_is_not_shown(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for provider in MODELS:
        before = server.counts.requests
        asked = completer(server, monkeypatch, provider, key="sk-wrong-key")
        with pytest.raises(ApiError, match=r"401.*the key is the one in [A-Z]+_API_KEY") as caught:
            list(asked.complete(chats(500), SETTINGS))
        assert "sk-wrong-key" not in str(caught.value)
        assert server.counts.requests - before <= 32


def test_an_empty_account_stops_everything_and_what_was_answered_is_kept(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.quota = 40
    server.latency_s = 0.01
    results, end = until_the_end(completer(server, monkeypatch).complete(chats(500), SETTINGS))
    assert "insufficient_quota" in end
    assert len(results) == server.counts.billed.total() < 40 + 32
    assert server.counts.requests <= server.counts.billed.total() + 32


def test_the_cost_stays_below_its_cap_and_the_rest_can_follow(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.faults = Faults(0.2, seed=3)
    asked = completer(server, monkeypatch, cap_usd=0.02)
    results, end = until_the_end(asked.complete(chats(400), SETTINGS))
    assert "max_cost_usd" in end
    assert asked.tally.spent_usd + asked.tally.lost_usd <= 0.02
    assert asked.tally.spent_usd + asked.tally.lost_usd > 0.019
    assert 40 < len(results) < 400
    rest = [chat for number, chat in enumerate(chats(400)) if number not in results]
    assert len(results) + len(dict(completer(server, monkeypatch).complete(rest, SETTINGS))) == 400
    assert set(server.counts.billed.values()) == {1}


def test_an_answer_that_was_not_taken_holds_the_place_of_a_request(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = completer(server, monkeypatch, patience=Patience(concurrency=4)).complete(chats(100), SETTINGS)
    for num_taken in range(1, 20):
        next(results)
        assert server.counts.requests <= num_taken - 1 + 4  # the last one is not saved yet
    time.sleep(0.05)
    assert server.counts.requests <= 18 + 4
    results.close()


def test_concurrency_follows_what_the_provider_lets_through(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.latency_s = 0.02
    server.most_at_once = 6
    asked = completer(server, monkeypatch, patience=Patience(concurrency=64, backoff_s=0.01))
    results = dict(asked.complete(chats(300), SETTINGS))
    assert all(isinstance(result, Completion) for result in results.values())
    assert (
        asked.tally.num_throttled < 300 / 2
    )  # asking at 64 at once throughout would be turned away ten times as often
    assert len(results) == 300


def test_a_service_that_answers_nothing_is_given_up_soon(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.faults = Faults(1.0, ("500",), in_a_row=99)
    patience = Patience(concurrency=4, max_attempts=2, backoff_s=0.001)
    failed, end = until_the_end(completer(server, monkeypatch, patience=patience).complete(chats(1000), SETTINGS))
    assert "none of the last 10 requests was answered" in end
    assert 10 <= len(failed) < 20


def test_refusals_filters_and_cut_off_answers_are_told_apart(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer = lambda prompt: Said("words", reason=prompt.split()[0])
    expected = {
        "openai": {"refusal": "refusal", "filtered": "filtered", "length": "length"},
        "anthropic": {"refusal": "refusal", "length": "length"},
        "gemini": {"filtered": "filtered", "length": "length"},
    }
    for provider, kinds in expected.items():
        prompts = [(Message("user", f"{kind} please"),) for kind in kinds]
        results = dict(completer(server, monkeypatch, provider).complete(prompts, SETTINGS))
        assert [results[number].finish_reason for number in range(len(kinds))] == list(kinds.values())  # type: ignore[union-attr]


def test_one_thread_serves_all_requests_and_ends(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    results = completer(server, monkeypatch).complete(chats(200), SETTINGS)
    next(results)
    assert threading.active_count() <= before + 2  # the loop's, and one that looks names up
    list(results)
    assert threading.active_count() == before

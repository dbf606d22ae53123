"""Loads are put as they say: on a clock of the tests' own, so that nothing here waits, and every moment is exact."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable
from itertools import islice, pairwise
from typing import Any

import pytest
from scipy import stats
from virtual_time import VirtualLoop, run

from bench.api.contract import Access, Answer, Heard, Usage
from bench.api.failures import AccessFailure, PromptFiltered, RequestFailure, ServiceFailure
from bench.api.ledger import CapReached, Ledger, Tally
from bench.catalog.prices import Price, Tariff, plain_tariff
from bench.completer import GenerationSettings
from bench.records import Message
from bench.speed.asking import Asker
from bench.speed.driving import drive
from bench.speed.figures import Taken, describe_goodput, describe_load, read_taken
from bench.speed.load import Load, Words, arrivals, plan_loads
from bench.speed.spec import Objective, ServedSpec


def closed(concurrency: int) -> Load:
    return Load(concurrency, None, 16, 4)


def paced(rate_per_s: float) -> Load:
    return Load(None, rate_per_s, 16, 4)


def served(service_s: Callable[[int], float], log: list[tuple[float, int]]) -> Callable[[int, float], Awaitable[Taken]]:
    """A service that takes as long as it is told; the log has each request's begin (+1) and end (-1)."""

    async def ask(number: int, due: float) -> Taken:
        clock = asyncio.get_running_loop().time
        sent = clock()
        log.append((sent, 1))
        await asyncio.sleep(service_s(number))
        log.append((clock(), -1))
        return Taken(due, sent, (clock(),), clock())

    return ask


def under_way(log: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """How many requests are under way from each moment on."""
    numbers: dict[float, int] = {}
    now = 0
    for moment, change in log:
        now += change
        numbers[moment] = now
    return list(numbers.items())


def test_a_closed_loop_keeps_exactly_so_many_under_way() -> None:
    log: list[tuple[float, int]] = []
    taken = run(drive(closed(5), served(lambda number: 1.0 + number % 7 / 10, log), 200))
    assert len(taken) == 200
    numbers = under_way(log)
    last_sent = max(one.sent_s for one in taken)
    assert {number for moment, number in numbers if moment < last_sent} == {5}
    assert numbers[-1][1] == 0
    assert all(one.sent_s == one.due_s for one in taken)


def test_fewer_requests_than_places_are_all_sent_at_once() -> None:
    log: list[tuple[float, int]] = []
    assert len(run(drive(closed(64), served(lambda _: 1.0, log), 3))) == 3
    assert [moment for moment, _ in log] == [0.0] * 3 + [1.0] * 3


def test_nothing_is_sent_after_the_time_is_up_and_all_is_awaited() -> None:
    log: list[tuple[float, int]] = []
    taken = run(drive(closed(2), served(lambda _: 4.0, log), 1000, max_s=10.0))
    assert sorted(one.sent_s for one in taken) == [0.0, 0.0, 4.0, 4.0, 8.0, 8.0]
    assert max(one.end_s for one in taken) == 12.0
    taken = run(drive(paced(2.0), served(lambda _: 4.0, []), 1000, max_s=10.0, seed=3))
    expected = [moment for moment in islice(arrivals(2.0, 3), 100) if moment < 10.0]
    assert sorted(one.sent_s for one in taken) == pytest.approx(expected)


def test_an_open_loop_sends_when_due_however_slow_the_answers_are() -> None:
    log: list[tuple[float, int]] = []
    taken = run(drive(paced(10.0), served(lambda _: 1000.0, log), 50, seed=7))
    assert [one.sent_s for one in sorted(taken, key=lambda one: one.due_s)] == pytest.approx(
        list(islice(arrivals(10.0, 7), 50))
    )
    assert max(number for _, number in under_way(log)) == 50


def test_what_is_late_is_sent_at_once_and_its_lateness_is_recorded() -> None:
    async def blocked() -> list[Taken]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)

        async def ask(number: int, due: float) -> Taken:
            sent = loop.time()
            if number == 2:
                loop.now += 5.0  # the client is busy with something else
            return Taken(due, sent, (sent,), sent)

        return await drive(paced(10.0), ask, 30, seed=1)

    taken = run(blocked())
    late = [one.sent_s - one.due_s for one in taken]
    assert late[:3] == pytest.approx([0.0] * 3)
    assert late[3] == pytest.approx(5.0 - (taken[3].due_s - taken[2].due_s))
    assert len(taken) == 30
    assert describe_load(paced(10.0), taken, Objective())["late_s"]["p99"] > 4.0


def test_arrivals_are_a_poisson_process_by_their_seed() -> None:
    moments = list(islice(arrivals(4.0, 11), 5001))
    assert moments == list(islice(arrivals(4.0, 11), 5001))
    assert moments[:50] != list(islice(arrivals(4.0, 12), 50))
    assert moments[0] == 0.0
    gaps = [end - begin for begin, end in pairwise(moments)]
    assert statistics.mean(gaps) == pytest.approx(1 / 4, rel=0.05)
    assert stats.kstest(gaps, stats.expon(scale=1 / 4).cdf).pvalue > 0.01
    assert abs(stats.pearsonr(gaps[:-1], gaps[1:]).statistic) < 0.05  # none depends on the one before


@pytest.mark.parametrize("load", [closed(4), paced(50.0)])
def test_what_ends_a_load_ends_it_at_once_and_awaits_what_is_under_way(load: Load) -> None:
    log: list[tuple[float, int]] = []
    service = served(lambda _: 10.0, log)

    async def ask(number: int, due: float) -> Taken:
        if number == 3:
            raise AccessFailure("wrong key")
        return await service(number, due)

    with pytest.raises(AccessFailure, match="wrong key"):
        run(drive(load, ask, 100, seed=5))
    assert [change for _, change in log] == [1, 1, 1, -1, -1, -1]


# --- one request ---

ACCESS = Access("openai", "m", "http://127.0.0.1:9", "", "", 1.0)
CHAT = (Message("user", "hello there"),)
SETTINGS = GenerationSettings(4)
TARIFF = plain_tariff(Price(input=1e6, output=1e6), "the test")  # one USD a token
USAGE = Usage(num_prompt_tokens=3, num_completion_tokens=5)


class FakeClient:
    """Streams pieces at moments, then answers or fails."""

    def __init__(self, moments: list[float], end: Answer | Exception) -> None:
        self._moments = moments
        self._end = end

    async def stream(self, prompt: object, settings: object, heard: Heard) -> Answer:
        began = asyncio.get_running_loop().time()
        for moment in self._moments:
            await asyncio.sleep(began + moment - asyncio.get_running_loop().time())
            heard("word ")
        if isinstance(self._end, Exception):
            raise self._end
        return self._end


def answer(text: str = "word word", reason: Any = "length", usage: Usage | None = USAGE) -> Answer:
    return Answer(text, reason, usage, "m")


def ask_once(
    moments: list[float], end: Answer | Exception, cap_usd: float | None = 100.0, count: Any = None
) -> tuple[Taken, Tally]:
    tally = Tally()

    async def once() -> Taken:
        asker = Asker(FakeClient(moments, end), SETTINGS, Ledger(TARIFF, cap_usd, tally), 50.0, count)  # type: ignore[arg-type]
        return asker.count_rest(await asker.ask(CHAT, 0.0, 0.0))

    return run(once()), tally


def test_moments_tokens_and_cost_of_an_answer() -> None:
    taken, tally = ask_once([2.0, 2.5, 4.0], answer())
    assert (taken.ttft_s, taken.latency_s, taken.tpot_s) == (2.0, 4.0, 0.5)
    assert (taken.num_prompt_tokens, taken.num_completion_tokens, taken.cost_usd) == (3, 5, 8.0)
    assert taken.failure is None
    assert (tally.spent_usd, tally.lost_usd, tally.num_answers) == (8.0, 0.0, 1)
    assert read_taken(taken.record()) == taken


def test_reckoning_what_it_cost_is_no_part_of_its_time() -> None:
    async def once() -> Taken:
        def slowly(tokens: object) -> float:
            asyncio.get_running_loop().now += 1.0  # type: ignore[attr-defined]
            return 8.0

        client = FakeClient([2.0, 4.0], answer())
        return await Asker(client, SETTINGS, Ledger(Tariff("slow", slowly), None, Tally()), 50.0).ask(CHAT, 0.0, 0.0)  # type: ignore[arg-type]

    assert run(once()).end_s == 4.0


FAILURES = {
    "throttled": (ServiceFailure("busy", is_throttle=True), False),
    "service": (ServiceFailure("500"), False),
    "lost": (ServiceFailure("cut", is_billed=True), True),
    "refused": (RequestFailure("too long"), False),
    "filtered": (PromptFiltered("held back"), False),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_failure_has_its_kind_and_only_what_may_be_charged_counts_as_lost(kind: str) -> None:
    failure, is_charged = FAILURES[kind]
    taken, tally = ask_once([1.0], failure)
    assert (taken.failure, taken.why) == (kind, str(failure))
    assert tally.spent_usd == 0.0
    assert (tally.lost_usd > 0) == is_charged


def test_what_is_slow_refused_or_empty_is_a_failure_of_its_own_kind() -> None:
    taken, tally = ask_once([1.0, 60.0], answer())
    assert (taken.failure, taken.end_s) == ("timeout", 50.0)
    assert tally.lost_usd > 0
    assert ask_once([1.0], answer(reason="refusal"))[0].failure == "refusal"
    assert ask_once([], answer("", "filtered"))[0].failure == "filtered"
    assert ask_once([], answer(""))[0].failure == "empty"


def test_a_wrong_key_and_a_spent_cap_end_all() -> None:
    with pytest.raises(AccessFailure):
        ask_once([], AccessFailure("401"))
    with pytest.raises(CapReached):
        ask_once([], answer(), cap_usd=5.0)


def test_an_answer_whose_tokens_nobody_counts_may_have_cost_the_most() -> None:
    _, tally = ask_once([1.0], answer(usage=None))
    assert tally.lost_usd == Ledger(TARIFF, 100.0, Tally()).most_usd(CHAT, SETTINGS) > 0


def test_tokens_are_counted_by_a_tokenizer_only_where_the_server_does_not() -> None:
    def count(text: str) -> int:
        return len(text.split())

    assert ask_once([1.0, 2.0], answer(usage=None), count=count)[0].num_completion_tokens == 2
    assert ask_once([1.0, 2.0], answer(), count=count)[0].num_completion_tokens == 5
    assert ask_once([1.0, 2.0], answer(usage=None))[0].num_completion_tokens is None


# --- figures ---


def taken(sent: float, pieces: tuple[float, ...], tokens: int | None = 5, **more: Any) -> Taken:
    return Taken(sent, sent, pieces, pieces[-1] if pieces else sent + 9.0, num_completion_tokens=tokens, **more)


POINT = [
    taken(0.0, (1.0, 2.0, 3.0)),  # TPOT 0.5
    taken(0.0, (2.0, 4.0, 6.0), num_prompt_tokens=7),  # TPOT 1
    taken(1.0, (1.5,), 1),
    taken(1.0, (), None, failure="timeout", why="slow"),
]


def test_figures_against_numbers_by_hand() -> None:
    found = describe_load(closed(2), POINT, Objective(ttft_s=1.5, tpot_s=0.75))
    assert found["duration_s"] == 10.0
    assert found["ttft_s"]["values"] == [1.0, 2.0, 0.5]
    assert found["tpot_s"]["values"] == [0.5, 1.0]
    assert found["latency_s"]["values"] == [3.0, 6.0, 0.5]
    assert (found["itl_s"]["num"], found["itl_s"]["p50"]) == (4, 1.5)
    assert (found["tokens_per_s"], found["requests_per_s"]) == (1.1, 0.3)
    assert found["goodput"] == {
        "objective": {"ttft_s": 1.5, "tpot_s": 0.75},
        "num_met": 2,
        "requests_per_s": 0.2,
    }  # the first, and the one of a single token; what failed meets nothing
    assert (found["num_requests"], found["num_answered"]) == (4, 3)
    assert (found["failures"], found["why_failed"]) == ({"timeout": 1}, {"timeout": "slow"})
    assert found["tokens"]["completion"] == 11
    assert found["tokens"]["prompt"] is None
    assert (found["most_under_way"], found["num_pieces"]) == (4, 7)
    assert found["load"] == {"concurrency": 2}
    assert describe_load(paced(2.5), POINT, Objective())["load"] == {"request_rate_per_s": 2.5}


def test_tokens_that_nobody_counts_are_not_measured_and_never_pieces() -> None:
    found = describe_load(closed(1), [taken(0.0, (1.0, 2.0), None)], Objective(tpot_s=1.0))
    assert (found["tokens_per_s"], found["tpot_s"], found["goodput"]) == (None, None, None)
    assert "no tokenizer is named" in found["not_measured"]["tokens_per_s"]
    assert found["ttft_s"]["p50"] == 1.0
    whole = describe_load(closed(1), [taken(0.0, (1.0,))], Objective())
    assert (whole["tpot_s"], whole["itl_s"]) == (None, None)
    assert whole["not_measured"]["tpot_s"] == "no answer came in more than one piece"


def test_reasoning_that_is_not_shown_is_no_part_of_tpot() -> None:
    pieces = (1.0, 2.0, 3.0)
    assert taken(0.0, pieces, 105, num_reasoning_tokens=100).tpot_s == 0.5
    assert taken(0.0, pieces, 105, num_reasoning_tokens=100, num_thoughts=2).tpot_s == 2 / 104


def test_another_objective_judges_the_same_answers_anew() -> None:
    assert describe_goodput(POINT, Objective(latency_s=5.0), 10.0) == {
        "objective": {"latency_s": 5.0},
        "num_met": 2,
        "requests_per_s": 0.2,
    }
    assert describe_goodput(POINT, Objective(), 10.0) is None


# --- what is said ---


def test_prompts_are_as_long_as_the_server_counts_and_none_begins_like_another() -> None:
    words = Words(0, "a1b2")

    def count(num_words: int) -> int:  # a server with three tokens for two words, and a template of 20
        return 20 + num_words * 3 // 2

    words.calibrate((40, count(40)), (80, count(80)))
    assert count(words.num_words(512)) == pytest.approx(512, abs=2)
    texts = [words.chat(f"served 4 x 512+16 {number}", 50)[0].text for number in range(100)]
    beginnings = {text.partition(":")[0] for text in texts}
    assert len(beginnings) == 100
    assert all(text.startswith("a1b2-served-4-x-512+16-") for text in texts)
    again, other = Words(0, "ffff"), Words(1, "a1b2")
    name = "served 4 x 512+16 0"
    assert again.chat(name, 50)[0].text.partition(":")[2] == texts[0].partition(":")[2]
    assert again.chat(name, 50)[0].text[:4] != texts[0][:4]  # nor like the same in another sitting
    assert other.chat(name, 50)[0].text != texts[0]


def test_a_server_that_counts_nothing_sensible_is_taken_to_count_words() -> None:
    words = Words(0, "a1b2")
    words.calibrate((40, 0), (80, 0))
    assert words.num_words(512) == 512


def test_the_points_of_a_sweep() -> None:
    spec = ServedSpec(concurrencies=(1, 8), request_rates=(0.5,), prompt_tokens=100, completion_tokens=20)
    assert [load.key for load in plan_loads(spec)] == [
        "served 1 x 100+20",
        "served 8 x 100+20",
        "served 0.5/s x 100+20",
    ]

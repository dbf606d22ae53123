from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Path, budgets, few_shot_requests, make_request, pack_paths, token_requests
from hypothesis import given
from tiny_models import VOCAB, largest_difference, plain_loglikelihoods, tiny_model

from bench.engine.forward import Forward, PackedForward
from bench.engine.pack import Budget, Pack, Plan, TokenRequest, plan_packs
from bench.engine.scorer import SMALLEST_BUDGET, Outcome, PackScored, Scorer
from bench.records import Loglikelihood

SIZE = 50
REQUESTS = few_shot_requests(SIZE, shared=150, passage=90, own=9, num_passages=6)
BUDGET = Budget(2 * SMALLEST_BUDGET, 40)
ERRORS = [
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
]


def logits_after(path: Path) -> torch.Tensor:
    """Made-up logits of the token after `path`, the same each time; (SIZE,)."""
    seed = abs(hash(path)) % 2**32
    return torch.from_numpy(np.random.default_rng(seed).normal(size=SIZE) * 3)


class MadeUp:
    """A forward whose logits follow from a token's path, which it knows as a model does: from a trunk buffer."""

    num_forwarded = 0

    def __init__(self, change: Callable[[Path, torch.Tensor], torch.Tensor] = lambda _, row: row) -> None:
        self.change = change
        self.calls = 0
        self.before: Callable[[int, Sequence[Path]], None] = lambda *_: None
        self.buffer: dict[int, Path] = {}
        self.starts = 0

    def start(self, plan: Plan) -> None:
        self.buffer = {}
        self.starts += 1

    def logits(self, pack: Pack) -> torch.Tensor:
        paths = pack_paths(pack, self.buffer[pack.prefix_length - 1] if pack.prefix_length else ())
        self.calls += 1
        self.before(self.calls - 1, paths)
        if pack.is_trunk:
            self.buffer.update(zip(pack.positions.tolist(), paths, strict=True))
        rows = [self.change(paths[row], logits_after(paths[row])) for row in pack.rows.tolist()]
        return torch.stack(rows).float() if rows else torch.empty(0, SIZE)

    @contextmanager
    def plain(self) -> Iterator[Any]:
        yield None


def rows_of(request: TokenRequest) -> list[Path]:
    """The paths whose logits a request needs."""
    inputs = tuple(request.inputs.tolist())
    return [inputs[: len(inputs) - len(request.targets) + 1 + place] for place in range(len(request.targets))]


def by_hand(request: TokenRequest) -> tuple[float, bool]:
    rows = torch.stack([logits_after(path) for path in rows_of(request)]).float().double()
    targets = torch.tensor(request.targets)
    values = torch.log_softmax(rows, dim=-1).gather(1, targets[:, None])
    return float(values.sum()), bool((rows.argmax(-1) == targets).all())


EXPECTED = [by_hand(request) for request in REQUESTS]


def run(
    forward: Forward,
    budget: Budget,
    requests: Sequence[TokenRequest] = REQUESTS,
    pending: set[int] | None = None,
    *,
    runs_ahead: bool = False,
) -> tuple[Scorer, list[PackScored], dict[int, Outcome]]:
    """Score; each request's outcome must come once."""
    scorer = Scorer(forward, budget, runs_ahead=runs_ahead)
    wanted = set(range(len(requests))) if pending is None else pending
    scored = list(scorer.score(requests, plan_packs(requests, budget), wanted))
    outcomes: dict[int, Outcome] = {}
    for one in scored:
        assert outcomes.keys().isdisjoint(one.outcomes)
        outcomes.update(one.outcomes)
    return scorer, scored, outcomes


def check(outcomes: dict[int, Outcome], expected: Sequence[tuple[float, bool]] = EXPECTED) -> None:
    assert outcomes.keys() == set(range(len(expected)))
    assert largest_difference([outcomes[index] for index in range(len(expected))], expected) < 1e-4


@pytest.mark.parametrize("runs_ahead", [False, True])
@pytest.mark.parametrize("budget", [Budget(10_000, 10_000), BUDGET, Budget(30, 5)])
def test_loglikelihoods_and_greediness(budget: Budget, runs_ahead: bool) -> None:
    _, scored, outcomes = run(MadeUp(), budget, runs_ahead=runs_ahead)
    check(outcomes)
    for index, outcome in outcomes.items():
        assert isinstance(outcome, Loglikelihood)
        assert outcome.num_tokens == len(REQUESTS[index].targets)
    assert sum(one.num_tokens for one in scored) == plan_packs(REQUESTS, budget).num_distinct


def test_greedy_is_all_tokens_most_probable() -> None:
    path = (1, 2, 3)
    best = [int(logits_after(path).argmax())]
    best.append(int(logits_after((*path, best[0])).argmax()))
    wrong = (best[1] + 1) % SIZE
    cases = [(best, True), ([best[0], wrong], False), ([wrong, best[1]], False)]
    requests = [make_request([*path, *targets[:-1]], targets) for targets, _ in cases]
    _, _, outcomes = run(MadeUp(), BUDGET, requests)
    assert [outcomes[i].is_greedy for i in range(3)] == [is_greedy for _, is_greedy in cases]  # type: ignore[union-attr]


@given(token_requests(), budgets)
def test_only_what_is_pending_is_scored_and_only_its_packs_are_run(
    requests: list[TokenRequest], budget: Budget
) -> None:
    requests = [make_request(own.inputs, [token % SIZE for token in own.targets]) for own in requests]
    pending = set(range(0, len(requests), 2))
    plan = plan_packs(requests, budget)
    forward = MadeUp()
    _, scored, outcomes = run(forward, budget, requests, pending)
    assert outcomes.keys() == pending
    assert forward.calls == len(scored) == len(plan.needed_for(pending))
    for index in pending:
        outcome = outcomes[index]
        assert isinstance(outcome, Loglikelihood)
        assert outcome.value == pytest.approx(by_hand(requests[index])[0], abs=1e-4)


@pytest.mark.parametrize("runs_ahead", [False, True])
def test_one_pack_is_started_before_the_last_one_is_handed_out_and_no_more(runs_ahead: bool) -> None:
    forward = MadeUp()
    plan = plan_packs(REQUESTS, BUDGET)
    scorer = Scorer(forward, BUDGET, runs_ahead=runs_ahead)
    started = [forward.calls for _ in scorer.score(REQUESTS, plan, set(range(len(REQUESTS))))]
    num = len(plan.packs)
    assert started == [min(num, done + runs_ahead) for done in range(1, num + 1)]


@pytest.mark.parametrize("runs_ahead", [False, True])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_running_out_of_memory_in_any_pack_halves_the_budget_and_loses_nothing(
    error: Exception, runs_ahead: bool
) -> None:
    sizes = [len(pack.tokens) for pack in plan_packs(REQUESTS, BUDGET).packs]
    assert len(sizes) > 10
    for index in range(len(sizes)):
        forward = MadeUp()

        def fail(call: int, paths: Sequence[Path], index: int = index) -> None:
            if call == index:
                raise error

        forward.before = fail
        scorer, scored, outcomes = run(forward, BUDGET, runs_ahead=runs_ahead)
        check(outcomes)
        assert (scorer.num_halvings, forward.starts) == (1, 2)
        assert scorer.budget == Budget(BUDGET.tokens // 2, BUDGET.rows // 2)
        assert [one.num_tokens for one in scored[:index]] == sizes[:index]
        assert scored[index] == PackScored({}, 0, None)
        assert all(one.num_tokens <= scorer.budget.tokens for one in scored[index:])


def test_the_budget_is_halved_as_often_as_needed() -> None:
    forward = MadeUp()

    def fail(call: int, paths: Sequence[Path]) -> None:
        if len(paths) > SMALLEST_BUDGET:
            raise MemoryError

    forward.before = fail
    scorer, _, outcomes = run(forward, Budget(8 * SMALLEST_BUDGET, 1000))
    check(outcomes)
    assert (scorer.num_halvings, scorer.budget) == (3, Budget(SMALLEST_BUDGET, 125))


@pytest.mark.parametrize("budget", [Budget(SMALLEST_BUDGET, 40), BUDGET])
def test_what_fits_nowhere_is_an_error_and_all_else_is_scored(budget: Budget) -> None:
    """Whatever pack a certain token is in finds no memory: at the smallest budget its requests are given up."""
    smallest = plan_packs(REQUESTS, Budget(SMALLEST_BUDGET, 20 if budget == BUDGET else 40))
    for victim in (0, 30, len(REQUESTS) // 2, len(REQUESTS) - 2):
        token = tuple(REQUESTS[victim].inputs.tolist())
        forward = MadeUp()

        def fail(call: int, paths: Sequence[Path], token: Path = token) -> None:
            if token in paths:
                raise MemoryError

        forward.before = fail
        _, _, outcomes = run(forward, budget)
        assert outcomes.keys() == set(range(len(REQUESTS)))
        lost = {index for index, outcome in outcomes.items() if isinstance(outcome, str)}
        assert victim in lost
        assert {outcomes[index] for index in lost} == {"out of memory even in the smallest pack"}
        kept = sorted(outcomes.keys() - lost)
        assert largest_difference([outcomes[i] for i in kept], [EXPECTED[i] for i in kept]) < 1e-4
        assert max(map(len, [pack.tokens for pack in smallest.packs])) <= SMALLEST_BUDGET
        assert len(lost) <= max(len(set(pack.target_requests.tolist())) for pack in smallest.packs)


def test_what_hangs_from_a_trunk_that_fits_nowhere_is_lost_with_it() -> None:
    start = REQUESTS[0].inputs.tolist()[:150]
    forward = MadeUp()

    def fail(call: int, paths: Sequence[Path]) -> None:
        if tuple(start[:70]) in paths:
            raise MemoryError

    forward.before = fail
    _, _, outcomes = run(forward, Budget(SMALLEST_BUDGET, 100))
    lost = {index for index, outcome in outcomes.items() if isinstance(outcome, str)}
    assert lost == {i for i, request in enumerate(REQUESTS) if request.inputs.tolist()[:70] == start[:70]}
    assert lost != outcomes.keys()


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("no"), KeyError()]
)
def test_other_errors_are_not_taken_for_a_lack_of_memory(error: Exception) -> None:
    forward = MadeUp()

    def fail(call: int, paths: Sequence[Path]) -> None:
        raise error

    forward.before = fail
    with pytest.raises(type(error)):
        run(forward, BUDGET)
    assert forward.calls == 1


def poisoned(value: float, place: Callable[[TokenRequest], int]) -> tuple[MadeUp, set[int]]:
    """One row of logits has `value` at one place; returns the forward and the requests that need that row."""
    victim = REQUESTS[30]
    bad = rows_of(victim)[-1]

    def change(path: Path, row: torch.Tensor) -> torch.Tensor:
        if path == bad:
            row = row.clone()
            row[place(victim)] = value
        return row

    return MadeUp(change), {index for index, request in enumerate(REQUESTS) if bad in rows_of(request)}


@pytest.mark.parametrize("budget", [Budget(10_000, 10_000), Budget(30, 5)])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("offset", [0, 1])
def test_a_row_without_numbers_is_an_error_of_exactly_the_requests_that_need_it(
    value: float, offset: int, budget: Budget
) -> None:
    """At the target's own logit or at any other."""
    forward, hit = poisoned(value, lambda victim: (victim.targets[-1] + offset) % SIZE)
    assert 1 <= len(hit) < len(REQUESTS) // 2
    _, _, outcomes = run(forward, budget)
    assert {index for index, outcome in outcomes.items() if isinstance(outcome, str)} == hit
    assert all("instead of a loglikelihood" in str(outcomes[index]) for index in hit)
    kept = sorted(outcomes.keys() - hit)
    assert largest_difference([outcomes[i] for i in kept], [EXPECTED[i] for i in kept]) < 1e-4


def test_a_target_of_probability_zero_is_an_error_and_another_token_of_probability_zero_is_none() -> None:
    victim = REQUESTS[30]
    forward, hit = poisoned(-math.inf, lambda own: own.targets[-1])
    _, _, outcomes = run(forward, BUDGET)
    failed = {index for index, outcome in outcomes.items() if isinstance(outcome, str)}
    assert failed == {index for index in hit if victim.targets[-1] in REQUESTS[index].targets}
    others = {token for index in hit for token in REQUESTS[index].targets}
    free = next(token for token in range(SIZE) if token not in others)
    forward, _ = poisoned(-math.inf, lambda _: free)
    assert not any(isinstance(outcome, str) for outcome in run(forward, BUDGET)[2].values())


def test_a_model_that_runs_out_of_memory_halfway_through_a_pack_goes_on() -> None:
    """The real way: what the interrupted pack left in the trunk cache must not be seen."""
    model = tiny_model("llama")
    requests = few_shot_requests(VOCAB, shared=90, passage=50, own=8)
    expected = plain_loglikelihoods(model, requests)
    budget = Budget(2 * SMALLEST_BUDGET, 100)
    num_packs = len(plan_packs(requests, budget).packs)
    for index in range(num_packs):
        own = copy.deepcopy(model)
        calls = 0

        def fail(module: torch.nn.Module, inputs: Any, index: int = index) -> None:
            nonlocal calls
            calls += 1
            if calls == index + 1:
                raise MemoryError

        own.model.layers[1].mlp.register_forward_pre_hook(fail)
        scorer, _, outcomes = run(PackedForward(own, "sdpa"), budget, requests)
        check(outcomes, expected)
        assert scorer.num_halvings == 1

"""What ranks agree on, as threads with one store."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import bench.team
from bench.errors import PlanError, SteelyardError
from bench.measured import SECONDS, Measured, put_together
from bench.team import ALONE, OutOfStep, Team


class Store(dict[str, str]):
    """As torch's: values come back as bytes."""

    def set(self, key: str, value: str) -> None:
        self[key] = value

    def check(self, keys: list[str]) -> bool:
        return all(key in self for key in keys)

    def get(self, key: str) -> bytes:  # type: ignore[override]
        return self[key].encode()


def on_all(size: int, work: Callable[[Team], Any], **more: Any) -> list[Any]:
    """What `work` returned or raised on each rank."""
    store = Store()

    def one(rank: int) -> Any:
        try:
            return work(Team(rank, size, store, **more))
        except BaseException as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size)))


def test_all_go_on_when_nothing_fails() -> None:
    assert on_all(3, lambda team: team.agree(lambda: team.rank * 2)) == [0, 2, 4]
    assert on_all(3, lambda team: team.gather({"rank": team.rank})) == [[{"rank": 0}, {"rank": 1}, {"rank": 2}]] * 3
    assert ALONE.agree(lambda: 7) == ALONE.in_turn(lambda: 7) == ALONE.gather(7)[0] == 7


def test_what_fails_on_one_fails_on_all_and_they_stay_together() -> None:
    def work(team: Team) -> Any:
        def action() -> None:
            if team.rank == 1:
                raise PlanError("plan.yaml: wrong")

        try:
            team.agree(action)
        except SteelyardError as error:
            return [str(error), error.exit_code, team.gather(team.rank)]

    others = ["rank 1 of 3: plan.yaml: wrong", 2, [0, 1, 2]]
    assert on_all(3, work) == [others, ["plan.yaml: wrong", 2, [0, 1, 2]], others]


def test_a_foreign_exception_is_the_same_one_where_it_was_raised() -> None:
    def work(team: Team) -> None:
        team.agree(lambda: 1 // team.rank)

    zero, one = on_all(2, work)
    assert isinstance(zero, ZeroDivisionError)
    assert str(one).startswith("rank 0 of 2: ZeroDivisionError: ")
    with pytest.raises(ZeroDivisionError):
        ALONE.agree(lambda: 1 // 0)


def test_in_turn_the_first_is_done_before_the_others_begin() -> None:
    done: list[int] = []

    def work(team: Team) -> None:
        def action() -> None:
            time.sleep(0.05 if team.is_first else 0)
            done.append(team.rank)

        team.in_turn(action)

    on_all(3, work)
    assert done[0] == 0
    assert sorted(done) == [0, 1, 2]
    done.clear()

    def failing(team: Team) -> None:
        team.in_turn(lambda: next(iter([])) if team.is_first else done.append(1))  # type: ignore[func-returns-value]

    zero, one = on_all(2, failing)
    assert isinstance(zero, StopIteration)
    assert isinstance(one, SteelyardError)
    assert done == []


def test_in_lockstep_who_fails_alone_ends_and_who_fails_with_all_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.team, "_PATIENCE_S", 0.2)

    def alone(team: Team) -> Any:
        if team.rank == 0:
            return None  # it waits inside the model
        return team.agree(lambda: next(iter([])))

    assert isinstance(on_all(2, alone, is_lockstep=True)[1], OutOfStep)

    def both(team: Team, delay_s: float) -> Any:
        def action() -> None:
            time.sleep(delay_s * team.rank)
            raise KeyError

        return team.agree(action)

    found = on_all(2, lambda team: both(team, 0), is_lockstep=True)
    assert [type(error) for error in found] == [KeyError] * 2
    found = on_all(2, lambda team: both(team, 0.5), is_lockstep=True)  # the other fails because the first has gone
    assert [type(error) for error in found] == [OutOfStep] * 2


def test_told_is_what_was_told_last() -> None:
    def work(team: Team) -> list[Any]:
        team.tell("first")
        team.tell([team.rank])
        team.gather(None)
        return team.told()

    assert on_all(2, work) == [[[0], [1]]] * 2


def test_meanwhile_is_called_while_waiting() -> None:
    calls: list[int] = []

    def work(team: Team) -> None:
        team.agree(lambda: time.sleep(0.2 * team.rank), meanwhile=lambda: calls.append(team.rank))

    on_all(2, work)
    assert calls.count(0) >= 3


def test_measurements_put_together() -> None:
    def part(factor: int) -> Measured:
        return Measured(
            seconds={name: factor + place for place, name in enumerate(SECONDS)},
            num_forwarded=10 * factor,
            timed_flops=100 * factor,
            matmul_flops_per_s=[1.0 * factor, 2.0 * factor, 3.0 * factor],
            num_matmul_measurements=factor,
            peak_memory_bytes=1000 * factor,
            num_halvings=factor,
            notes=["all", f"note {factor}"],
            num_shown=factor,
        )

    whole = put_together([part(1), part(3)], is_lockstep=False)
    assert whole.seconds == part(3).seconds
    assert (whole.num_forwarded, whole.timed_flops, whole.num_shown) == (40, 400, 4)
    assert whole.matmul_flops_per_s == [4.0, 8.0, 12.0]
    assert (whole.num_matmul_measurements, whole.peak_memory_bytes) == (4, 3000)
    assert whole.notes == ["all", "note 1", "note 3"]
    assert whole.timed_floor_s == 50.0
    together = put_together([part(1), part(1)], is_lockstep=True)
    assert (together.num_forwarded, together.timed_flops, together.num_shown) == (10, 100, 1)
    assert together.matmul_flops_per_s == [2.0, 4.0, 6.0]

"""What 1,000 questions cost: by the plan's prices or the service's charges, and nothing without them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError
from report_runs import decode_point, make_run, make_speed_run, served_point

from bench.config import CostSpec
from bench.records import Completion
from bench.report.money import cost_usd, cost_usd_per_million, energy_wh, point_usd_per_million
from bench.report.results import build_report


def test_without_a_price_there_is_no_cost_but_the_reason() -> None:
    run = make_run("fake")
    assert cost_usd(run).value is None
    assert "the plan has no prices" in str(cost_usd(run).reason)
    other = CostSpec(machine_usd_per_hour=1.8)
    assert cost_usd(run, other).value == pytest.approx(0.25)
    own = make_run("fake", config={"costs": {"machine_usd_per_hour": 0.0, "energy_usd_per_kwh": None}})
    assert cost_usd(own, other).value == 0  # the plan says it costs nothing
    report = build_report([run])
    assert "cost_usd_per_1000" in report.left_out
    assert any("the plan has no prices" in text for text in report.remarks)


def test_energy_that_was_not_measured_is_said_to_be_missing_in_the_cost() -> None:
    run = make_run("fake")
    run.info["energy"] = {"total_j": None, "scope": "cpu", "not_measured": {"cpu": "no RAPL"}}
    assert energy_wh(run).reason == "energy: not measured, no RAPL"
    both = cost_usd(run, CostSpec(machine_usd_per_hour=1.8, energy_usd_per_kwh=0.3))
    assert both.value == pytest.approx(0.25)
    assert "of the machine's time only" in str(both.reason)
    assert cost_usd(run, CostSpec(energy_usd_per_kwh=0.3)).value is None


def test_an_api_costs_what_it_charged() -> None:
    run = make_run("gpt-4o", lane="generate")
    run.info["model"]["kind"] = "api"
    assert cost_usd(run, CostSpec(machine_usd_per_hour=9)).value == pytest.approx(2.0)
    free = replace(run, scores=(*run.scores[1:], replace(run.scores[0], completion=Completion("A"))))
    assert cost_usd(free).value is None
    assert "1 completion" in str(cost_usd(free).reason)


def test_a_million_tokens_of_a_local_model_are_those_of_questions_put_once() -> None:
    run = make_run("fake")  # 40 questions in 20 s: at 1.80 an hour, 0.01
    run.info.update(tokens={"logical": 64_000, "distinct": 9_000}, requests={"num": 160})
    prices = CostSpec(machine_usd_per_hour=1.8)
    # 160 requests of 400 tokens; a service is asked 40 questions of 400 tokens: 16,000 for 0.01
    assert cost_usd_per_million(run, prices).value == pytest.approx(0.01 / 16_000 * 1e6)
    questions = cost_usd(run, prices).value
    assert questions is not None
    assert cost_usd_per_million(run, prices).value == pytest.approx(questions / 1000 / 400 * 1e6)
    del run.info["requests"]
    assert cost_usd_per_million(run, prices).value is None
    assert "were not counted" in str(cost_usd_per_million(run, prices).reason)


def test_a_million_tokens_of_an_api_are_what_it_charged_by_its_own_count() -> None:
    run = make_run("gpt-4o", lane="generate")
    run.info["model"]["kind"] = "api"
    assert "were not counted" in str(cost_usd_per_million(run).reason)
    text = Completion("A", cost_usd=0.002, num_prompt_tokens=90, num_completion_tokens=10)
    counted = replace(run, scores=tuple(replace(score, completion=text) for score in run.scores))
    assert cost_usd_per_million(counted).value == pytest.approx(0.002 / 100 * 1e6)
    assert cost_usd_per_million(counted).reason is None  # no utilisation of ours


def test_what_stands_idle_is_paid_for_by_what_works_and_the_footnote_says_so() -> None:
    run = make_run("fake", config={"costs": {"machine_usd_per_hour": 1.8, "energy_usd_per_kwh": 0.36}})
    run.info["energy"] = {"total_j": 40_000.0, "scope": "gpu"}
    whole = cost_usd(run)
    assert whole.value == pytest.approx(0.25 + 0.1)
    assert "at 100 % utilisation" in str(whole.reason)
    run.info["config"]["costs"]["utilisation"] = 0.4
    part = cost_usd(run)
    assert part.value == pytest.approx(0.25 / 0.4 + 0.1)  # energy is what the work itself used
    assert "at 40 % utilisation" in str(part.reason)
    assert any("at 40 % utilisation" in text for text in build_report([run]).footnotes)


@pytest.mark.parametrize("share", [0, -0.5, 1.01])
def test_a_utilisation_is_a_share(share: float) -> None:
    with pytest.raises(ValidationError, match="utilisation"):
        CostSpec.model_validate({"utilisation": share})
    assert not CostSpec(utilisation=0.5).has_prices


def test_a_point_costs_its_time_and_its_energy() -> None:
    run = make_speed_run("fake", config={"costs": {"machine_usd_per_hour": 3.6, "energy_usd_per_kwh": 0.36}})
    # 1,000 tokens a second: a million take 1,000 s, which is 1.00; half a joule each is 0.1389 kWh, which is 0.05
    energy = {"scope": "gpu", "total_j": 9.0, "per_token_j": 0.5, "not_measured": {}}
    found = point_usd_per_million(run.info, decode_point(20, 0.02, energy=energy), None)
    assert found.value == pytest.approx(1.05)
    without = point_usd_per_million(run.info, decode_point(20, 0.02), None)
    assert without.value == pytest.approx(1.0)
    assert "of the machine's time only, since of its energy: energy: not measured, no counter" in str(without.reason)
    assert "no prices" in str(point_usd_per_million(make_speed_run("fake").info, decode_point(1, 0.1), None).reason)


def test_a_served_point_costs_what_was_charged_or_what_a_server_of_ones_own_costs() -> None:
    charged = point_usd_per_million({}, served_point(4, cost_usd=0.01), None)
    assert charged.value == pytest.approx(0.01 / 340 * 1e6)  # of 300 tokens read and 40 written
    own = point_usd_per_million({}, served_point(25), CostSpec(machine_usd_per_hour=3.6, utilisation=0.5))
    assert own.value == pytest.approx(2.0)  # 1,000 tokens a second, of an hour at 7.20
    free = point_usd_per_million({}, served_point(4, cost_usd=0.0), None)
    assert "no prices" in str(free.reason)  # that a server charges nothing is not what it costs
    uncounted = {**served_point(4, cost_usd=0.01), "tokens": {"prompt": None, "completion": None}}
    assert point_usd_per_million({}, uncounted, None).value is None
    silent = {**served_point(4), "tokens_per_s": None}
    assert point_usd_per_million({}, silent, CostSpec(machine_usd_per_hour=1)).value is None

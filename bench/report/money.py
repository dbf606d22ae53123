"""What questions and tokens cost: what a service charged, or this machine's time and energy at the plan's prices.

Nothing is assumed: without a price there is no cost, and the reason stands in its place. A local model's cost goes by
the time in which it worked; loading is left out, since it does not grow with questions. Of a machine that is paid for
by the hour a share `utilisation` works, so that an hour of work costs the price of an hour ÷ that share; energy is what
the work itself used.

A token of a scored run is counted as a service that is asked each question once would count it: the whole prompt,
shots and all, and what is written. So USD per million tokens stand beside those that a service charged for the same
task; that a prompt's tokens are computed once for all questions that share them is why a local price can be low.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.config import CostSpec
from bench.imports import is_imported
from bench.report.blocks import metric_of
from bench.report.text import look_up, plural
from bench.runs.reading import Run

_HOUR_S = 3600.0
_KWH_J = 3.6e6
PER = 1000
"""Questions that cost and energy are given for."""

MILLION = 1_000_000
"""Tokens that cost is given for."""

_NO_PRICES = "cost: the plan has no prices (`costs`)"


@dataclass(frozen=True, slots=True)
class Amount:
    """An amount for 1,000 questions, or a million tokens.

    Attributes:
        value: None where it is not known.
        reason: why it is not known, or what must be known of it.
    """

    value: float | None
    reason: str | None = None


def energy_wh(run: Run) -> Amount:
    """Watt-hours for 1,000 questions."""
    num, energy = metric_of(run).get("num_scored"), run.info.get("energy") or {}
    total_j = energy.get("total_j")
    if total_j is not None and num:
        return Amount(total_j / num * PER / _HOUR_S)
    if is_imported(run.info) or look_up(run.info, "model.kind") == "api":
        return Amount(None, "energy: not measured, the model ran elsewhere")
    return Amount(None, _why_no_energy(energy))


def cost_usd(run: Run, otherwise: CostSpec | None = None) -> Amount:
    """USD for 1,000 questions.

    Args:
        run: with its scores where its lane is `generate`, since each completion has its own charge.
        otherwise: the prices for runs whose own plan has none.
    """
    num = metric_of(run).get("num_scored")
    return _for_each(_spent_usd(run, otherwise), num, PER, "cost: no question is scored")


def cost_usd_per_million(run: Run, otherwise: CostSpec | None = None) -> Amount:
    """USD for a million tokens of the task, as a service that is asked each question once counts them; see above.

    Args:
        run: as for `cost_usd`.
        otherwise: likewise.
    """
    return _for_each(_spent_usd(run, otherwise), _num_tokens(run), MILLION, "cost of tokens: they were not counted")


def point_usd_per_million(info: Mapping[str, Any], point: Mapping[str, Any], otherwise: CostSpec | None) -> Amount:
    """USD for a million tokens at a point of a speed run.

    These are tokens read (prefill), written (decode, a server of one's own) or distinct (scoring); where a service
    charged for its answers, all that it charged for.

    Args:
        info: run.json of the speed run.
        point: the point's record.
        otherwise: the prices for runs whose own plan has none.
    """
    answered = [one for one in point.get("requests") or () if one.get("failure") is None]
    if charged := [one["cost_usd"] for one in answered if one.get("cost_usd")]:
        counts = (point["tokens"]["prompt"], point["tokens"]["completion"])
        num = None if None in counts or len(charged) < len(answered) else sum(counts)
        return _for_each(Amount(sum(charged)), num, MILLION, "cost of tokens: not all were counted and charged for")
    per_s, energy = point.get("tokens_per_s"), point.get("energy") or {}
    if per_s is None:
        return Amount(None, "cost of tokens: they were not counted")
    per_token_j = energy.get("per_token_j")
    joules = Amount(per_token_j, None if per_token_j is not None else _why_no_energy(energy))
    return _for_each(_worked_usd(prices_of(info, otherwise), 1 / per_s, joules), 1, MILLION, None)


def prices_of(info: Mapping[str, Any], otherwise: CostSpec | None = None) -> CostSpec:
    """The prices of a run: its own plan's, else those given."""
    own = CostSpec.model_validate(look_up(info, "config.costs") or {})
    return own if own.has_prices or otherwise is None else otherwise


def _for_each(total: Amount, num: float | None, per: int, why_none: str | None) -> Amount:
    if total.value is None:
        return total
    return Amount(total.value / num * per, total.reason) if num else Amount(None, why_none)


def _spent_usd(run: Run, otherwise: CostSpec | None) -> Amount:
    """What all questions that have a score cost together."""
    if is_imported(run.info):
        return Amount(None, "cost: not recorded with the imported answers")
    if look_up(run.info, "model.kind") == "api":
        return _charged_usd(run)
    energy = run.info.get("energy") or {}
    total_j = energy.get("total_j")
    joules = Amount(total_j, None if total_j is not None else _why_no_energy(energy))
    return _worked_usd(prices_of(run.info, otherwise), look_up(run.info, "timing.score_s"), joules)


def _charged_usd(run: Run) -> Amount:
    scored = [score for score in run.scores if score.error is None]
    charges = [score.completion.cost_usd for score in scored if score.completion is not None]
    known = [charge for charge in charges if charge is not None]
    if not scored or len(known) < len(scored):
        return Amount(None, f"cost: not known of {plural(len(scored) - len(known), 'completion')}")
    return Amount(sum(known))


def _worked_usd(prices: CostSpec, seconds: float | None, joules: Amount) -> Amount:
    """What so many seconds of work cost, with the energy that they took."""
    if not prices.has_prices:
        return Amount(None, _NO_PRICES)
    parts, remarks = [], []
    if prices.machine_usd_per_hour is not None:
        if not seconds:
            return Amount(None, "cost: no time was measured")
        parts.append(seconds / _HOUR_S * prices.machine_usd_per_hour / prices.utilisation)
        remarks.append(_describe(prices))
    if prices.energy_usd_per_kwh is not None:
        if joules.value is None and not parts:
            return Amount(None, f"cost: goes by energy alone, and of that: {joules.reason}")
        if joules.value is None:
            remarks.append(f"cost: of the machine's time only, since of its energy: {joules.reason}")
        else:
            parts.append(joules.value / _KWH_J * prices.energy_usd_per_kwh)
    return Amount(sum(parts), "; ".join(remarks) or None)


def _describe(prices: CostSpec) -> str:
    share = f"{100 * prices.utilisation:g} %"
    if prices.utilisation == 1:
        return f"cost: at {share} utilisation, as if every hour that is paid for were worked (costs.utilisation)"
    return f"cost: at {share} utilisation of the hours that are paid for (costs.utilisation)"


def _num_tokens(run: Run) -> float | None:
    """Tokens of all questions that have a score, each put once; None where they were not counted."""
    tokens, num = run.info.get("tokens") or {}, metric_of(run).get("num_scored")
    completions = [score.completion for score in run.scores if score.completion is not None and score.error is None]
    if completions:
        counts = [(one.num_prompt_tokens, one.num_completion_tokens) for one in completions]
        return None if any(None in pair for pair in counts) else sum((a or 0) + (b or 0) for a, b in counts)
    if run.info.get("lane") == "generate":  # whose scores were not read
        return sum(tokens.get(kind) or 0 for kind in ("prompt", "completion")) or None
    # the options of a question are requests of their own; one of average length stands for the question
    logical, num_requests = tokens.get("logical"), look_up(run.info, "requests.num")
    return logical / num_requests * num if logical and num_requests and num else None


def _why_no_energy(energy: Mapping[str, Any]) -> str:
    why = (energy.get("not_measured") or {}).get(energy.get("scope"))
    return f"energy: not measured{f', {why}' if why else ''}"

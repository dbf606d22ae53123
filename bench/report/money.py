"""What 1,000 questions cost: what a service charged, or this machine's time and energy at the plan's prices.

Nothing is assumed: without a price there is no cost, and the reason stands in its place. A local model's cost goes by
the time in which it scored, as if the machine did nothing else; loading is left out, since it does not grow with
questions.
"""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True)
class Amount:
    """An amount for 1,000 questions.

    Attributes:
        value: None where it is not known.
        reason: why it is not known, or what is missing in it.
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
    why = (energy.get("not_measured") or {}).get(energy.get("scope"))
    return Amount(None, f"energy: not measured{f', {why}' if why else ''}")


def cost_usd(run: Run, otherwise: CostSpec | None = None) -> Amount:
    """USD for 1,000 questions.

    Args:
        run: with its scores where its lane is `generate`, since each completion has its own charge.
        otherwise: the prices for runs whose own plan has none.
    """
    if is_imported(run.info):
        return Amount(None, "cost: not recorded with the imported answers")
    if look_up(run.info, "model.kind") == "api":
        return _charged(run)
    own: dict[str, Any] = look_up(run.info, "config.costs") or {}
    prices = CostSpec.model_validate(own) if any(price is not None for price in own.values()) else otherwise
    return _local(run, prices or CostSpec())


def _charged(run: Run) -> Amount:
    scored = [score for score in run.scores if score.error is None]
    charges = [score.completion.cost_usd for score in scored if score.completion is not None]
    known = [charge for charge in charges if charge is not None]
    if not scored or len(known) < len(scored):
        return Amount(None, f"cost: not known of {plural(len(scored) - len(known), 'completion')}")
    return Amount(sum(known) / len(scored) * PER)


def _local(run: Run, prices: CostSpec) -> Amount:
    num, seconds = metric_of(run).get("num_scored"), look_up(run.info, "timing.score_s")
    if prices.machine_usd_per_hour is None and prices.energy_usd_per_kwh is None:
        return Amount(None, "cost: the plan has no prices (`costs`)")
    parts, lacking = [], None
    if prices.machine_usd_per_hour is not None:
        if not seconds or not num:
            return Amount(None, "cost: no time was measured")
        parts.append(seconds / _HOUR_S * prices.machine_usd_per_hour / num * PER)
    if prices.energy_usd_per_kwh is not None:
        energy = energy_wh(run)
        if energy.value is None and not parts:
            return Amount(None, f"cost: goes by energy alone, and of that: {energy.reason}")
        if energy.value is None:
            lacking = f"cost: of the machine's time only, since of its energy: {energy.reason}"
        else:
            parts.append(energy.value * _HOUR_S / _KWH_J * prices.energy_usd_per_kwh)
    return Amount(sum(parts), lacking)

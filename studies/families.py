"""Are GPT-J and BLOOM scored as fast as LLaMA? Models of about 100M parameters, random weights, real token trees.

Three whole subjects of MMLU through each family, in turns; time is compared with what the same arithmetic takes at the
rate of matrix products measured in between. Goal: no family's share of that rate is more than 15 % below LLaMA's.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from common import arguments, describe, positive_int, publish, run_study, table, verdict
from programs import encode_form, open_session
from setting import prepare

from bench.engine.allocator import keep_freed_memory
from bench.engine.estimate import block_shapes, model_cost
from bench.engine.forward import PackedForward
from bench.engine.pack import Budget, Plan, TokenRequest, plan_packs
from bench.engine.plain import score_alone
from bench.engine.scorer import Scorer
from bench.engine.widen import widen
from bench.hf import AutoConfig, AutoModelForCausalLM
from bench.records import Loglikelihood
from bench.session import Session
from bench.telemetry.machine import num_threads
from bench.telemetry.matmul import MatmulProbe

_WIDTH, _LAYERS, _HEADS, _LENGTH = 768, 12, 12, 2048
_SHAPES: dict[str, dict[str, Any]] = {
    "llama": {
        "hidden_size": _WIDTH,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "intermediate_size": 2048,
        "max_position_embeddings": _LENGTH,
    },
    "gptj": {"n_embd": _WIDTH, "n_layer": _LAYERS, "n_head": _HEADS, "rotary_dim": 64, "n_positions": _LENGTH},
    "bloom": {"hidden_size": _WIDTH, "n_layer": _LAYERS, "n_head": _HEADS},
    "gpt_neox": {
        "hidden_size": _WIDTH,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "intermediate_size": 3072,
        "max_position_embeddings": _LENGTH,
    },
}
_LEAST = 0.85  # of LLaMA's share
_NUM_COMPARED = 4  # requests that are scored alone as well
_LARGEST_DIFFERENCE = 1e-4  # in fp32


@dataclass(slots=True)
class _Family:
    """One family's model, and what was measured of it; a round is one pass over all packs."""

    name: str
    forward: PackedForward
    probe: Callable[[], MatmulProbe]
    flops: int
    num_parameters: int
    rates: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    difference: float = 0.0


def study(options: argparse.Namespace) -> int:
    """Score every family in turns; returns the exit code."""
    if not torch.cuda.is_available():
        keep_freed_memory()
        torch.set_num_threads(num_threads())
    with prepare(options) as setting:
        session = open_session(setting, options.dtype)
        requests = [request for sample in encode_form(session, setting, "letter") for request in sample.requests]
        budget = session.choose_budget(None)
    plan = plan_packs(requests, budget)
    families = [_build(name, session, plan) for name in _SHAPES]
    for family in families:
        family.difference = _compare(family.forward, requests, budget)
    for number in range(options.repeats):
        for family in families:
            print(f"round {number + 1} of {options.repeats}: {family.name}", file=sys.stderr)
            _score(family, requests, plan, budget)
    first = statistics.median(families[0].shares)
    goals = {
        f"{family.name}: at least {_LEAST:.0%} of LLaMA's share": statistics.median(family.shares) >= _LEAST * first
        for family in families[1:]
    }
    if options.dtype == "float32":
        largest = max(family.difference for family in families)
        goals[f"max |Δ| from plain transformers ≤ {_LARGEST_DIFFERENCE:g}"] = largest <= _LARGEST_DIFFERENCE
    result = {
        "num_threads": num_threads(),
        "tokens": {"logical": plan.num_logical, "distinct": plan.num_distinct},
        "families": {family.name: _describe(family) for family in families},
        "goals": goals,
    }
    publish(options, "families", result, [*_render(options, families, plan), "", *verdict(goals)])
    return 0 if all(goals.values()) else 1


def _build(name: str, session: Session, plan: Plan) -> _Family:
    """Build a family's model, in the session's dtype and on its device."""
    shape = {"vocab_size": len(session.tokenizer), "bos_token_id": 1, "eos_token_id": 2, **_SHAPES[name]}
    config = AutoConfig.for_model(name, **shape)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval().to(device=session.device, dtype=session.dtype)
    if session.is_widened:
        widen(model)
    cost = model_cost(model, config)
    num_tokens = max(len(pack.tokens) for pack in plan.packs)
    return _Family(
        name=name,
        forward=PackedForward(model, session.route.attention),
        probe=partial(
            MatmulProbe,
            block_shapes(model),
            num_tokens,
            torch.float32 if session.is_widened else session.dtype,
            session.device,
        ),
        flops=cost.of(plan.packs).total,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def _compare(forward: PackedForward, requests: Sequence[TokenRequest], budget: Budget) -> float:
    """Largest difference of a few requests' loglikelihoods from those of the model's own forward pass."""
    some = [requests[i] for i in range(0, len(requests), len(requests) // _NUM_COMPARED)]
    with forward.plain() as model:
        alone = score_alone(model, some)
    found: dict[int, float] = {}
    for scored in Scorer(forward, budget).score(some, plan_packs(some, budget), set(range(len(some)))):
        for index, outcome in scored.outcomes.items():
            found[index] = outcome.value if isinstance(outcome, Loglikelihood) else float("inf")
    return max(abs(found[index] - value) for index, value in enumerate(alone))


def _score(family: _Family, requests: Sequence[TokenRequest], plan: Plan, budget: Budget) -> None:
    """One round: the rate of matrix products is taken before, after and every few seconds, outside the timed parts."""
    probe = family.probe()
    probe.measure()
    seconds = 0.0
    clock = time.perf_counter()
    for _ in Scorer(family.forward, budget).score(requests, plan, set(range(len(requests)))):
        seconds += time.perf_counter() - clock
        probe.measure_sometimes()
        clock = time.perf_counter()
    probe.measure()
    family.rates += probe.rates
    family.seconds.append(seconds)
    family.shares.append(family.flops / probe.flops_per_s / seconds)


def _describe(family: _Family) -> dict[str, Any]:
    return {
        "num_parameters": family.num_parameters,
        "flops": family.flops,
        "seconds": family.seconds,
        "shares": family.shares,
        "share": statistics.median(family.shares),
        "matmul_flops_per_s": family.rates,
        "max_difference": family.difference,
    }


def _render(options: argparse.Namespace, families: Sequence[_Family], plan: Plan) -> list[str]:
    rows = [
        [
            family.name,
            f"{family.num_parameters / 1e6:.0f}M",
            f"{family.flops / 1e12:.2f}",
            f"{statistics.median(family.seconds):.1f}",
            f"{plan.num_distinct / statistics.median(family.seconds):,.0f}",
            f"{statistics.median(family.shares):.0%}",
            f"{min(family.shares):.0%} – {max(family.shares):.0%}",
            f"{family.difference:.1e}",
        ]
        for family in families
    ]
    header = ["family", "parameters", "TFLOP", "seconds", "tokens/s", "share of the matmul rate", "all rounds", "max Δ"]
    return [
        "# The speed of other families beside LLaMA",
        "",
        describe(options).replace(f"Model {options.model}", f"Random weights, tokenizer of {options.model}"),
        f"{plan.num_distinct:,} distinct tokens of {plan.num_logical:,}; medians of {options.repeats} rounds; "
        f"{num_threads()} threads.",
        "",
        *table(header, rows),
    ]


def main() -> int:
    """Run the study from the command line."""
    parser = arguments((__doc__ or "").splitlines()[0], forms="letter")
    parser.add_argument("--repeats", type=positive_int, default=3, metavar="N", help="rounds")
    return run_study(study, parser)


if __name__ == "__main__":
    sys.exit(main())

"""`bench speed` beside transformers' own `generate`, timed by itself: same model and points, in turn.

Prefill is `generate` of one token. Decode is what `generate` of some more tokens takes longer than that, divided by
their number. Both programs take a step each in turn, so that a machine that slows down slows both.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from common import arguments, model_folder, positive_int, publish, run_study, table
from transformers import AutoModelForCausalLM

from bench.config import EngineSpec, ModelSpec
from bench.local_model import open_session
from bench.speed.points import Point
from bench.speed.steps import Stepper
from bench.telemetry.machine import num_threads

_MOST_DIFFERENT = 0.1
_NUM_STEPS = 16


def plain_seconds(model: Any, point: Point) -> float:
    """What the point takes plain `generate`."""
    prompt = torch.randint(model.config.vocab_size, (point.batch_size, point.length))
    first_s = _generate_s(model, prompt, 1)
    if point.phase == "prefill":
        return first_s
    return _generate_s(model, prompt, 1 + point.num_steps) - first_s


@torch.inference_mode()
def _generate_s(model: Any, prompt: torch.Tensor, num_tokens: int) -> float:
    began = time.perf_counter()
    model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        min_new_tokens=num_tokens,
        max_new_tokens=num_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return time.perf_counter() - began


def our_seconds(stepper: Stepper, point: Point) -> float:
    """What it takes `bench speed`."""
    moments = stepper.steps(point)
    return moments[-1] - moments[0]


def in_turn(programs: Sequence[Callable[[], float]], repeats: int) -> list[list[float]]:
    """Seconds of each program, run one after the other, each first every other time; a first round does not count."""
    seconds: list[list[float]] = [[] for _ in programs]
    for number in range(repeats + 1):
        order = list(range(len(programs)))
        for place in order if number % 2 else order[::-1]:
            taken_s = programs[place]()
            if number:
                seconds[place].append(taken_s)
    return seconds


def study(options: argparse.Namespace) -> int:
    """Measure every point with both and publish the throughputs."""
    torch.set_num_threads(num_threads())
    session = open_session(ModelSpec(source=options.model, dtype="float32", device="cpu"), EngineSpec())
    session.load()
    stepper = Stepper(session.model, session.config.get_text_config().vocab_size)
    plain = AutoModelForCausalLM.from_pretrained(model_folder(options.model), dtype=torch.float32).eval()
    sizes = [(1, 64), (1, 256), (4, 64)]
    points = [Point("prefill", *size) for size in sizes] + [Point("decode", *size, _NUM_STEPS) for size in sizes]
    rows: list[list[str]] = []
    found: list[dict[str, Any]] = []
    differences: list[float] = []
    for point in points:
        programs = [partial(our_seconds, stepper, point), partial(plain_seconds, plain, point)]
        ours, theirs = in_turn(programs, options.repeats)
        rates = [point.num_tokens / statistics.median(seconds) for seconds in (ours, theirs)]
        found.append({"point": point.key, "ours_s": ours, "plain_s": theirs, "tokens_per_s": rates})
        rows.append([point.key, *(f"{rate:,.1f}" for rate in rates), f"{100 * (rates[0] / rates[1] - 1):+.1f} %"])
        differences.append(abs(rates[0] / rates[1] - 1))
    is_close = max(differences) <= _MOST_DIFFERENT
    lines = [
        f"Model {options.model}, float32, threads: {torch.get_num_threads()}. "
        f"Medians of {options.repeats} runs of each, in turn.",
        "",
        *table(["point (batch x tokens)", "bench speed, tokens/s", "generate, tokens/s", "difference"], rows),
        "",
        f"Every difference within {100 * _MOST_DIFFERENT:.0f} %: {'yes' if is_close else 'no'}.",
    ]
    publish(options, "speed", {"points": found, "is_close": is_close}, lines)
    return 0 if is_close else 1


if __name__ == "__main__":
    parser = arguments("bench speed beside transformers' generate")
    parser.add_argument("--repeats", type=positive_int, default=5, metavar="N", help="of each point and program")
    sys.exit(run_study(study, parser))

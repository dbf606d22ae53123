"""How much faster than lm-evaluation-harness? Both as whole commands, taking turns, on the same cores.

A command's time is from its start to its exit: imports, task index, model, tokenizer, scoring, results on disk.
Goals on whole subjects: 5 times lm-eval in fp32, 8 times in bf16; scoring at 75 % of the measured matrix-product rate
in fp32 and 45 % in bf16; the first scores on disk 8 s after the start. Exit code 1 if one is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common import arguments, describe, positive_int, publish, run_study, table, verdict
from programs import LmEvalRun, SteelyardRun, encode_form, open_session, run_lm_eval, run_steelyard
from setting import Setting, prepare

from bench.engine.encode import EncodedSample
from bench.telemetry.machine import num_threads

_RATIO_GOAL = {"float32": 5.0, "bfloat16": 8.0}
_SHARE_GOAL = {"float32": 0.75, "bfloat16": 0.45}
_FIRST_SCORES_GOAL_S = 8.0


@dataclass(frozen=True, slots=True)
class LmEvalTokens:
    """What lm-eval's HF model forwards, by its own rule: one pass for requests that differ in their last token only.

    Attributes:
        forwarded: tokens of those passes.
        padded: the same with the padding of its batches.
    """

    forwarded: int
    padded: int


def count_lm_eval_tokens(samples: Sequence[EncodedSample], batch_size: int) -> LmEvalTokens:
    """Count what lm-eval forwards: longest first, `batch_size` at a time, each batch as long as its longest."""
    passes = {
        (one.prompt.sha256, request.targets[:-1]): len(request.inputs) for one in samples for request in one.requests
    }
    lengths = sorted(passes.values(), reverse=True)
    batches = [lengths[start : start + batch_size] for start in range(0, len(lengths), batch_size)]
    return LmEvalTokens(sum(lengths), sum(batch[0] * len(batch) for batch in batches))


def study(options: argparse.Namespace) -> int:
    """Run both in turns; returns the exit code."""
    with prepare(options) as setting:
        ours, theirs = _take_turns(setting, options)
        best = min(theirs, key=lambda size: min(run.wall_s for run in theirs[size]))
        tokens = _count_tokens(setting, best, theirs[best][0])
    fastest = min(ours, key=lambda run: run.wall_s)
    ratio = min(run.wall_s for run in theirs[best]) / fastest.wall_s
    shares = [_share(run) for run in ours]
    first_s = [run.first_scores_s for run in ours if run.first_scores_s is not None]
    result: dict[str, Any] = {
        "num_threads": num_threads(),
        "steelyard": {"wall_s": [run.wall_s for run in ours], "first_scores_s": first_s, "floor_share": shares}
        | {"runs": {form: _measured(run.info) for form, run in fastest.runs.items()}},
        "lm_eval": {"batch_size": best, "wall_s": {size: [run.wall_s for run in runs] for size, runs in theirs.items()}}
        | {"tokens_forwarded": tokens.forwarded, "tokens_padded": tokens.padded},
        "ratio": ratio,
        "goals": {} if options.limit else _judge(options.dtype, ratio, shares, first_s),
    }
    lines = ["# Speed beside lm-evaluation-harness", "", describe(options), ""]
    lines += [f"Both as whole commands, taking turns, {num_threads()} threads each.", "", *_render(result, tokens)]
    publish(options, "versus_lm_eval", result, lines)
    return 0 if all(result["goals"].values()) else 1


def _take_turns(setting: Setting, options: argparse.Namespace) -> tuple[list[SteelyardRun], dict[str, list[LmEvalRun]]]:
    """Run both `repeats` times, each first in turn; lm-eval tries its batch sizes at first, then keeps to the best."""
    ours: list[SteelyardRun] = []
    theirs: dict[str, list[LmEvalRun]] = {size: [] for size in options.batch_sizes}
    sizes = list(options.batch_sizes)
    for turn in range(options.repeats):
        if turn % 2 == 0:
            ours.append(run_steelyard(setting, options.dtype))
        for size in sizes:
            theirs[size].append(run_lm_eval(setting, options.dtype, size))
        if turn % 2 == 1:
            ours.append(run_steelyard(setting, options.dtype))
        sizes = [min(options.batch_sizes, key=lambda size: min(run.wall_s for run in theirs[size]))]
    return ours, theirs


def _count_tokens(setting: Setting, batch_size: str, run: LmEvalRun) -> LmEvalTokens:
    """Tokens of lm-eval's passes over all forms; those that `auto` spends on finding a batch size are not counted."""
    session = open_session(setting)
    samples = [one for form in setting.forms for one in encode_form(session, setting, form)]
    return count_lm_eval_tokens(samples, run.batch_sizes[0] if run.batch_sizes else int(batch_size))


def _share(run: SteelyardRun) -> float:
    """Share of the floor over all forms of a run: the sum of the floors by the sum of the seconds."""
    floor_s: float = sum(one.info["floor"]["floor_s"] for one in run.runs.values())
    score_s: float = sum(one.info["timing"]["score_s"] for one in run.runs.values())
    return floor_s / score_s


def _measured(info: dict[str, Any]) -> dict[str, Any]:
    """What a run measured of itself."""
    return {key: info[key] for key in ("tokens", "timing", "floor", "packs", "peak_memory_bytes")}


def _judge(dtype: str, ratio: float, shares: list[float], first_s: list[float]) -> dict[str, bool]:
    """Goals, and whether they are met, by the median of the runs but for the ratio; fp16 has none but the first."""
    goals = {f"first scores within {_FIRST_SCORES_GOAL_S:g} s": statistics.median(first_s) <= _FIRST_SCORES_GOAL_S}
    if dtype in _RATIO_GOAL:
        goals[f"at least {_RATIO_GOAL[dtype]:g} times as fast"] = ratio >= _RATIO_GOAL[dtype]
        goals[f"at least {_SHARE_GOAL[dtype]:.0%} of the matrix-product rate"] = (
            statistics.median(shares) >= _SHARE_GOAL[dtype]
        )
    return goals


def _render(result: dict[str, Any], tokens: LmEvalTokens) -> list[str]:
    own, other = result["steelyard"], result["lm_eval"]
    forwarded = sum(run["tokens"]["forwarded"] for run in own["runs"].values())
    rows: list[list[object]] = [["Steelyard", _seconds(own["wall_s"]), f"{min(own['wall_s']):.1f}", f"{forwarded:,}"]]
    for size, wall_s in other["wall_s"].items():
        spent = f"{tokens.forwarded:,} ({tokens.padded:,} padded)" if size == other["batch_size"] else ""
        rows.append([f"lm-eval, batches of {size}", _seconds(wall_s), f"{min(wall_s):.1f}", spent])
    lines = table(["command", "seconds, each run", "fastest", "tokens forwarded"], rows)
    seconds = {key: sum(run["timing"][key] for run in own["runs"].values()) for key in ("load_s", "score_s", "total_s")}
    lines += [
        "",
        f"Fastest against fastest: **{result['ratio']:.1f} times**.",
        f"Steelyard's scoring reached {_percents(own['floor_share'])} of the matrix-product rate measured beside it.",
        f"Its first scores were on disk after {_seconds(own['first_scores_s'])} s.",
        f"Of its fastest run: loading {seconds['load_s']:.1f} s, scoring {seconds['score_s']:.1f} s, "
        f"{seconds['total_s']:.1f} s in all but imports.",
        "",
    ]
    return [*lines, *verdict(result["goals"])]


def _seconds(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


def _percents(shares: Sequence[float]) -> str:
    return ", ".join(f"{share:.0%}" for share in shares)


def main() -> int:
    """Run the study from the command line."""
    parser = arguments((__doc__ or "").splitlines()[0], forms="letter")
    parser.add_argument("--repeats", type=positive_int, default=2, metavar="N", help="runs of each command")
    parser.add_argument(
        "--batch-sizes",
        type=lambda text: text.split(","),
        default="1,8,16",
        metavar="A,B",
        help="lm-eval's, of which the best is taken; auto begins with five passes over 64 of the longest prompts, "
        "which on a CPU take longer than the whole job",
    )
    return run_study(study, parser)


if __name__ == "__main__":
    sys.exit(main())

"""lm-evaluation-harness's own command with its model `hf` and with ours: the same tasks and output, another engine.

Both are whole commands with the same arguments, taking turns: `python -m lm_eval run --model hf ...` and
`bench lm-eval run --model steelyard ...`. Ours also compiles each template once and parses fewer task files. What both
wrote is compared sample by sample; exit code 1 if a prediction differs, a loglikelihood by more than 1e-4 in fp32, or
a metric in its last digit.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from common import arguments, describe, positive_int, publish, run_study, table, verdict
from programs import LmEvalRun, run_lm_eval
from setting import Setting, prepare

from bench.telemetry.machine import num_threads

_TOLERANCE = 1e-4
_NO_METRIC = ("alias", "name", "sample_len", "sample_count")


def study(options: argparse.Namespace) -> int:
    """Run both in turns; returns the exit code."""
    with prepare(options) as setting:
        runs = _take_turns(setting, options)
    ours, theirs = runs["steelyard"], runs["hf"]
    found = compare(ours[0], theirs[0])
    wall_s = {name: [run.wall_s for run in own] for name, own in runs.items()}
    ratio = min(wall_s["hf"]) / min(wall_s["steelyard"])
    goals = {} if options.dtype != "float32" else judge(found)
    result = {"num_threads": num_threads(), "batch_size": options.batch_size, "wall_s": wall_s, "ratio": ratio}
    lines = ["# lm-evaluation-harness on this engine", "", describe(options), ""]
    lines += [f"The same command of lm-eval's, {num_threads()} threads; `hf` in batches of {options.batch_size}.", ""]
    rows = [
        [f"--model {name}", ", ".join(f"{one:.1f}" for one in own), f"{min(own):.1f}"] for name, own in wall_s.items()
    ]
    lines += table(["command", "seconds, each run", "fastest"], rows)
    lines += ["", f"Fastest against fastest: **{ratio:.1f} times**.", "", *_render(found), *verdict(goals)]
    publish(options, "lm_eval_engine", {**result, **found, "goals": goals}, lines)
    return 0 if all(goals.values()) else 1


def _take_turns(setting: Setting, options: argparse.Namespace) -> dict[str, list[LmEvalRun]]:
    runs: dict[str, list[LmEvalRun]] = {"steelyard": [], "hf": []}
    for turn in range(options.repeats):
        for name in list(runs) if turn % 2 == 0 else reversed(list(runs)):
            is_ours = name == "steelyard"
            runs[name].append(run_lm_eval(setting, options.dtype, options.batch_size, is_ours=is_ours))
    return runs


def compare(ours: LmEvalRun, theirs: LmEvalRun) -> dict[str, Any]:
    """How the two outputs of lm-eval differ."""
    pairs = [pair for form, scores in theirs.scores.items() for pair in zip(ours.scores[form], scores, strict=True)]
    differences = [
        abs(a - b) for one, other in pairs for a, b in zip(one.loglikelihoods, other.loglikelihoods, strict=True)
    ]
    return {
        "num_samples": len(pairs),
        "num_other_prompts": sum(one.prompt_hash != other.prompt_hash for one, other in pairs),
        "num_flips": sum(one.prediction != other.prediction for one, other in pairs),
        "num_greedy_flips": sum(one.is_greedy != other.is_greedy for one, other in pairs),
        "max_difference": max(differences),
        "other_metrics": _other_metrics(ours.results, theirs.results),
    }


def _other_metrics(ours: Mapping[str, Mapping[str, Any]], theirs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Metrics that are not equal to the last digit, standard errors among them."""
    return [
        f"{task} {name}"
        for task, metrics in theirs.items()
        for name, value in metrics.items()
        if name not in _NO_METRIC and ours[task][name] != value
    ]


def judge(found: Mapping[str, Any]) -> dict[str, bool]:
    """Goals, and whether they are met."""
    return {
        "prompts are equal": found["num_other_prompts"] == 0,
        "no prediction differs": found["num_flips"] == 0,
        f"loglikelihoods differ by {_TOLERANCE:g} at most": found["max_difference"] <= _TOLERANCE,
        "metrics and standard errors are equal to the last digit": not found["other_metrics"],
    }


def _render(found: Mapping[str, Any]) -> Sequence[str]:
    rows: list[list[object]] = [
        ["samples", found["num_samples"]],
        ["other prompts", found["num_other_prompts"]],
        ["predictions that differ", found["num_flips"]],
        ["`is_greedy` that differ", found["num_greedy_flips"]],
        ["largest difference of a loglikelihood", f"{found['max_difference']:.1e}"],
        ["metrics that differ", len(found["other_metrics"])],
    ]
    return [*table(["of what both wrote", ""], rows), ""]


def main() -> int:
    """Run the study from the command line."""
    parser = arguments((__doc__ or "").splitlines()[0], forms="letter,cloze")
    parser.add_argument("--repeats", type=positive_int, default=2, metavar="N", help="runs of each command")
    parser.add_argument("--batch-size", default="8", metavar="N", help="of lm-eval's own model")
    return run_study(study, parser)


if __name__ == "__main__":
    sys.exit(main())

"""Are our scores lm-evaluation-harness's? Both score the same questions with the same model, compared one by one.

In fp32, goal: no prediction differs, no loglikelihood by more than 1e-4 a continuation token, and prompt hashes, acc,
acc_norm and stderr are equal to the last digit; exit code 1 if not. A few samples are scored a third time, by plain
transformers in fp64: it tells whose the differences are. In half precision nobody's numbers are right to the last
digit, so both programs are held against our fp32 scores: how often a prediction flips, how often the best two tie.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from common import arguments, describe, positive_int, publish, run_study, table, verdict
from programs import LmEvalRun, SteelyardRun, encode_form, open_session, run_lm_eval, run_steelyard
from setting import METRICS, Setting, lm_eval_group, lm_eval_task, prepare

from bench.errors import ScoringError
from bench.measures import is_tied
from bench.records import Score
from bench.runs.reading import Run

TOLERANCE = 1e-4  # of a continuation token's log-probability in fp32
_HALF_LIMIT = 8  # questions a subject in half precision: on a CPU without bf16 instructions lm-eval is very slow at it


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two accounts of the same samples.

    Attributes:
        num_prompts_differ: samples whose prompt hashes differ.
        max_difference, mean_difference: of loglikelihoods, absolute, over all choices.
        max_difference_a_token: the largest of those differences divided by their continuations' tokens.
        flips: ids of samples with another prediction, or judged otherwise, by loglikelihood.
        flips_norm: the same by loglikelihood a character; empty where one of the two does not judge so.
        num_greedy_differ: choices of which only one account says that greedy decoding would give them.
        num_ties: samples whose two highest loglikelihoods are equal, in each account.
    """

    num_samples: int
    num_prompts_differ: int
    max_difference: float
    max_difference_a_token: float
    mean_difference: float
    flips: tuple[str, ...]
    flips_norm: tuple[str, ...]
    num_greedy_differ: int
    num_ties: tuple[int, int]


def compare(ours: Sequence[Score], theirs: Sequence[Score], num_tokens: Sequence[Sequence[int]]) -> Comparison:
    """Compare two accounts, sample by sample.

    Args:
        ours: the samples' scores.
        theirs: the same samples' scores, in the same order.
        num_tokens: tokens of each sample's continuations.

    Raises:
        ScoringError: the two are not of the same samples in the same order, or a sample has no score.
    """
    if [score.id for score in ours] != [score.id for score in theirs]:
        raise ScoringError(f"the two runs are not of the same samples in the same order ({len(ours)}, {len(theirs)})")
    if failed := [score for score in ours if score.error is not None]:
        raise ScoringError(f"{len(failed)} samples have no score; {failed[0].id}: {failed[0].error}")
    pairs = list(zip(ours, theirs, strict=True))
    differences = [
        (abs(a - b), num)
        for (one, other), nums in zip(pairs, num_tokens, strict=True)
        for a, b, num in zip(one.loglikelihoods, other.loglikelihoods, nums, strict=True)
    ]
    greedy = [(x, y) for a, b in pairs for x, y in zip(a.is_greedy, b.is_greedy, strict=True)]
    return Comparison(
        num_samples=len(pairs),
        num_prompts_differ=sum(a.prompt_hash != b.prompt_hash for a, b in pairs),
        max_difference=max(difference for difference, _ in differences),
        max_difference_a_token=max(difference / num for difference, num in differences),
        mean_difference=sum(difference for difference, _ in differences) / len(differences),
        flips=tuple(a.id for a, b in pairs if (a.prediction, a.correct) != (b.prediction, b.correct)),
        flips_norm=tuple(
            a.id
            for a, b in pairs
            if None not in (a.correct_norm, b.correct_norm)
            and (a.prediction_norm, a.correct_norm) != (b.prediction_norm, b.correct_norm)
        ),
        num_greedy_differ=sum(x != y for x, y in greedy),
        num_ties=(sum(is_tied(a.loglikelihoods) for a, _ in pairs), sum(is_tied(b.loglikelihoods) for _, b in pairs)),
    )


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that both report."""

    name: str
    ours: float | None
    theirs: float | None


def compare_figures(form: str, run: Run, results: Mapping[str, Mapping[str, Any]]) -> Iterator[Figure]:
    """Means and standard errors, of each subject and of all together."""
    groups = run.info["groups"]
    parts = [(subject, group, lm_eval_task(form, subject)) for subject, group in groups.items()]
    for part, own, task in [*parts, ("all", run.info["metrics"], lm_eval_group(form))]:
        for metric in METRICS[form]:
            for key, name in (("value", metric), ("stderr", f"{metric}_stderr")):
                theirs = results[task][f"{name},none"]
                yield Figure(f"{part} {name}", own[metric][key], None if theirs == "N/A" else theirs)


@dataclass(frozen=True, slots=True)
class _Exact:
    """Largest |difference a continuation token| of each program from plain fp64, over `num_samples` samples."""

    num_samples: int
    ours: float
    theirs: float


def study(options: argparse.Namespace) -> int:
    """Run both and compare; returns the exit code."""
    is_half = options.dtype != "float32"
    options.limit = options.limit or (_HALF_LIMIT if is_half else None)
    with prepare(options) as setting:
        ours = run_steelyard(setting, "float32")
        if is_half:
            result, lines = _study_half(setting, ours, run_steelyard(setting, options.dtype), options)
        else:
            result, lines = _study_exact(setting, ours, options)
    publish(options, "parity", result, ["# Parity with lm-evaluation-harness", "", describe(options), "", *lines])
    return 0 if all(result.get("goals", {}).values()) else 1


def _study_exact(setting: Setting, ours: SteelyardRun, options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Hold our fp32 scores against lm-eval's."""
    theirs = run_lm_eval(setting, options.dtype, options.batch_size, options.softmax_dtype)
    exact, num_tokens = _score_exactly(setting, ours, theirs, options.exact)
    found = {form: compare(ours.runs[form].scores, theirs.scores[form], num_tokens[form]) for form in setting.forms}
    figures = {form: list(compare_figures(form, ours.runs[form], theirs.results)) for form in setting.forms}
    goals = {
        "no prediction differs": not any(one.flips or one.flips_norm for one in found.values()),
        f"no loglikelihood differs by more than {TOLERANCE:g} a token": all(
            one.max_difference_a_token <= TOLERANCE for one in found.values()
        ),
        "all prompt hashes are equal": not any(one.num_prompts_differ for one in found.values()),
        "all means and standard errors are equal to the last digit": all(
            one.ours == one.theirs for own in figures.values() for one in own
        ),
    }
    forms = {
        form: {**asdict(found[form]), "figures": [asdict(one) for one in figures[form]], "exact": asdict(exact[form])}
        for form in setting.forms
    }
    return {"forms": forms, "goals": goals}, _render_exact(found, figures, exact, goals)


def _score_exactly(
    setting: Setting, ours: SteelyardRun, theirs: LmEvalRun, num_samples: int
) -> tuple[dict[str, _Exact], dict[str, list[list[int]]]]:
    """Score some samples of each form in fp64; returns also the number of tokens of all samples' continuations."""
    from bench.engine.plain import score_alone

    session = open_session(setting)
    encoded = {form: encode_form(session, setting, form) for form in setting.forms}
    num_tokens = {form: [[len(r.targets) for r in one.requests] for one in own] for form, own in encoded.items()}
    model = session.model.double()
    exact = {}
    for form, own in encoded.items():
        chosen = range(0, len(own), max(1, len(own) // num_samples))[:num_samples]
        errors: tuple[list[float], list[float]] = ([0.0], [0.0])
        for i in chosen:
            truth = score_alone(model, own[i].requests)
            for scores, into in zip((ours.runs[form].scores, theirs.scores[form]), errors, strict=True):
                triples = zip(scores[i].loglikelihoods, truth, num_tokens[form][i], strict=True)
                into += [abs(value - true) / num for value, true, num in triples]
        exact[form] = _Exact(len(chosen), max(errors[0]), max(errors[1]))
    return exact, num_tokens


def _render_exact(
    found: Mapping[str, Comparison],
    figures: Mapping[str, Sequence[Figure]],
    exact: Mapping[str, _Exact],
    goals: Mapping[str, bool],
) -> list[str]:
    rows: list[list[object]] = [
        [
            form,
            one.num_samples,
            one.num_prompts_differ,
            f"{one.max_difference:.1e}",
            f"{one.max_difference_a_token:.1e}",
            f"{one.mean_difference:.1e}",
            len(one.flips),
            _num_flips_norm(form, one),
            one.num_greedy_differ,
            f"{one.num_ties[0]}, {one.num_ties[1]}",
        ]
        for form, one in found.items()
    ]
    header = "form, questions, other prompt hash, max Δ, max Δ a token, mean Δ, flips acc, flips acc_norm"
    lines = table([*header.split(", "), "other is_greedy", "ties ours, theirs"], rows)
    distances: list[list[object]] = [
        [form, one.num_samples, f"{one.ours:.1e}", f"{one.theirs:.1e}"] for form, one in exact.items()
    ]
    lines += ["", "Largest distance from plain fp64 scoring, a continuation token:", ""]
    lines += table(["form", "questions", "Steelyard", "lm-eval"], distances)
    reported: list[list[object]] = [
        [f"{form}: {one.name}", one.ours, one.theirs] for form, own in figures.items() for one in own
    ]
    return [*lines, "", *table(["reported", "Steelyard", "lm-eval"], reported), "", *verdict(goals)]


def _study_half(
    setting: Setting, oracle: SteelyardRun, ours: SteelyardRun, options: argparse.Namespace
) -> tuple[dict[str, Any], list[str]]:
    """Hold both programs' half precision against our fp32."""
    theirs = run_lm_eval(setting, options.dtype, options.batch_size, options.softmax_dtype)
    session = open_session(setting)
    forms: dict[str, Any] = {}
    rows: list[list[object]] = []
    for form in setting.forms:
        num_tokens = [[len(r.targets) for r in one.requests] for one in encode_form(session, setting, form)]
        truth = oracle.runs[form].scores
        accounts = {"fp32": truth, "Steelyard": ours.runs[form].scores, "lm-eval": theirs.scores[form]}
        forms[form] = {}
        for name, scores in accounts.items():
            one = compare(scores, truth, num_tokens)
            acc = sum(score.correct is True for score in scores) / len(scores)
            forms[form][name] = {**asdict(one), "num_ties": one.num_ties[0], "acc": acc}
            differences = [f"{value:.2g}" for value in (one.max_difference, one.mean_difference)]
            flips = [len(one.flips), _num_flips_norm(form, one)]
            rows.append([f"{form}: {name}", one.num_samples, *differences, *flips, one.num_ties[0], f"{acc:.4f}"])
    header = "scores, questions, max Δ from fp32, mean Δ, flips acc, flips acc_norm, ties, acc"
    return {"forms": forms}, table(header.split(", "), rows)


def _num_flips_norm(form: str, one: Comparison) -> int | str:
    return len(one.flips_norm) if "acc_norm" in METRICS[form] else "–"


def main() -> int:
    """Run the study from the command line."""
    parser = arguments((__doc__ or "").splitlines()[0], forms="letter,cloze")
    parser.add_argument("--batch-size", default="8", metavar="N", help="lm-eval's")
    parser.add_argument(
        "--softmax-dtype",
        metavar="DTYPE",
        help="lm-eval's option of that name: with float64 its fp32 scores lose their own rounding error",
    )
    parser.add_argument("--exact", type=positive_int, default=8, metavar="N", help="samples a form to score in fp64")
    return run_study(study, parser)


if __name__ == "__main__":
    sys.exit(main())

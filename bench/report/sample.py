"""One sample in full: what the model said of each choice, what was predicted, what is right."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from types import MappingProxyType

from rich.text import Text

from bench.errors import RunFolderError
from bench.measures import length_normalised
from bench.records import Sample, Score
from bench.report.grid import Column, draw_row, draw_rule, draw_titles, fit
from bench.report.text import LABEL_WIDTH, Screen, count, hanging, one_line, percent, plural, printable
from bench.runs.reading import Run


def find_score(run: Run, sample_id: str) -> Score:
    """The score of one sample; RunFolderError with the nearest id if there is none of that id."""
    scores = {score.id: score for score in run.scores}
    if sample_id in scores:
        return scores[sample_id]
    near = difflib.get_close_matches(sample_id, scores, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise RunFolderError(f"{run.path} has no sample {sample_id!r} among {len(scores)}{hint}")


def labelled(sample: Sample) -> dict[str, str]:
    """A sample's choices by the labels they were shown under; by letters where its task gives them none."""
    if not sample.choices:
        return {}
    labels = sample.variables.get("labels") or [_letter(index) for index in range(len(sample.choices))]
    return dict(zip(labels, sample.choices, strict=True))


def render_sample(
    score: Score,
    screen: Screen,
    *,
    measure: str = "loglikelihood",
    choices: Mapping[str, str] = MappingProxyType({}),
    prompt: str | None = None,
    question: str | None = None,
) -> str:
    """One sample's score: each choice's loglikelihood, what was predicted and what is right.

    Args:
        score: the sample's line of the journal.
        screen: where this goes.
        measure: what its loglikelihoods are: `PLL`, where they are none.
        choices: the choices' texts by their labels, see `labelled`; without them they are lettered only.
        prompt: the context that was scored, shown below.
        question: the question alone, where the prompt is not known.
    """
    lines = [Text.assemble((one_line(score.id), "bold"), f" · {_verdict(score)}")]
    lines += [Text(), *_choice_table(score, measure, choices, screen)] if score.loglikelihoods else []
    facts = [
        ("subject", score.subject),
        ("question", question),
        ("completion", None if score.completion is None else repr(score.completion.text)),
        ("answer", _answer(score, choices)),
        ("error", score.error),
        ("tie", "the two best loglikelihoods are equal; the first is taken" if score.tie else None),
        ("shortened", _shortening(score) if score.truncated else None),
        ("prompt hash", score.prompt_hash),
    ]
    lines.append(Text())
    for label, text in facts:
        if text:
            lines += hanging(screen, Text(f"{label:{LABEL_WIDTH}}", "cyan"), Text(one_line(text)))
    if prompt is not None:
        lines += [Text(), Text(f"prompt, {count(len(prompt))} characters", "cyan"), Text("─" * screen.width, "dim")]
        lines += [Text(line) for line in printable(prompt).split("\n")]
        lines.append(Text("─" * screen.width, "dim"))
    return screen.render(lines)


def _verdict(score: Score) -> str:
    if score.error is not None:
        return "no score, because of an error"
    if score.correct is None:
        return " · ".join(f"{name} {value:.4g}" for name, value in score.values.items() if "." not in name) or "scored"
    acc, acc_norm = ("right" if is_right else "wrong" for is_right in (score.correct, score.correct_norm))
    if score.correct_norm is None:
        return acc
    return acc if acc == acc_norm else f"{acc} by acc, {acc_norm} by acc_norm"


def _answer(score: Score, choices: Mapping[str, str]) -> str | None:
    """What was read from a completion, beside what is right."""
    if score.error is not None or score.loglikelihoods:
        return None
    found = "not recorded" if score.completion is None else score.extracted or "none found"
    options = list(choices.items())
    if score.prediction is not None and score.prediction < len(options):
        found += f" {options[score.prediction][1]}"
    if score.correct or score.gold is None or score.gold >= len(options):
        return found
    return f"{found}; right is {' '.join(options[score.gold])}"


def _choice_table(score: Score, measure: str, choices: Mapping[str, str], screen: Screen) -> list[Text]:
    total = math.log(sum(math.exp(value - max(score.loglikelihoods)) for value in score.loglikelihoods))
    shares = [math.exp(value - max(score.loglikelihoods) - total) for value in score.loglikelihoods]
    norms = length_normalised(score.loglikelihoods, score.num_choice_chars)
    numbers = range(len(score.loglikelihoods))
    has_texts = len(choices) == len(numbers)
    texts = [one_line(text) for text in choices.values()] if has_texts else [""] * len(numbers)
    labels = [one_line(label) for label in choices] if has_texts else [_letter(i) for i in numbers]
    marks = [_marks(score, index) for index in numbers]
    columns, _ = fit(
        [
            Column(
                "choice",
                tuple(f"{label}  {text}".rstrip() for label, text in zip(labels, texts, strict=True)),
                0,
                False,
            ),
            Column(measure, tuple(f"{value:.4f}" for value in score.loglikelihoods), style="bold"),
            Column("share %", tuple(percent(share, 1) for share in shares), 3),
            Column("per character", tuple(f"{value:.4f}" for value in norms), 2),
            Column("greedy", tuple("yes" if greedy else "no" for greedy in score.is_greedy), 4),
            Column("", tuple(marks), 0, False, "yellow"),
        ],
        screen.width,
    )
    lines = [draw_titles(columns), draw_rule(columns), *(draw_row(columns, index) for index in numbers)]
    if any("…" in cell and "…" not in text for cell, text in zip(columns[0].cells, texts, strict=True)):
        lines.append(Text())
        for label, text in zip(labels, texts, strict=True):
            lines += hanging(screen, Text(f"{label}  "), Text(text))
    return lines


def _marks(score: Score, index: int) -> str:
    marks = ["right"] if index == score.gold else []
    if index == score.prediction:
        marks.append("predicted" if score.prediction == score.prediction_norm else "predicted (acc)")
    elif index == score.prediction_norm:
        marks.append("predicted (acc_norm)")
    return "← " + ", ".join(marks) if marks else ""


def _shortening(score: Score) -> str:
    if score.num_shots_dropped:
        return f"{plural(score.num_shots_dropped, 'shot')} left out to fit the model's context"
    return "tokens were cut from the left to fit the model's context"


def _letter(index: int) -> str:
    return chr(ord("A") + index) if index < 26 else str(index + 1)

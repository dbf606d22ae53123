"""Written answers are measured as the reference libraries measure them: all samples at once, from plain strings."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from bench.metrics import summarise
from bench.records import Completion, Prompt, PromptedSample, Request, Sample, Score
from bench.tasks.form import Form
from bench.writing.answers import score_completion
from bench.writing.written import normalise_answer, written_values

ANSWERS = [
    "the boat crossed the wide river before dawn .",
    "Nobody knew which way the wind would turn.",
    "",
    "A quiet street, two lamps and a dog",
    "The miller sold his mill, then bought it back.",
    "小船在黎明前过了河。",
]
REFERENCES = [
    ["The boat crossed the river before dawn.", "Before dawn the boat had crossed the wide river."],
    ["No one knew which way the wind would turn."],
    ["Silence is an answer, too."],
    ["Two lamps, a dog and a quiet street."],
    ["The miller sold the mill and bought it back again."],
    ["黎明之前小船过了那条河。"],
]


def form(*metrics: str, **more: Any) -> Form:
    return Form.model_validate({"question": "q", "generate": {"max_tokens": 9}, "metrics": list(metrics), **more})


def score(place: int, own: Form, subject: str = "") -> Score:
    sample = Sample(str(place), subject, (), (), {}, tuple(REFERENCES[place]))
    prompted = PromptedSample(sample, (Request(Prompt("", (), "q"), ""),))
    return score_completion(prompted, Completion(ANSWERS[place]), own)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("bleu", sacrebleu.BLEU()),
        ("bleu_zh", sacrebleu.BLEU(tokenize="zh")),
        ("bleu_char", sacrebleu.BLEU(tokenize="char")),
        ("chrf", sacrebleu.CHRF()),
        ("chrf_pp", sacrebleu.CHRF(word_order=2)),
    ],
)
def test_corpus_metrics_are_sacrebleus_over_all_completions(name: str, reference: Any) -> None:
    scores = [score(place, form(name), "ab"[place % 2]) for place in range(len(ANSWERS))]
    found = summarise(scores, metrics=[name])

    def expected(places: range) -> float:
        most = max(len(REFERENCES[place]) for place in places)
        streams = [
            [(REFERENCES[place] + [None])[min(i, len(REFERENCES[place]))] for place in places] for i in range(most)
        ]
        return float(reference.corpus_score([ANSWERS[place] for place in places], streams).score) / 100

    assert found["metrics"][name]["value"] == expected(range(6))
    assert found["groups"]["b"][name]["value"] == expected(range(1, 6, 2))
    assert found["metrics"][name]["stderr"] is None
    assert found["metrics"][name]["num_no_answer"] == 1
    assert expected(range(6)) > 0


def test_rouge_is_the_reference_librarys_best_over_references() -> None:
    names = {"rouge1": "rouge1", "rouge2": "rouge2", "rouge_l": "rougeL", "rouge_lsum": "rougeLsum"}
    scores = [score(place, form(*names)) for place in range(5)]
    found = summarise(scores, metrics=list(names))["metrics"]
    scorer = RougeScorer(list(names.values()), use_stemmer=True)
    for name, theirs in names.items():
        best = [
            max(scorer.score(reference, answer)[theirs].fmeasure for reference in references)
            for answer, references in zip(ANSWERS[:5], REFERENCES[:5], strict=True)
        ]
        assert math.isclose(found[name]["value"], sum(best) / 5, rel_tol=1e-12)
        assert found[name]["value"] > 0.2


def test_nothing_is_printed_that_was_not_before() -> None:
    script = (
        "import logging; from bench.writing.written import written_values; written_values(['rouge1'], 'a', ['a']);"
        "assert not logging.root.handlers"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)


def test_squads_measures_are_those_of_its_script() -> None:
    from transformers.data.metrics.squad_metrics import compute_exact, compute_f1, normalize_answer

    pairs = [
        ("The Douro.", ["Douro", "the river Douro"]),
        ("in 1886, a bridge", ["1886", "the bridge of 1886"]),
        ("", ["nothing"]),
        ("an", ["the"]),
        ("well-known fact", ["well known fact", "wellknown fact"]),
        ("red and blue and red", ["red blue red red"]),
    ]
    for answer, references in pairs:
        values = written_values(["squad_em", "squad_f1"], answer, references)
        assert values["squad_em"] == max(compute_exact(one, answer) for one in references)
        assert math.isclose(values["squad_f1"], max(compute_f1(one, answer) for one in references))
        assert normalise_answer(answer) == normalize_answer(answer)


def test_exact_match_is_of_the_extracted_answer() -> None:
    own = form("exact_match", extract="number")
    sample = Sample("1", "", (), (), {}, ("1,234.0",))
    prompted = PromptedSample(sample, (Request(Prompt("", (), "q"), ""),))
    found = score_completion(prompted, Completion("It is $1234."), own)
    assert (found.extracted, found.values) == ("1234", {"exact_match": 1.0})
    assert score_completion(prompted, Completion("It is 1235."), own).values == {"exact_match": 0.0}
    assert score_completion(prompted, Completion("1234", "refusal"), own).extracted is None


def test_a_letter_is_a_prediction() -> None:
    own = form("acc", extract="letter")
    variables = {"labels": ("A", "B"), "choices": ("x", "y")}
    sample = Sample("1", "", ("x", "y"), (1,), variables, ())
    prompted = PromptedSample(sample, (Request(Prompt("", (), "q"), ""),))
    found = score_completion(prompted, Completion("The answer is (B)."), own)
    assert (found.prediction, found.gold, found.correct) == (1, 1, True)
    none = score_completion(prompted, Completion("Hm."), own)
    assert (none.prediction, none.correct, none.error) == (None, False, None)
    assert summarise([found, none], metrics=["acc"])["metrics"]["acc"]["value"] == 0.5

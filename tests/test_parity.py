from __future__ import annotations

import contextlib
import csv
import io
import logging
import random
import warnings
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install lm-eval==0.4.13")

from common import NUM_FEWSHOT, describe, publish
from parity import Comparison, compare, compare_figures
from programs import LmEvalRun, encode_form, open_session, read_lm_eval_run, read_steelyard_runs
from setting import METRICS, Setting, lm_eval_group, write_lm_eval_tasks, write_plan, write_rows
from tokenizers.processors import TemplateProcessing
from versus_lm_eval import count_lm_eval_tokens

from bench.cli import main
from bench.engine.encode import EncodedSample
from bench.errors import ScoringError
from bench.models.fake import fake_config, fake_model, fake_tokenizer
from bench.records import Score
from bench.runs.reading import Run

SUBJECTS = ("formal_logic", "management", "virology")
FORMS = ("letter", "cloze")
NUM_QUESTIONS = 4
BOS = 256
BATCH = 4
SHORT = 192  # of the byte tokenizer's tokens: about one shot fits


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fake model as a folder; its tokenizer begins each text with BOS, so that the two BOS rules differ."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = fake_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="</s> $A", pair="</s> $A $B", special_tokens=[("</s>", BOS)]
    )
    tokenizer.save_pretrained(folder)
    fake_model(fake_config()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def setting(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """Questions of random words: choices of several tokens, some with what a careless strip() or split() would lose."""
    words = random.Random(0)
    mmlu = tmp_path_factory.mktemp("mmlu")

    def text(num: int) -> str:
        return " ".join("".join(words.choices("aeioulnrst", k=words.randint(1, 6))) for _ in range(num))

    for split, num in (("test", NUM_QUESTIONS), ("dev", NUM_FEWSHOT)):
        (mmlu / split).mkdir()
        for subject in SUBJECTS:
            rows = [[text(5), *(text(words.randint(1, 4)) for _ in range(4)), words.choice("ABCD")] for _ in range(num)]
            rows[0][:5] = ["  Is it blank at both ends? ", "one ", "naïve, “two”", "two\nlines", text(2)]
            with (mmlu / split / f"{subject}_{split}.csv").open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows(rows)
    made = Setting(model, "cpu", SUBJECTS, FORMS, tmp_path_factory.mktemp("scratch"))
    write_rows(mmlu, made, limit=None)
    write_lm_eval_tasks(made)
    return made


@contextlib.contextmanager
def foreign_code() -> Iterator[None]:
    """lm-eval and what it uses warn and log a lot; none of it is ours to mend."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def score_with_lm_eval(setting: Setting, out: Path, **model_args: Any) -> tuple[LmEvalRun, int]:
    """Its own evaluation, written to a folder and read as the study does; and how many tokens it forwarded."""
    num_forwarded = 0

    def count(_: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        nonlocal num_forwarded
        num_forwarded += inputs[0].numel()

    with foreign_code():
        from lm_eval import simple_evaluate
        from lm_eval.loggers import EvaluationTracker
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        tracker = EvaluationTracker(output_path=str(out))
        lm = HFLM(pretrained=str(setting.model), device="cpu", dtype="float32", batch_size=BATCH, **model_args)
        lm.model.register_forward_pre_hook(count)
        results = simple_evaluate(
            model=lm,
            tasks=[lm_eval_group(form) for form in setting.forms],
            num_fewshot=NUM_FEWSHOT,
            task_manager=TaskManager(include_path=str(setting.lm_eval_tasks), include_defaults=False),
            evaluation_tracker=tracker,
        )
        samples = results.pop("samples")
        tracker.save_results_aggregated(results=results, samples=samples)
        for task in results["configs"]:
            tracker.save_results_samples(task_name=task, samples=samples[task])
    return read_lm_eval_run(out, setting), num_forwarded


def score_with_steelyard(setting: Setting, out: Path, **engine: Any) -> dict[str, Run]:
    plan = write_plan(setting, "float32", **engine)
    assert main(["run", str(plan), "--out", str(out)]) == 0
    return read_steelyard_runs(out)


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "BOS as the tokenizer adds it": ({}, {}),
    "no BOS, as up to 0.4.9.1": ({"bos": "never"}, {"add_bos_token": False}),
    "cut on the left": ({"max_length": SHORT}, {"max_length": SHORT}),
}


@dataclass(frozen=True, slots=True)
class Case:
    """Both programs' results in one case, the samples in token ids by form, and what lm-eval forwarded."""

    name: str
    ours: dict[str, Run]
    theirs: LmEvalRun
    encoded: dict[str, list[EncodedSample]]
    num_forwarded: int

    def compare(self, form: str) -> Comparison:
        num_tokens = [[len(request.targets) for request in one.requests] for one in self.encoded[form]]
        return compare(self.ours[form].scores, self.theirs.scores[form], num_tokens)


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    engine, model_args = CASES[request.param]
    ours = score_with_steelyard(setting, tmp_path_factory.mktemp("ours"), **engine)
    theirs, num_forwarded = score_with_lm_eval(setting, tmp_path_factory.mktemp("theirs"), **model_args)
    session = open_session(setting, **engine)
    encoded = {form: encode_form(session, setting, form) for form in FORMS}
    return Case(request.param, ours, theirs, encoded, num_forwarded)


@pytest.mark.parametrize("form", FORMS)
def test_scores_are_lm_evaluation_harnesss(case: Case, form: str) -> None:
    found = case.compare(form)
    assert found.num_samples == len(SUBJECTS) * NUM_QUESTIONS
    assert found.num_prompts_differ == 0
    assert found.max_difference <= 1e-4
    assert found.flips == found.flips_norm == ()
    assert found.num_greedy_differ == 0
    assert found.num_ties[0] == found.num_ties[1]


@pytest.mark.parametrize("form", FORMS)
def test_means_and_standard_errors_are_lm_evaluation_harnesss_to_the_last_digit(case: Case, form: str) -> None:
    figures = list(compare_figures(form, case.ours[form], case.theirs.results))
    assert [one.name for one in figures[:2]] == ["management acc", "management acc_stderr"]
    assert len(figures) == (len(SUBJECTS) + 1) * 2 * len(METRICS[form])
    assert all(one.ours is not None and one.ours == one.theirs for one in figures)


def test_what_lm_evaluation_harness_forwards_is_what_the_study_counts(case: Case) -> None:
    samples = [one for own in case.encoded.values() for one in own]
    tokens = count_lm_eval_tokens(samples, BATCH)
    assert tokens.padded == case.num_forwarded >= tokens.forwarded


def test_the_cases_are_what_they_are_called(case: Case) -> None:
    requests = [request for own in case.encoded.values() for one in own for request in one.requests]
    assert max(len(request.targets) for request in requests) > 8
    truncated = [score.truncated for run in case.ours.values() for score in run.scores]
    assert all(truncated) if case.name == "cut on the left" else not any(truncated)
    assert {int(request.inputs[0]) == BOS for request in requests} == {case.name.startswith("BOS")}


def a_score(**changes: Any) -> Score:
    known = Score("a/0", "a", 0, "hash", 1, 1, False, False, (-2.0, -1.0), (False, True), (1, 1))
    return replace(known, **changes)


def test_a_difference_of_any_kind_is_seen() -> None:
    def found(**changes: Any) -> Comparison:
        return compare([a_score(), a_score(id="a/1")], [a_score(), a_score(id="a/1", **changes)], [[1, 4]] * 2)

    assert found() == Comparison(2, 0, 0.0, 0.0, 0.0, (), (), 0, (0, 0))
    assert found(prompt_hash="other").num_prompts_differ == 1
    far = found(loglikelihoods=(-2.0, -1.5))
    assert (far.max_difference, far.max_difference_a_token, far.mean_difference) == (0.5, 0.125, 0.125)
    assert found(prediction=0).flips == ("a/1",)
    assert found(correct=True).flips == ("a/1",)
    assert found(prediction_norm=0).flips_norm == ("a/1",)
    assert found(prediction_norm=0, correct_norm=None).flips_norm == ()  # lm-eval does not judge letters so
    assert found(is_greedy=(True, True)).num_greedy_differ == 1
    assert found(loglikelihoods=(-1.0, -1.0)).num_ties == (0, 1)


def test_runs_that_do_not_compare_are_refused() -> None:
    with pytest.raises(ScoringError, match="not of the same samples"):
        compare([a_score()], [a_score(id="a/1")], [[1, 1]])
    with pytest.raises(ScoringError, match="1 samples have no score; a/0: out of memory"):
        compare([a_score(error="out of memory")], [a_score()], [[1, 1]])


def test_what_is_published_names_no_path_of_this_machine(tmp_path: Path, model: Path) -> None:
    options = Namespace(
        model=str(model), dtype="float32", subjects=SUBJECTS, forms=FORMS, limit=3, out=tmp_path / "out"
    )
    publish(options, "parity", {"goals": {}}, ["# Parity", describe(options)])
    files = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert set(files) == {f"parity-{model.name}-float32-limit3{suffix}" for suffix in (".json", ".md")}
    for text in files.values():
        assert model.name in text
        assert str(model.parent) not in text
        assert str(Path(__file__).parents[1]) not in text

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from bench.config import TaskSpec
from bench.records import Sample
from bench.tasks.audit import Finding, audit
from bench.tasks.dataset import Dataset, load_rows
from bench.tasks.task import Task, load_task


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("pocket")


def sample(number: int, subject: str = "sea", gold: int | None = None, question: str = "", **keys: object) -> Sample:
    choices: Sequence[str] = keys.get("choices", ("oak", "elm", "fir", "ash"))  # type: ignore[assignment]
    variables = {"question": question or f"Question {number}?", "choices": choices}
    return Sample(f"{subject}-{number}", subject, tuple(choices), (number % 4 if gold is None else gold,), variables)


def dataset(samples: Sequence[Sample], shots: dict[str, tuple[Sample, ...]] | None = None) -> Dataset:
    own = {"sea": tuple(sample(1000 + number) for number in range(5))} if shots is None else shots
    return Dataset(tuple(samples), own, len(samples), "", "", None)


def clean(num: int = 40) -> list[Sample]:
    return [sample(number) for number in range(num)]


def found(task: Task, data: Dataset, check: str) -> list[Finding]:
    findings = audit(task, data)
    assert {finding.check for finding in findings} == {check}
    return findings


def test_clean_rows_have_no_findings(task: Task) -> None:
    assert audit(task, dataset(clean())) == []


def test_pocket_has_no_findings(task: Task) -> None:
    data = load_rows(task, TaskSpec.model_validate("pocket"))
    assert audit(task, data) == []
    assert len(data.samples) >= 300
    assert len(data.shots) >= 12
    assert {len(pool) for pool in data.shots.values()} == {5}


def test_a_question_asked_twice_is_found_under_other_case_blanks_and_stops(task: Task) -> None:
    samples = [*clean(), sample(99, question="question  3"), sample(100)]
    (finding,) = [item for item in audit(task, dataset(samples)) if item.check == "repeated question"]
    assert finding.ids == ("sea-3", "sea-99")


def test_a_question_among_the_shots_of_another_is_found(task: Task) -> None:
    shots = {
        "sea": tuple(sample(1000 + number, question=f"Question {number}?" if not number else "") for number in range(5))
    }
    (finding,) = found(task, dataset(clean(), shots), "repeated question")
    assert finding.ids == ("sea-0", "sea-1000")


def test_a_sample_that_serves_as_a_shot_is_not_a_repeat(task: Task) -> None:
    samples = clean()
    assert audit(task, dataset(samples, {"sea": tuple(samples[:5])})) == []


@pytest.mark.parametrize(
    ("choices", "check"),
    [
        (("oak", "elm", "Oak.", "ash"), "repeated option"),
        (("oak ", "elm", "fir", "ash"), "stray blanks"),
        (("oak", "elm", "fir", "a  sh"), "stray blanks"),
        (("oak", "e\tlm", "fir", "ash"), "stray blanks"),
        (("oak", "e\u00a0lm", "fir", "ash"), "stray blanks"),
    ],
)
def test_options_are_distinct_and_clean(task: Task, choices: tuple[str, ...], check: str) -> None:
    samples = clean()
    samples[7] = sample(7, choices=choices)
    (finding,) = found(task, dataset(samples), check)
    assert finding.ids == ("sea-7",)
    assert "1 questions" in finding.message


def test_blanks_around_a_question_are_found_but_line_breaks_in_it_are_not(task: Task) -> None:
    samples = clean()
    samples[3] = sample(3, question="One\ntwo?")
    assert audit(task, dataset(samples)) == []
    samples[3] = sample(3, question=" One?")
    assert found(task, dataset(samples), "stray blanks")[0].ids == ("sea-3",)


def test_a_letter_that_is_right_too_often_is_found(task: Task) -> None:
    lopsided = [replace(item, golds=(1,)) if number % 3 == 0 else item for number, item in enumerate(clean(200))]
    messages = [finding.message for finding in found(task, dataset(lopsided), "gold balance")]
    assert "B is right in 101 of 200 questions, 50 expected" in messages
    assert "subject sea: B is right in 101 of 200 questions, 50 expected" in messages


def test_a_lopsided_subject_is_found_in_a_balanced_task(task: Task) -> None:
    samples = [sample(number, "sea", 0) for number in range(20)]
    samples += [sample(number + 100, f"other{number % 6}", 1 + number // 6 % 3) for number in range(60)]
    shots = dict.fromkeys((item.subject for item in samples), dataset([]).shots["sea"])
    messages = [finding.message for finding in found(task, dataset(samples, shots), "gold balance")]
    assert messages == ["subject sea: A is right in 20 of 20 questions, 5 expected"]


@pytest.mark.parametrize(("text", "words"), [("a long option", "longest"), ("a", "shortest")])
def test_a_length_that_gives_the_answer_away_is_found(task: Task, text: str, words: str) -> None:
    samples = [
        sample(number, choices=[text if place == number % 4 else f"oak{place}" for place in range(4)])
        for number in range(40)
    ]
    (finding,) = found(task, dataset(samples), "giveaway")
    assert finding.message == f"picking the {words} option is right in 40 of 40 questions, 10 expected"


def test_options_of_equal_length_give_nothing_away(task: Task) -> None:
    assert not [finding for finding in audit(task, dataset(clean(400))) if finding.check == "giveaway"]


def test_shots_are_as_many_as_needed_and_not_all_of_one_letter(task: Task) -> None:
    pool = dataset([]).shots["sea"]
    (short,) = found(task, dataset(clean(), {"sea": pool[:3]}), "uneven shots")
    assert short.message == "shots: 3 for 1 subjects; num_fewshot is 5"
    same = tuple(replace(shot, golds=(2,)) for shot in pool)
    (lopsided,) = found(task, dataset(clean(), {"sea": same}), "uneven shots")
    assert lopsided.message == "subject sea: C is right in 5 of 5 shots"


def test_categories_and_subjects_must_match(task: Task) -> None:
    sorted_task = task.model_copy(update={"categories": {"water": ("see",)}})
    messages = [finding.message for finding in found(sorted_task, dataset(clean()), "categories")]
    assert messages == ["in no category: sea", "in a category, but without rows: see"]

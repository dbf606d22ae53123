from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.config import TaskSpec
from bench.errors import DataError, PlanError, TaskError
from bench.records import Prompt, PromptedSample, Request, Sample
from bench.tasks.dataset import load_rows
from bench.tasks.form import Form, Generate
from bench.tasks.prompts import build_prompts, prompt_hash
from bench.tasks.source import Columns, Files, Gold, Source
from bench.tasks.task import TASKS_DIR, Task, load_task

# Rows with all that a template, a CSV file or a careless strip() could change.
QUESTIONS = [
    ("  Which is blank at both ends? ", ["one", "two", "three", "four"], 2),
    ("Two\nlines,\n\nand a blank one?\n", ["a, b", 'a "b"', "ends in a blank ", " starts with one"], 3),
    ("{{ question }} {% if x %}", ["{{ 1 + 1 }}", "{% raw %}", "# no comment", "None"], 0),
    ("Wie groß ist α, 大?", ["größer", "α < 1", "大", "\u2028x"], 1),
    ("7", ["1", "2", "3", "4"], 0),
    ("<b>&amp;</b> it's", ["&lt;", "'", '"', "<"], 3),
    ("Tab\tand\r\nreturn", ["\tx", "x\ty", "z", "Answer:"], 2),
]
Write = Callable[..., Path]


def use_of(name: str, **keys: object) -> TaskSpec:
    return TaskSpec.model_validate({"task": name, **keys})


@pytest.fixture
def mmlu_folder(tmp_path: Path) -> Path:
    """Two subjects in MMLU's original layout: seven questions, and the same in another order as shots."""
    for subject in ("college_sea", "sky"):
        for split, rows in (("test", QUESTIONS), ("dev", QUESTIONS[::-1])):
            path = tmp_path / split / f"{subject}_{split}.csv"
            path.parent.mkdir(exist_ok=True)
            with path.open("w", encoding="utf-8", newline="") as stream:
                csv.writer(stream).writerows([question, *choices, "ABCD"[gold]] for question, choices, gold in rows)
    return tmp_path


def build(mmlu_folder: Path, scoring: str, num_fewshot: int) -> list[PromptedSample]:
    task = load_task("mmlu")
    dataset = load_rows(task, use_of("mmlu", data_dir=str(mmlu_folder), num_fewshot=num_fewshot))
    return build_prompts(task, scoring, dataset, num_fewshot)


def lm_eval_task(folder: str, template: str, subject: str, description: str) -> Any:
    """lm-evaluation-harness's own task, from its own template, over our rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import datasets
        import lm_eval.tasks
        import yaml
        from lm_eval.api.task import ConfigurableTask

        path = Path(lm_eval.tasks.__file__).parent / "mmlu" / folder / template
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        rows = [
            {"question": question, "subject": subject, "choices": choices, "answer": gold}
            for question, choices, gold in QUESTIONS
        ]
        splits = {"test": datasets.Dataset.from_list(rows), "dev": datasets.Dataset.from_list(rows[::-1])}
        config.update(task=subject, dataset_path=None, custom_dataset=lambda **_: splits, description=description)
        logging.disable(logging.WARNING)
        try:
            return ConfigurableTask(config=config)
        finally:
            logging.disable(logging.NOTSET)


@pytest.mark.parametrize(
    ("scoring", "folder", "template", "description"),
    [
        (
            "letter",
            "default",
            "_default_template_yaml",
            "The following are multiple choice questions (with answers) about college sea.\n\n",
        ),
        (
            "cloze",
            "continuation",
            "_continuation_template_yaml",
            "The following are questions (with answers) about college sea.\n\n",
        ),
    ],
)
@pytest.mark.parametrize("num_fewshot", [0, 1, 5])
def test_prompts_are_lm_evaluation_harnesss_byte_for_byte(
    mmlu_folder: Path, scoring: str, folder: str, template: str, description: str, num_fewshot: int
) -> None:
    reference = lm_eval_task(folder, template, "college_sea", description)
    ours = [item for item in build(mmlu_folder, scoring, num_fewshot) if item.sample.subject == "college_sea"]
    documents = list(reference.test_docs())
    assert len(documents) == len(ours) == len(QUESTIONS)
    for document, item in zip(documents, ours, strict=True):
        context = reference.fewshot_context(document, num_fewshot)
        requests = reference.construct_requests(document, context, metadata=(None, 0, 1))
        assert [(r.prompt.text, r.continuation) for r in item.requests] == [request.args for request in requests]
        assert item.requests[0].prompt.sha256 == hashlib.sha256(context.encode()).hexdigest()


def test_lm_evaluation_harness_describes_every_mmlu_subject_as_we_do() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import lm_eval.tasks
        import yaml

    from bench.tasks.template import compile_template

    folder, task = Path(lm_eval.tasks.__file__).parent / "mmlu", load_task("mmlu")
    for scoring, name in (("letter", "default"), ("cloze", "continuation")):
        theirs = [yaml.safe_load(path.read_text()) for path in sorted((folder / name).glob("mmlu_*.yaml"))]
        ours = compile_template(task.forms[scoring].description)
        assert len(theirs) == 57
        assert all(config["description"] == ours.render(subject=config["dataset_name"]) for config in theirs)
        for config in theirs if name == "default" else ():
            category = config["tag"].removeprefix("mmlu_").removesuffix("_tasks")
            assert config["dataset_name"] in task.categories[category]


def test_what_a_subject_shares_is_the_same_object(mmlu_folder: Path) -> None:
    prompts = [item.requests[0].prompt for item in build(mmlu_folder, "letter", 3)]
    assert prompts[0].description is prompts[6].description
    assert prompts[0].shots is prompts[6].shots
    assert prompts[0].shots is not prompts[7].shots
    assert len(prompts[0].shots) == 3


def test_the_requests_of_a_sample_share_their_prompt(mmlu_folder: Path) -> None:
    item = build(mmlu_folder, "cloze", 1)[0]
    assert all(request.prompt is item.requests[0].prompt for request in item.requests)
    assert [request.continuation for request in item.requests] == [" one", " two", " three", " four"]


TASK = """\
version: 1
title: Own
sources:
- test: own.csv
  shots: own.csv
  columns: {question: q, choices: [a, b], gold: {column: gold, as: text}}
num_fewshot: 2
scoring: plain
forms:
  plain:
    question: "{{ q }}\\n"
    continuations: choices
    delimiter: "> "
    shot_separator: "|"
"""


@pytest.fixture
def own(tmp_path: Path) -> Callable[..., list[PromptedSample]]:
    def _own(task: str = TASK, num_fewshot: int = 2) -> list[PromptedSample]:
        path = tmp_path / "own.yaml"
        path.write_text(task)
        (tmp_path / "own.csv").write_text("q,a,b,gold\n1?,x,y,x\n2?,x,y,y\n3?,x,y,x\n4?,x,y,x\n")
        loaded = load_task(str(path))
        return build_prompts(
            loaded, "plain", load_rows(loaded, use_of(str(path), num_fewshot=num_fewshot)), num_fewshot
        )

    return _own


def test_a_sample_is_never_its_own_shot(own: Callable[..., list[PromptedSample]]) -> None:
    prompts = [item.requests[0].prompt for item in own()]
    assert [prompt.text for prompt in prompts] == [
        "2?\n> y|3?\n> x|1?\n",
        "1?\n> x|3?\n> x|2?\n",
        "1?\n> x|2?\n> y|3?\n",
        "1?\n> x|2?\n> y|4?\n",
    ]
    assert prompts[2].shots is prompts[3].shots


def test_too_few_shots_are_an_error(own: Callable[..., list[PromptedSample]], mmlu_folder: Path) -> None:
    with pytest.raises(PlanError, match="num_fewshot is 4, but task own has 3 shots for sample 0"):
        own(num_fewshot=4)
    with pytest.raises(PlanError, match="num_fewshot is 8, but subject 'college_sea' of task mmlu has 7 shots"):
        build(mmlu_folder, "letter", 8)


@pytest.mark.parametrize("template", ["{{ choices[2] }}", "{{ q.strip(1) }}", "{{ 1 // 0 }}", "{{ q.__class__ }}"])
def test_a_template_that_fails_on_a_row_names_file_key_and_sample(
    own: Callable[..., list[PromptedSample]], template: str
) -> None:
    with pytest.raises(TaskError, match=r"own\.yaml: forms\.plain\.question: fails on sample 0: .*") as caught:
        own(TASK.replace("{{ q }}", template), num_fewshot=0)
    assert "\n" not in str(caught.value)


def test_the_prompt_hash_sees_each_text(own: Callable[..., list[PromptedSample]]) -> None:
    variants = [
        TASK,
        TASK.replace('"> "', '">"'),
        TASK.replace("{{ q }}", "{{ q }} "),
        TASK.replace("continuations: choices", "continuations: labels"),
        TASK.replace('"|"', '"||"'),
        TASK.replace("  plain:\n", '  plain:\n    description: "!"\n'),
    ]
    assert len({prompt_hash(own(variant)) for variant in variants}) == len(variants)
    assert prompt_hash(own()) == prompt_hash(own())


def test_the_prompt_hash_sees_where_texts_end() -> None:
    def prompted(context: str, *continuations: str) -> list[PromptedSample]:
        prompt = Prompt("", (), context)
        return [PromptedSample(Sample("", "", (), (0,), {}), tuple(Request(prompt, text) for text in continuations))]

    cuts = [
        prompted("ab", "c", "d"),
        prompted("a", "bc", "d"),
        prompted("ab", "cd"),
        prompted("ab", "c") + prompted("d", ""),
    ]
    assert len({prompt_hash(cut) for cut in cuts}) == len(cuts)


def test_the_documented_example_works_as_it_stands(tmp_path: Path) -> None:
    readme = (TASKS_DIR / "README.md").read_text(encoding="utf-8")
    for suffix in ("csv", "yaml"):
        block = readme.split(f"```{suffix}\n")[1].split("```")[0]
        (tmp_path / f"birds.{suffix}").write_text(block, encoding="utf-8")
    path = str(tmp_path / "birds.yaml")
    task, use = load_task(path), use_of(path)
    letter = build_prompts(task, use.scoring, load_rows(task, use), use.num_fewshot)
    assert letter[1].requests[0].prompt.text == (
        "Which bird sings at night?\nA. Nightingale\nB. Eagle\nC. Swan\nAnswer: A\n\n"
        "Which bird copies speech?\nA. Sparrow\nB. Parrot\nC. Owl\nAnswer:"
    )
    cloze = build_prompts(task, "cloze", load_rows(task, use), 0)
    assert cloze[3].requests[0].prompt.text == "Question: Which bird hovers?\nAnswer:"
    assert [request.continuation for request in cloze[3].requests] == [" Hummingbird", " Goose", " Stork"]


def test_every_key_of_the_schema_is_documented() -> None:
    readme = (TASKS_DIR / "README.md").read_text(encoding="utf-8")
    for model in (Task, Source, Files, Columns, Gold, Form, Generate):
        for name, field in model.model_fields.items():
            key = field.alias or name
            assert f"`{key}`" in readme or f"{key}: " in readme, f"{model.__name__}.{key}"


def test_all_questions_of_a_subject_share_its_shots() -> None:
    folder = Path(os.environ.get("STEELYARD_DATA", "")) / "mmlu"
    if not folder.is_dir():
        pytest.skip("needs MMLU in the original layout: set STEELYARD_DATA to a folder with mmlu/ in it")
    task = load_task("mmlu")
    dataset = load_rows(task, use_of("mmlu", data_dir=str(folder)))
    prompted = build_prompts(task, "letter", dataset, 5)
    assert len(prompted) == 14042
    assert len({id(item.requests[0].prompt.shots) for item in prompted}) == 57


def write_task(folder: Path, rows: list[dict[str, Any]], source: dict[str, Any], form: dict[str, Any]) -> str:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = {"version": 1, "title": "t", "sources": [{"test": "rows.jsonl", "shots": "rows.jsonl", **source}]}
    path = folder / "mine.yaml"
    path.write_text(
        yaml.safe_dump({**task, "scoring": "form", "forms": {"form": form}}, sort_keys=False), encoding="utf-8"
    )
    return str(path)


def build_own(path: str, num_fewshot: int = 0) -> list[PromptedSample]:
    dataset = load_rows(load_task(path), use_of(path, num_fewshot=num_fewshot))
    return build_prompts(load_task(path), "form", dataset, num_fewshot)


def test_choices_may_stand_in_the_context(tmp_path: Path) -> None:
    rows = [
        {"text": "The cup fell off the _ and broke.", "a": "shelf", "b": "floor", "right": 0},
        {"text": "A _ has no legs.", "a": "dog", "b": "snake", "right": 1},
    ]
    source = {
        "compute": {"parts": "text.split('_', 1)", "before": "parts[0]", "after": "parts[1].strip()"},
        "columns": {"choices": ["a", "b"], "gold": {"column": "right", "as": "index"}},
    }
    form = {"question": "{{ before }}{{ choice }}", "continuation": "{{ after }}"}
    sample = build_own(write_task(tmp_path, rows, source, form), num_fewshot=1)[0]
    shot = "A snake has no legs.\n\n"
    assert [request.prompt.text for request in sample.requests] == [
        f"{shot}The cup fell off the shelf",
        f"{shot}The cup fell off the floor",
    ]
    assert {request.continuation for request in sample.requests} == {" and broke."}
    assert len({id(request.prompt.shots) for request in sample.requests}) == 1
    assert sample.without_shots(1).requests[1].prompt.text == "The cup fell off the floor"


def test_a_single_continuation_needs_no_choices(tmp_path: Path) -> None:
    source = {"compute": {"last": "text.split(' ')[-1]"}, "columns": {}}
    form = {"question": "{{ text.rsplit(' ', 1)[0] }}", "continuation": "{{ last }}"}
    (sample,) = build_own(write_task(tmp_path, [{"text": "so it goes"}], source, form))
    assert [(request.prompt.text, request.continuation) for request in sample.requests] == [("so it", " goes")]
    assert load_task(str(tmp_path / "mine.yaml")).forms["form"].metrics == ("acc", "perplexity")


def test_shots_of_an_answer_that_is_written(tmp_path: Path) -> None:
    rows = [{"q": "1 + 1?", "a": "One and one. #### 2"}, {"q": "2 + 2?", "a": "Two and two. #### 4"}]
    source = {"compute": {"number": "a.split('#### ')[1]"}, "columns": {"question": "q", "references": "number"}}
    form = {"question": "Q: {{ question }}\nA:", "answer": "{{ a }}", "generate": {"max_tokens": 9, "stop": ["Q:"]}}
    sample = build_own(write_task(tmp_path, rows, source, form), num_fewshot=1)[0]
    assert sample.prompt.text == "Q: 2 + 2?\nA: Two and two. #### 4\n\nQ: 1 + 1?\nA:"
    assert sample.prompt.turns == (("Q: 2 + 2?\nA:", "Two and two. #### 4"),)
    assert sample.sample.references == ("2",)
    assert [request.continuation for request in sample.requests] == [""]


def test_without_an_answer_template_a_shot_shows_the_reference(tmp_path: Path) -> None:
    rows = [{"q": "1 + 1?", "a": ["2", "two"]}, {"q": "2 + 2?", "a": ["4", "four"]}]
    source = {"columns": {"question": "q", "references": "a"}}
    form = {"question": "{{ question }}", "generate": {"max_tokens": 9}}
    assert build_own(write_task(tmp_path, rows, source, form), 1)[0].prompt.text == "2 + 2? 4\n\n1 + 1?"


@pytest.mark.parametrize(
    ("source", "form", "message"),
    [
        ({}, {"question": "{{ q }}", "continuations": "choices"}, "has no `columns.choices`, which form 'form' needs"),
        ({}, {"question": "{{ q }}"}, "has none of `continuations`, `continuation` and `generate`"),
        (
            {},
            {"question": "{{ q }}", "continuation": "x", "generate": {"max_tokens": 1}},
            "has continuation and generate of",
        ),
        ({}, {"question": "{{ q }}", "continuation": "x", "metrics": ["exact_match"]}, "no metric of lane likelihood"),
        ({}, {"question": "{{ q }}", "continuation": "x", "metric": "acc_norm"}, "is not among its metrics"),
        ({}, {"question": "{{ q }}", "continuation": "{{ nope }}"}, "unknown variable 'nope'"),
        ({"compute": {"x": "q +"}}, {"question": "{{ q }}", "continuation": "x"}, "not a valid expression"),
        ({"compute": {"x": "q.nope"}}, {"question": "{{ q }}", "continuation": "x"}, "row 1: compute.x"),
        ({"columns": {"choices": ["q", "r"]}}, {"question": "", "continuation": "x"}, "go together"),
    ],
)
def test_each_mistake_in_a_form_is_one_line(
    tmp_path: Path, source: dict[str, Any], form: dict[str, Any], message: str
) -> None:
    path = write_task(tmp_path, [{"q": "a", "r": "b"}], {"columns": {}, **source}, form)
    with pytest.raises((TaskError, DataError), match=re.escape(message)) as caught:
        build_own(path)
    assert "\n" not in str(caught.value)

"""Prompts as conversations are lm-evaluation-harness 0.4.13's with --apply_chat_template, for both lanes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lm_eval_prompts import lm_eval_task
from runs import Bench, read_info, read_lines

from bench.config import EngineSpec, ModelSpec, TaskSpec
from bench.engine.encode import Encoder, EncodingRules
from bench.errors import PlanError
from bench.local_model import LocalModel
from bench.models.chat import apply_chat_template
from bench.models.fake import fake_tokenizer
from bench.records import Message
from bench.session import Session
from bench.tasks.chat import ChatPrompt, conversation
from bench.tasks.job import Job
from bench.tasks.prepare import prepare_job

TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + TEMPLATE


def templated(template: str = TEMPLATE) -> Any:
    tokenizer = fake_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def render(tokenizer: Any) -> Any:
    def of(messages: list[Message]) -> str:
        return apply_chat_template(tokenizer, [{"role": one.role, "content": one.text} for one in messages])

    return of


@pytest.fixture
def mmlu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMLU_DIR", str(tmp_path))
    for split, rows in {
        "test": '" Which, bone? ",a ,b,c,d,C\nTwo?,1,2,3,4,A\n',
        "dev": "Shot?,w,x,y,z,B\nNext shot?,p,q,r,s,D\nThird?,1,2,3,4,A\n",
    }.items():
        (tmp_path / split).mkdir()
        (tmp_path / split / f"anatomy_{split}.csv").write_text(rows)
    return tmp_path


def use(**more: Any) -> Job:
    return prepare_job(TaskSpec.model_validate({"task": "mmlu", "num_fewshot": 2, "chat_template": True} | more))


def documents(*rows: tuple[str, list[str], int]) -> list[dict[str, Any]]:
    return [{"question": q, "choices": c, "answer": a, "subject": "anatomy"} for q, c, a in rows]


@pytest.mark.parametrize("system_prompt", [None, "Be brief.", "Be brief.\n"])
@pytest.mark.parametrize("multi_turn", [True, False])
@pytest.mark.parametrize("template", [TEMPLATE, NO_SYSTEM])
@pytest.mark.parametrize(("scoring", "folder"), [("letter", "default"), ("written", "generative")])
def test_contexts_are_lm_evals(
    mmlu: Path, system_prompt: str | None, multi_turn: bool, template: str, scoring: str, folder: str
) -> None:
    tokenizer = templated(template)
    job = use(scoring=scoring, system_prompt=system_prompt, multi_turn=multi_turn).in_chat(render(tokenizer))
    asked = documents((" Which, bone? ", ["a ", "b", "c", "d"], 2), ("Two?", ["1", "2", "3", "4"], 0))
    shots = documents(("Shot?", ["w", "x", "y", "z"], 1), ("Next shot?", ["p", "q", "r", "s"], 3))
    task = lm_eval_task(f"mmlu/{folder}/mmlu_anatomy.yaml", asked, shots)
    for document, sample in zip(task.eval_docs, job.samples, strict=True):
        context = task.fewshot_context(
            document,
            2,
            system_instruction=system_prompt,
            apply_chat_template=True,
            fewshot_as_multiturn=multi_turn,
            chat_template=lambda turns, add_generation_prompt: apply_chat_template(
                tokenizer, turns, adds_prompt=add_generation_prompt
            ),
        )
        assert sample.prompt.text == context
        assert "<|assistant|>" in context
        if scoring == "letter":
            made = task.construct_requests(document, context, apply_chat_template=True, metadata=(None, 0, 1))
            assert [one.continuation for one in sample.requests] == [one.args[1] for one in made]
        assert all(sample.prompt.text.startswith(sample.prompt.shared) for sample in job.samples)
        assert len(sample.prompt.shared) > 100 if multi_turn else True


def test_a_plain_system_prompt_is_lm_evals(mmlu: Path) -> None:
    job = use(system_prompt="Be brief.", chat_template=False)
    task = lm_eval_task("mmlu/default/mmlu_anatomy.yaml", documents(("Two?", ["1", "2", "3", "4"], 0)), documents())
    expected = task.fewshot_context(task.eval_docs[0], 0, system_instruction="Be brief.")
    assert use(system_prompt="Be brief.", chat_template=False, num_fewshot=0).samples[1].prompt.text == expected
    assert job.samples[0].prompt.text.startswith("Be brief.\n\nThe following")


def test_fewer_shots_are_left_out_of_the_conversation(mmlu: Path) -> None:
    tokenizer = templated()
    whole, one_less = (use(num_fewshot=num).in_chat(render(tokenizer)).samples[0].prompt for num in (2, 1))
    assert whole.without_shots(1).text == one_less.text
    assert whole.without_shots(1).without_shots(1).text == whole.without_shots(2).text
    assert whole.without_shots(0) is whole
    assert whole.sha256 != one_less.sha256


def test_packed_encoding_of_conversations_is_the_plain_one(mmlu: Path) -> None:
    job = use().in_chat(render(templated()))
    limit = len(job.samples[0].prompt.text) - 20  # bytes are tokens here: the first loses a shot
    encoder = Encoder(fake_tokenizer(), EncodingRules(limit))
    for sample, encoded in zip(job.samples, encoder.encode(job.samples), strict=True):
        text = sample.without_shots(encoded.num_shots_dropped).prompt.text
        assert encoded.requests[0].inputs.tolist() == fake_tokenizer().encode(text)
        assert len(text) <= limit
    assert encoder.encode(job.samples)[0].num_shots_dropped == 1


def test_what_an_api_is_told(mmlu: Path) -> None:
    job = use(scoring="written")
    told = job.conversation(job.samples[1].prompt)
    assert [message.role for message in told] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert [message.text for message in told][2::2] == ["B", "D"]
    single = use(scoring="written", multi_turn=False)
    assert [message.role for message in single.conversation(single.samples[1].prompt)] == ["system", "user"]
    plain = use(scoring="written", chat_template=False)
    assert plain.conversation(plain.samples[1].prompt) == (Message("user", plain.samples[1].prompt.text),)
    assert len({one.prompt_hash for one in (job, single, plain)}) == 3


def test_a_run_by_chat_template_says_so_and_holds(
    tmp_path: Path, mmlu: Path, cli: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.models.fake.fake_tokenizer", templated)
    plan = tmp_path / "plan.yaml"
    task = {"task": "mmlu", "num_fewshot": 2, "chat_template": True}
    tasks = [{**task, "scoring": scoring} for scoring in ("letter", "written")]
    plan.write_text(json.dumps({"models": [{"source": "fake"}], "tasks": tasks, "out": str(tmp_path / "results")}))
    assert cli("run", plan).code == 0
    for path in (tmp_path / "results").iterdir():
        assert cli("verify", path).code == 0
        (line, _) = read_lines(path)
        expected = use(scoring=read_info(path)["task"]["scoring"]).in_chat(render(templated()))
        assert line["prompt_hash"] == expected.samples[0].prompt.sha256


def test_a_tokenizer_without_a_template_is_told(tmp_path: Path, mmlu: Path, cli: Bench) -> None:
    plan = tmp_path / "plan.yaml"
    tasks = [{"task": "mmlu", "chat_template": True, "num_fewshot": 0}]
    plan.write_text(json.dumps({"models": [{"source": "fake"}], "tasks": tasks, "out": str(tmp_path / "results")}))
    result = cli("run", plan)
    assert result.code == 2
    assert "to be put by a chat template, and its tokenizer has none" in result.complaint


def test_the_template_is_part_of_the_identity(mmlu: Path) -> None:
    session = Session(ModelSpec(source="fake", device="cpu"), EngineSpec())
    found = []
    for template in (TEMPLATE, NO_SYSTEM):
        session.tokenizer.chat_template = template
        found.append(LocalModel(session).identity(use()))
    assert found[0] != found[1]
    assert "chat_template" not in LocalModel(session).identity(use(chat_template=False))


# --- shots and labels ---


def texts(job: Job) -> list[str]:
    return [turn[0].split("?")[0] for turn in job.samples[0].prompt.turns]


def test_shots_are_the_first_random_or_named_ones(mmlu: Path) -> None:
    assert texts(use()) == ["Shot", "Next shot"]
    drawn = {seed: texts(use(shots={"seed": seed})) for seed in range(8)}
    assert drawn[1] == texts(use(shots={"seed": 1}))
    assert len({tuple(names) for names in drawn.values()}) > 2
    named = use(shots={"ids": ["shots/anatomy/2", "shots/anatomy/0"]})
    assert texts(named) == ["Third", "Shot"]
    assert named.dataset.checksum == use().dataset.checksum  # the same data
    assert named.prompt_hash != use().prompt_hash


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"shots": {"ids": ["shots/anatomy/7", "x"]}}, "shots.ids: no shot 'shots/anatomy/7'; did you mean"),
        ({"shots": {"ids": ["shots/anatomy/1"]}}, "num_fewshot is 2, but subject 'anatomy' of task mmlu has 1 shots"),
        ({"task": "text", "scoring": "whole", "num_fewshot": 0}, "scores whole texts, which nobody asks"),
        ({"scoring": "cloze", "labels": ["1", "2", "3", "4"]}, "labels: form 'cloze' shows none"),
    ],
)
def test_what_cannot_be_had_is_told(mmlu: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError) as error:
        use(**more)
    assert message in str(error.value)


def test_labels(mmlu: Path) -> None:
    job = use(labels=["1", "2", "3", "4"], chat_template=False)
    sample = job.samples[1]
    assert sample.prompt.text.endswith("Two?\n1. 1\n2. 2\n3. 3\n4. 4\nAnswer:")
    assert [request.continuation for request in sample.requests] == [" 1", " 2", " 3", " 4"]
    assert "\nAnswer: 2\n\n" in sample.prompt.text  # the first shot's


def test_a_chat_prompt_is_a_prompt(mmlu: Path) -> None:
    prompt = use().in_chat(render(templated())).samples[0].prompt
    assert isinstance(prompt, ChatPrompt)
    assert conversation(prompt.plain, is_multi_turn=True)[-1].text.startswith("Which, bone?")

"""lm-eval on our engine against lm-eval on its own, and its command through ours."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import helpers  # noqa: F401  # sets the number of threads
import pytest
import tiny_kinds
from lm_eval.models.huggingface import HFLM
from lm_eval_tasks import NAMES, evaluate, write_tasks
from runs import Bench

from bench.errors import InputError, PlanError, ScoringError
from bench.lmeval.arguments import read_arguments
from bench.lmeval.asked import group_pairs, read_decoding
from bench.lmeval.model import SteelyardLM
from bench.models.fake import fake_config, fake_model, fake_tokenizer


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(autouse=True)
def _quick_and_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr("torch.utils.collect_env.get_pretty_env_info", lambda: "")  # asks pip and conda, for seconds


def hf(max_length: int = 4096) -> HFLM:
    return HFLM(
        pretrained=fake_model(fake_config()),
        tokenizer=fake_tokenizer(),
        backend="causal",
        batch_size=1,
        max_length=max_length,
    )


def assert_equal_evaluations(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert list(ours["samples"]) == list(theirs["samples"])
    for name, samples in theirs["samples"].items():
        assert len(samples) == len(ours["samples"][name]) > 0
        for mine, other in zip(ours["samples"][name], samples, strict=True):
            assert (mine["doc_hash"], mine["prompt_hash"]) == (other["doc_hash"], other["prompt_hash"])
            assert_equal_answers(mine["resps"], other["resps"])
    for name, metrics in theirs["results"].items():
        own = ours["results"][name]
        assert {key: own[key] for key in metrics if "acc" in key or "match" in key} == {
            key: value for key, value in metrics.items() if "acc" in key or "match" in key
        }


def assert_equal_answers(mine: Any, other: Any) -> None:
    """Texts and `is_greedy` are equal, loglikelihoods up to rounding (lm-eval adds up in fp32)."""
    if isinstance(other, list | tuple):
        assert len(mine) == len(other)
        for one, another in zip(mine, other, strict=True):
            assert_equal_answers(one, another)
    elif isinstance(other, float):
        assert mine == pytest.approx(other, rel=1e-6, abs=1e-4)
    else:
        assert mine == other


@pytest.mark.parametrize("max_length", [4096, 70])
def test_all_request_types_are_answered_as_lm_evals_own_model_does(max_length: int, tasks: Path) -> None:
    ours = evaluate(SteelyardLM(pretrained="fake", device="cpu", max_length=max_length), tasks)
    assert_equal_evaluations(ours, evaluate(hf(max_length), tasks))


def test_an_encoder_decoder(tasks: Path, tmp_path: Path) -> None:
    # as many layers in the decoder: with more, transformers' generate, and so lm-eval's own model, fails
    model = tiny_kinds.tiny("seq2seq", "t5", vocab_size=300, num_decoder_layers=2)
    tokenizer = tiny_kinds.t5_tokenizer()
    folder = tiny_kinds.write_folder(tmp_path / "model", model, tokenizer)
    names = ["own_answers", "own_cloze", "own_last_word"]
    ours = evaluate(SteelyardLM(pretrained=str(folder), device="cpu"), tasks, names)
    theirs = evaluate(HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1), tasks, names)
    for mine, other in zip(ours["samples"]["own_answers"], theirs["samples"]["own_answers"], strict=True):
        # lm-eval adds the context's length to max_gen_toks, though a decoder's length does not count the context
        assert other["resps"][0][0].startswith(mine["resps"][0][0])
        mine["resps"] = other["resps"]
    assert_equal_evaluations(ours, theirs)


def test_chat_templates(tasks: Path) -> None:
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<me>{% endif %}"
    )
    ours, theirs = SteelyardLM(pretrained="fake", device="cpu"), hf()
    ours.tokenizer.chat_template = theirs.tokenizer.chat_template = template
    options: dict[str, Any] = {
        "apply_chat_template": True,
        "fewshot_as_multiturn": True,
        "system_instruction": "Short.",
    }
    names = ["own_letters", "own_answers"]
    found = evaluate(ours, tasks, names, **options)
    assert_equal_evaluations(found, evaluate(theirs, tasks, names, **options))
    assert found["samples"]["own_letters"][0]["arguments"][0][0].startswith("<system>Short.")


def test_a_template_that_refuses_system_messages_is_given_the_others() -> None:
    template = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    template += "{{ m.content }}|{% endfor %}"
    ours, theirs = SteelyardLM(pretrained="fake", device="cpu"), hf()
    ours.tokenizer.chat_template = theirs.tokenizer.chat_template = template
    history = [{"role": "system", "content": "Short."}, {"role": "user", "content": "Hi"}]
    assert ours.apply_chat_template(history) == theirs.apply_chat_template(history) == "Hi|"


def test_a_model_without_chat_template_says_so() -> None:
    with pytest.raises(InputError, match="no chat template"):
        SteelyardLM(pretrained="fake", device="cpu").apply_chat_template([{"role": "user", "content": "Hi"}])


def test_pairs_of_one_context_become_one_sample() -> None:
    pairs = [
        ("t", "ask: b", " 1"),
        ("t", "ask: c", " 1"),
        ("t", "ask: b", " 2"),
        ("t", "ask: b", " 1"),
        ("u", "z", " 1"),
    ]
    samples, places = group_pairs(pairs)
    assert [[request.continuation for request in one.requests] for one in samples] == [[" 1", " 2"], [" 1"], [" 1"]]
    assert [one.requests[0].prompt.text for one in samples] == ["ask: b", "ask: c", "z"]
    assert samples[0].requests[0].prompt.description == samples[1].requests[0].prompt.description == "ask: "
    assert places == [[[0, 3], [2]], [[1]], [[4]]]


def test_a_request_without_an_answer_stops_lm_eval_rather_than_count_as_wrong() -> None:
    from lm_eval.api.instance import Instance

    lm = SteelyardLM(pretrained="fake", device="cpu", max_length=16)
    request = Instance("loglikelihood", {}, ("one", " and a continuation that is too long"), 0, ("some_task", 7, 1))
    with pytest.raises(ScoringError, match="task some_task, document 7: a continuation of 36 tokens exceeds"):
        lm.loglikelihood([request], disable_tqdm=True)


def test_token_ids_are_scored_as_they_are() -> None:
    ours, theirs = SteelyardLM(pretrained="fake", device="cpu"), hf()
    pairs = [(("", ""), [3, 4, 5], [6, 7]), (("", ""), [3], [9])]
    assert_equal_answers(
        ours._loglikelihood_tokens(pairs, disable_tqdm=True), theirs._loglikelihood_tokens(pairs, disable_tqdm=True)
    )
    assert ours.tok_encode("one") == theirs.tok_encode("one")


def test_model_arguments_in_lm_evals_names_and_in_ours() -> None:
    asked = read_arguments(
        {"pretrained": "owner/name", "revision": 12, "parallelize": True, "add_bos_token": False, "batch_size": 8}
        | {
            "max_batch_tokens": 512,
            "dtype": "float32",
            "peft": "some/lora",
            "enable_thinking": False,
            "max_length": None,
        }
    )
    assert (asked.model.source, asked.model.revision, asked.model.parallel) == ("owner/name", "12", "layers")
    assert asked.model.adapter is not None
    assert asked.model.adapter.source == "some/lora"
    assert (asked.engine.bos, asked.engine.max_batch_tokens, asked.engine.overlong) == ("never", 512, "cut_left")
    assert asked.template == {"enable_thinking": False}
    assert read_arguments({"pretrained": "a/b", "gguf_file": "c.gguf"}).model.source == "a/b/c.gguf"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"pretrained": "fake", "dtyp": "float32"}, "--model_args dtyp: .* did you mean 'dtype'"),
        ({"pretrained": "fake", "dtype": "float8"}, "--model_args: dtype: 'float8' is not one of the allowed values"),
        ({"dtype": "float32"}, "pretrained is missing"),
        ({"pretrained": "fake", "overlong": "drop_shots"}, "overlong: not known"),
        ({"pretrained": "fake", "parallelize": "layers"}, "parallelize: 'layers' is not one of .* True, False"),
        ({"pretrained": "fake", "chat_template_args": 3}, "chat_template_args: must be a JSON object"),
        ({"pretrained": "fake", "device": "mps"}, "'mps' is not a device"),
    ],
)
def test_model_arguments_that_are_wrong(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(PlanError, match=told):
        read_arguments(arguments)


def test_generation_arguments() -> None:
    greedy = read_decoding({"until": ["\n"], "do_sample": False, "temperature": 0.7}, 256, 1)
    assert (greedy.stop, greedy.temperature, greedy.max_tokens) == (("\n",), 0.0, 256)
    sampled = read_decoding(
        {"until": "Q", "max_new_tokens": 5, "temperature": 0.7, "top_p": 0.9, "num_beams": 1}, 256, 1
    )
    assert (sampled.stop, sampled.temperature, sampled.top_p, sampled.max_tokens) == (("Q",), 0.7, 0.9, 5)
    with pytest.raises(InputError, match="generation argument num_beams: not followed"):
        read_decoding({"until": [], "num_beams": 4}, 256, 1)


def test_lm_evals_command(tasks: Path, tmp_path: Path, cli: Bench) -> None:
    arguments = ["lm-eval", "--model_args", "pretrained=fake,device=cpu", "--tasks", "own_cloze,own_text"]
    options = ["--include_path", str(tasks), "--output_path", str(tmp_path / "out"), "--log_samples", "--limit", "3"]
    done = cli(*arguments, *options)
    assert done.code == 0
    assert "|own_cloze|" in done.out
    (results,) = (tmp_path / "out" / "fake").glob("results_*.json")
    found = json.loads(results.read_text(encoding="utf-8"))
    assert found["config"]["model"] == "steelyard"
    assert found["config"]["model_dtype"] == "torch.float32"
    assert found["config"]["steelyard_engine"]["path"] == "packed"
    assert len(list((tmp_path / "out" / "fake").glob("samples_*.jsonl"))) == 2


def test_what_is_wrong_with_lm_evals_arguments_is_one_line(tasks: Path, cli: Bench) -> None:
    done = cli(
        "lm-eval", "--model_args", "pretrained=fake,dtyp=1", "--tasks", "own_cloze", "--include_path", str(tasks)
    )
    assert done.code == 2
    assert "did you mean 'dtype'" in done.err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--tasks", "no_such_task"], "lm-eval: Tasks not found: no_such_task"),
        (["--tasks", "piqa", "--log_samples"], "lm-eval: Specify --output_path"),
    ],
)
def test_what_lm_eval_refuses_is_told_in_one_line(options: list[str], told: str, cli: Bench) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm_eval.tasks._index.TaskIndex._iter_yaml_files", staticmethod(lambda _: iter(())))
        done = cli("lm-eval", "--model_args", "pretrained=fake", *options)
    assert done.code == 2
    assert told in done.complaint


def test_without_lm_eval_the_error_is_how_to_install_it(cli: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval._cli", None)
    done = cli("lm-eval", "ls", "tasks")
    assert (done.code, done.err) == (2, "bench: lm_eval._cli is not installed: pip install 'steelyard[lm-eval]'\n")


def test_names_of_tasks_are_those_that_the_tests_evaluate() -> None:
    assert {"own_answers", "own_cloze", "own_last_word", "own_letters", "own_text"} == set(NAMES)

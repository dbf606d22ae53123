"""Runs whose model vLLM runs: what it is asked, and what is made of its answers, against the default backend.

vLLM itself is not here: `tests/stand_ins/vllm` has the arguments and outputs of the real one, and computes plainly.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from runs import Bench, Result, read_info, read_lines, run_folders
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from bench.engine.tokenwise import draw_seeds
from bench.hf import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

STAND_INS = Path(__file__).parent / "stand_ins"
TEMPLATE = "{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}\n{% endfor %}<assistant>"
LETTER = {"task": "pocket", "scoring": "letter", "num_fewshot": 1, "limit": 12}
WRITTEN = {"task": "pocket", "scoring": "written", "num_fewshot": 1, "limit": 6}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaMA whose tokenizer has a token for each byte and for each letter after a space."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [f"Ġ{letter}" for letter in "ABCD"]
    vocabulary = {symbol: index for index, symbol in enumerate([*alphabet, *words])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ġ", letter) for letter in "ABCD"]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    tokenizer.chat_template = TEMPLATE
    config = AutoConfig.for_model(
        "llama",
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        AutoModelForCausalLM.from_config(config).eval().save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The stand-in as the installed package."""

    def forget() -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == "vllm"]:
            del sys.modules[name]

    about = tmp_path / "site" / "vllm-0.32.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0\n")
    for path in (about.parent, STAND_INS):
        monkeypatch.syspath_prepend(path)
    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_NO_USAGE_STATS", "VLLM_LOGGING_LEVEL"):
        monkeypatch.setenv(name, "")  # what is set in a test does not outlast it
        monkeypatch.delenv(name)
    forget()
    import vllm

    yield vllm
    forget()


class Runs:
    """Runs of one plan after another, on both backends."""

    def __init__(self, cli: Bench, folder: Path, tmp_path: Path) -> None:
        self._cli = cli
        self._folder = folder
        self._path = tmp_path

    def plan(self, *tasks: Any, out: str = "vllm", backend: str = "vllm", **more: Any) -> Path:
        model = {"source": str(self._folder), "device": "cpu", **more}
        if backend == "vllm":
            model = {"source": str(self._folder), "backend": "vllm", **more}
        engine = model.pop("engine", {})
        plan = {"models": [model], "tasks": list(tasks), "engine": engine, "out": str(self._path / out)}
        path = self._path / f"{out}.yaml"
        path.write_text(yaml.safe_dump(plan))
        return path

    def __call__(self, *tasks: Any, **more: Any) -> Result:
        return self._cli("run", self.plan(*tasks, **more))

    def folders(self, out: str = "vllm") -> list[Path]:
        return run_folders(self._path / out)

    def both(self, task: Any, **more: Any) -> tuple[Path, Path]:
        """The run folders of vLLM and of the default backend."""
        for backend in ("vllm", "transformers"):
            done = self(task, out=backend, backend=backend, **more)
            assert done.code == 0, done.err
        (by_vllm,), (ours,) = self.folders("vllm"), self.folders("transformers")
        return by_vllm, ours


@pytest.fixture
def runs(cli: Bench, folder: Path, tmp_path: Path, vllm: Any) -> Runs:
    return Runs(cli, folder, tmp_path)


def rated(vllm: Any) -> list[tuple[list[int], Any]]:
    """What was asked about options, without the self-check's: it asks everything twice, and first of all."""
    asked = [one for one in vllm.record.asked if one[1].logprob_token_ids is not None]
    return asked[8:]


# --- likelihoods of letters ---


@pytest.mark.parametrize("chat", [False, True])
def test_letters_are_rated_as_by_the_default_backend(runs: Runs, vllm: Any, folder: Path, chat: bool) -> None:
    by_vllm, ours = map(read_info, paths := runs.both({**LETTER, "chat_template": chat}))
    assert by_vllm["likelihood"] == ours["likelihood"] == "exact"
    for key in ("metrics", "groups", "task", "requests"):
        assert by_vllm[key] == ours[key]
    assert by_vllm["tokens"]["logical"] == ours["tokens"]["logical"]
    for mine, other in zip(*map(read_lines, paths), strict=True):
        assert mine["loglikelihoods"] == pytest.approx(other["loglikelihoods"], abs=1e-4)
        rounded = {"loglikelihoods": None, "crc32": None}
        assert {**mine, **rounded} == {**other, **rounded}
    assert by_vllm["model"]["backend"] == by_vllm["engine"]["backend"] == "vllm 0.32.0"
    assert by_vllm["engine"]["prefix_cache_share"] > 0.2  # shots are the subject's
    assert by_vllm["identity"] != ours["identity"]


def test_vllm_is_asked_for_one_token_of_ids_with_its_prefix_cache(runs: Runs, vllm: Any, folder: Path) -> None:
    assert runs(LETTER).code == 0
    (engine,) = vllm.record.engines
    assert (engine.model, engine.dtype) == (str(folder), "float32")
    assert engine.enable_prefix_caching
    assert (engine.load_format, engine.generation_config, engine.logprobs_mode) == (
        "safetensors",
        "vllm",
        "raw_logprobs",
    )
    assert engine.max_model_len == 2048
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    letters = sorted(tokenizer.encode(f" {letter}")[0] for letter in "ABCD")
    asked = rated(vllm)
    assert len(asked) == 12  # a question is one prompt, and not one an option
    for ids, params in asked:
        assert (params.max_tokens, params.temperature, params.logprob_token_ids) == (1, 0.0, letters)
        assert params.prompt_logprobs is None  # which would switch the prefix cache off
        text = tokenizer.decode(ids)
        assert text.endswith("Answer:")
        assert tokenizer.encode(text) == ids
    assert vllm.record.num_closed == 1


def test_what_does_not_fit_loses_shots_as_elsewhere(runs: Runs) -> None:
    """The default backend may read one token more, for vLLM's length counts the token it writes."""
    task = {**LETTER, "num_fewshot": 3}
    done = runs(task, engine={"max_length": 600})
    again = runs(task, out="transformers", backend="transformers", engine={"max_length": 600})
    assert done.code == again.code == 0
    (mine,), (other,) = runs.folders(), runs.folders("transformers")
    found = [[(line["num_shots_dropped"], line["prompt_hash"]) for line in read_lines(path)] for path in (mine, other)]
    assert found[0] == found[1]
    assert any(num for num, _ in found[0])


def test_options_of_several_tokens_are_refused_in_one_line(runs: Runs, vllm: Any) -> None:
    done = runs({**LETTER, "scoring": "cloze"})
    assert done.code == 2
    assert "rates options of one token (letters)" in done.complaint
    assert "leave `backend` out" in done.complaint
    assert not runs.folders()
    assert not vllm.record.engines


def renormalised(logprobs: torch.Tensor, ids: list[int]) -> torch.Tensor:
    if not ids:
        return logprobs
    found = torch.full_like(logprobs, -torch.inf)
    found[ids] = torch.log_softmax(logprobs[ids], dim=-1)
    return found


def test_log_probabilities_over_the_letters_alone_are_found_out(runs: Runs, vllm: Any) -> None:
    vllm.record.spoil = renormalised
    done = runs(LETTER)
    assert done.code == 1
    assert "cannot be relied on" in done.err
    (path,) = runs.folders()
    assert read_info(path)["status"] == "failed"
    assert not (path / "samples.jsonl").exists()


def test_no_number_is_no_answer(runs: Runs, vllm: Any) -> None:
    num_spoiled = 0

    def spoil(logprobs: torch.Tensor, ids: list[int]) -> torch.Tensor:
        nonlocal num_spoiled
        if not ids or not rated(vllm) or num_spoiled == 2:
            return logprobs
        num_spoiled += 1
        return torch.full_like(logprobs, torch.nan)

    vllm.record.spoil = spoil
    assert runs(LETTER).code == 1
    (path,) = runs.folders()
    failed = [line["error"] for line in read_lines(path) if line["error"]]
    assert failed == ["the model returned nan instead of a loglikelihood"] * 2
    assert read_info(path)["metrics"]["acc"]["num_failed"] == 2


# --- completions ---


@pytest.mark.parametrize("chat", [False, True])
def test_greedy_completions_are_the_default_backends(runs: Runs, vllm: Any, folder: Path, chat: bool) -> None:
    paths = runs.both({**WRITTEN, "chat_template": chat})
    by_vllm, ours = map(read_info, paths)
    assert by_vllm["metrics"] == ours["metrics"]
    for mine, other in zip(*map(read_lines, paths), strict=True):
        assert mine == other
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    asked = [one for one in vllm.record.asked if one[1].stop]
    assert len(asked) == 6
    for ids, params in asked:
        assert (params.stop, params.max_tokens, params.temperature) == (["\n"], 64, 0.0)
        assert params.stop_token_ids == [tokenizer.eos_token_id]
        assert not params.skip_special_tokens
        text = tokenizer.decode(ids)
        assert text.endswith("<assistant>" if chat else "Answer:")
        assert tokenizer.encode(text) == ids


def test_a_stop_string_ends_a_completion_and_is_no_part_of_it(runs: Runs, vllm: Any, tmp_path: Path) -> None:
    source = Path(__file__).parents[1] / "tasks"
    (tmp_path / "pocket.csv").write_bytes((source / "pocket.csv").read_bytes())
    text = (source / "pocket.yaml").read_text().replace('stop: ["\\n"]', 'stop: ["q", "e", "é"]')
    (tmp_path / "stops.yaml").write_text(text)
    paths = runs.both({**WRITTEN, "task": str(tmp_path / "stops.yaml")})
    lines = read_lines(paths[0])
    assert lines == read_lines(paths[1])
    assert {line["completion"]["finish_reason"] for line in lines} >= {"stop"}
    assert not any(stop in line["completion"]["text"] for line in lines for stop in "qeé")


def test_a_repetition_penalty_is_followed_and_what_vllm_lacks_is_refused(
    runs: Runs, vllm: Any, folder: Path, cli: Bench, tmp_path: Path
) -> None:
    changed = tmp_path / "changed"
    changed.mkdir()
    for path in folder.iterdir():
        (changed / path.name).write_bytes(path.read_bytes())
    settings = changed / "generation_config.json"
    settings.write_text('{"eos_token_id": 256, "repetition_penalty": 1.7}')
    own = Runs(cli, changed, tmp_path)
    first, second = own.both(WRITTEN)
    assert read_lines(first) == read_lines(second)
    assert read_info(first)["engine"]["inherited"] == {"repetition_penalty": 1.7}
    settings.write_text('{"eos_token_id": 256, "no_repeat_ngram_size": 2}')
    done = own(WRITTEN, out="refused")
    assert done.code == 2
    assert "no_repeat_ngram_size" in done.complaint


def sampled_task(folder: Path) -> Path:
    source = Path(__file__).parents[1] / "tasks"
    (folder / "pocket.csv").write_bytes((source / "pocket.csv").read_bytes())
    text = (source / "pocket.yaml").read_text().replace("max_tokens: 64,", "max_tokens: 12, temperature: 0.8,")
    (folder / "sampled.yaml").write_text(text)
    return folder / "sampled.yaml"


def test_each_sampled_completion_has_a_seed_of_its_own(runs: Runs, vllm: Any, tmp_path: Path) -> None:
    task = {**WRITTEN, "task": str(sampled_task(tmp_path))}
    assert runs({**task, "limit": 3}, {**task, "limit": 6}, {**task, "limit": 6, "seed": 1}).code == 0
    params = [params for _, params in vllm.record.asked if params.temperature]
    assert {one.temperature for one in params} == {0.8}
    assert len({one.seed for one in params[3:]}) == 12
    texts = {
        (info["task"]["limit"], info["config"]["tasks"][0]["seed"]): [
            line["completion"]["text"] for line in read_lines(path)
        ]
        for path in runs.folders()
        for info in [read_info(path)]
    }
    assert texts[3, 0] == texts[6, 0][:3]  # whatever else is asked
    assert texts[6, 0] != texts[6, 1]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(vllm.record.engines[0].model)
    prompts = [tokenizer.decode(ids) for ids, own in vllm.record.asked if own.temperature][3:9]
    assert [one.seed for one in params[3:9]] == draw_seeds(prompts, 0)


def test_completions_that_are_not_greedy_are_found_out(runs: Runs, vllm: Any) -> None:
    vllm.record.spoil = lambda logits, ids: logits.roll(1) if not ids else logits
    done = runs(WRITTEN)
    assert done.code == 1
    assert "cannot be relied on" in done.err
    assert read_info(runs.folders()[0])["status"] == "failed"


# --- what goes wrong ---


def test_what_was_answered_before_a_stop_is_kept_and_not_asked_again(runs: Runs, vllm: Any) -> None:
    def fail(number: int) -> None:
        if number == 17:  # the self-check's twelve, then five
            raise RuntimeError("CUDA error:\nan illegal memory access was encountered")

    vllm.record.on_answer = fail
    done = runs(LETTER)
    assert done.code == 1
    assert "vLLM: RuntimeError: CUDA error: an illegal memory access was encountered" in done.err
    assert "Traceback" not in done.err
    assert len(read_lines(runs.folders()[0])) == 5
    vllm.record.on_answer = lambda _: None
    vllm.record.asked.clear()
    assert runs(LETTER).code == 0
    assert len(rated(vllm)) == 7
    whole = runs(LETTER, out="whole")
    assert whole.code == 0
    (stopped,), (uninterrupted,) = runs.folders(), runs.folders("whole")
    assert (stopped / "samples.jsonl").read_bytes() == (uninterrupted / "samples.jsonl").read_bytes()
    assert read_info(stopped)["metrics"] == read_info(uninterrupted)["metrics"]


def test_an_interrupt_ends_what_is_under_way(runs: Runs, vllm: Any) -> None:
    def interrupt(number: int) -> None:
        if number == 15:
            raise KeyboardInterrupt

    vllm.record.on_answer = interrupt
    assert runs(LETTER).code == 130
    assert len(read_lines(runs.folders()[0])) == 3
    assert vllm.record.num_closed == 1


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (ValueError("Model architectures ['Odd'] are not supported\nfor now."), "['Odd'] are not supported for now."),
        (torch.OutOfMemoryError("CUDA out of memory."), "see vllm.gpu_memory_utilization"),
        (ValueError("No available memory for the cache blocks."), "see vllm.gpu_memory_utilization"),
    ],
)
def test_a_model_that_vllm_cannot_load_fails_in_one_line_and_once(
    runs: Runs, vllm: Any, problem: Exception, words: str
) -> None:
    def fail() -> None:
        raise problem

    vllm.record.on_load = fail
    done = runs(LETTER, WRITTEN)
    assert done.code == 1
    lines = [line for line in done.err.splitlines() if "vLLM cannot load it" in line]
    assert len(lines) == 2  # one for each task
    assert all(words in line for line in lines)
    assert len(vllm.record.engines) == 1
    assert "Traceback" not in done.err


def test_without_vllm_the_error_is_the_command(cli: Bench, folder: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("vllm") is not None:
        pytest.skip("vLLM is installed")
    done = Runs(cli, folder, tmp_path)(LETTER)
    assert done.code == 2
    assert "pip install 'steelyard[vllm]'" in done.complaint


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"adapter": "someone/lora"}, "adapter means nothing for a model that vLLM runs"),
        ({"quantization": "bnb-4bit"}, "quantization means nothing for a model that vLLM runs"),
        ({"parallel": "layers"}, "parallel means nothing for a model that vLLM runs"),
        ({"vllm": {"gpu_memory": 0.5}}, "gpu_memory_utilization"),
        ({"vllm": {"gpu_memory_utilization": 1.5}}, "less than or equal to 1"),
        ({"source": "fake"}, "has no files that vLLM could load"),
    ],
)
def test_what_a_plan_cannot_ask_of_vllm_is_refused(runs: Runs, more: dict[str, Any], words: str) -> None:
    done = runs(LETTER, **more)
    assert done.code == 2
    assert words in done.complaint


def test_settings_of_vllm_mean_nothing_without_it(runs: Runs) -> None:
    done = runs(LETTER, backend="transformers", vllm={"tensor_parallel_size": 2})
    assert done.code == 2
    assert "vllm means nothing for a model on this machine" in done.complaint


# --- around a run ---


@pytest.mark.parametrize(("task", "what"), [(LETTER, "exact"), (WRITTEN, "completions")])
def test_a_run_of_vllms_is_verified_by_plain_transformers(
    runs: Runs, cli: Bench, task: dict[str, Any], what: str
) -> None:
    assert runs(task).code == 0
    (path,) = runs.folders()
    done = cli("verify", path)
    assert done.code == 0, done.err
    found = read_info(path)["verify"]
    assert (found["likelihood"], found["num_flips"], found["problems"]) == (what, 0, [])
    assert found["num_rescored"] > 0
    info = read_info(path)
    (path / "run.json").write_text(json.dumps({**info, "model": {**info["model"], "backend": "vllm 9"}}))
    assert "not those of the run's identity" in cli("verify", path).err


def test_tables_say_who_ran_a_model(runs: Runs, cli: Bench, tmp_path: Path) -> None:
    runs.both(LETTER)
    shown = cli("table", tmp_path / "vllm", tmp_path / "transformers").out
    assert shown.count("vLLM 0.32.0") == 1
    assert "vllm 0.32.0" in cli("show", runs.folders()[0]).out


def test_another_version_is_another_run(runs: Runs, tmp_path: Path) -> None:
    assert runs(LETTER).code == 0
    about = tmp_path / "site" / "vllm-0.32.0.dist-info" / "METADATA"
    about.write_text(about.read_text().replace("0.32.0", "0.33.0"))
    assert runs(LETTER).code == 0
    assert len(runs.folders()) == 2


def test_what_is_known_beforehand_is_said(runs: Runs, cli: Bench, vllm: Any) -> None:
    done = cli("run", runs.plan(LETTER, {**LETTER, "scoring": "cloze"}), "--dry-run")
    assert "plans its work by itself" in done.out + done.err
    assert "rates options of one token" in done.out + done.err
    done = cli("speed", runs.plan(LETTER))
    assert done.code == 2
    assert "bench speed measures transformers' models" in done.complaint
    assert not vllm.record.engines


# --- the stand-in and the real one ---

REAL = """
import inspect, json, sys
from vllm import EngineArgs, LLMEngine, SamplingParams
from vllm.distributed.parallel_state import cleanup_dist_env_and_memory
from vllm.inputs import tokens_input
from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind
found = {one.__name__: list(inspect.signature(one).parameters) for one in (
    EngineArgs, SamplingParams, Logprob, CompletionOutput, RequestOutput, tokens_input, cleanup_dist_env_and_memory,
    LLMEngine.from_engine_args, LLMEngine.add_request, LLMEngine.abort_request, LLMEngine.step,
    LLMEngine.has_unfinished_requests)}
found["kinds"] = [kind.name for kind in RequestOutputKind]
print("FOUND" + json.dumps(found))
"""


def test_the_stand_in_has_the_arguments_of_the_real_one(vllm: Any) -> None:
    """Every argument and field of the stand-in is one of the real package's, where that is installed."""
    done = subprocess.run([sys.executable, "-c", REAL], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("vLLM is not installed")
    real = yaml.safe_load(done.stdout.partition("FOUND")[2])
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory
    from vllm.inputs import tokens_input

    for one in (vllm.EngineArgs, vllm.SamplingParams, vllm.Logprob, vllm.CompletionOutput, vllm.RequestOutput):
        assert {field.name for field in dataclasses.fields(one)} <= set(real[one.__name__])
    engine = vllm.LLMEngine
    for one in (engine.from_engine_args, engine.add_request, engine.abort_request, engine.step, tokens_input):
        ours = list(inspect.signature(one).parameters)
        assert ours == real[one.__name__][: len(ours)]
    assert list(inspect.signature(cleanup_dist_env_and_memory).parameters) == real["cleanup_dist_env_and_memory"]
    assert [kind.name for kind in vllm.sampling_params.RequestOutputKind] == real["kinds"]

"""Continuous batching against plain batches; what it cannot do is refused, or made in plain batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import helpers  # noqa: F401  # sets the number of threads
import pytest
import torch
from runs import SMALL, Bench, only_run, read_info, read_lines, write_plan
from tiny_models import tiny_model

from bench.completer import Decoding
from bench.engine import continuous
from bench.engine.codec import Codec, TextGenerator
from bench.engine.continuous import SERVED, ContinuousGenerator, below_the_best, why_not_served
from bench.engine.encode import EncodingRules
from bench.engine.families import PACKED_MODEL_TYPES
from bench.engine.generate import Generator
from bench.engine.pack import Budget
from bench.errors import ModelLoadError, ScoringError
from bench.models.fake import fake_tokenizer
from bench.records import Completion

PROMPTS = ["Once", "a-much-longer-prompt-than-all-the-others", "b", "two+two=", "a-much-longer-prompt", "the-end:"]
RULES = EncodingRules(max_length=512)
AMPLE = Budget(4096, 64)
WRITTEN = {"task": "pocket", "scoring": "written", "num_fewshot": 0, "limit": 6}


def both(model: Any, budget: Budget = AMPLE) -> tuple[Generator, ContinuousGenerator]:
    codec = Codec(fake_tokenizer(), RULES, model.config, model.generation_config)
    plain = Generator(model, codec, budget)
    return plain, ContinuousGenerator(model, plain, budget, "float32")


def made(generator: TextGenerator, prompts: Sequence[str] = PROMPTS, **settings: Any) -> list[Completion | str]:
    found = list(generator.generate(prompts, Decoding(**{"max_tokens": 12, **settings})))
    assert len(found) == len(prompts)
    return [dict(found)[place] for place in range(len(prompts))]


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "opt", "gemma3_text", "mistral", "qwen3", "phi"])
def test_completions_are_those_of_plain_batches(name: str) -> None:
    model = tiny_model(name)
    attention = model.config._attn_implementation
    plain, other = both(model)
    assert made(other) == made(plain)
    assert other.describe()["generation"] == "continuous"
    assert other.describe()["self_check"]["max_difference"] < 1e-4
    assert model.config._attn_implementation == attention


def test_a_prompt_gets_the_same_whatever_is_under_way_with_it() -> None:
    model = tiny_model("llama")
    whole = made(both(model)[1])
    assert [made(both(model)[1], [prompt])[0] for prompt in PROMPTS] == whole
    assert made(both(model, Budget(64, 2))[1]) == whole  # a cache of two prompts
    assert made(both(model)[1], PROMPTS[::-1]) == whole[::-1]


def test_stop_strings_and_ends_of_text_end_a_completion() -> None:
    model = tiny_model("llama")
    plain, other = both(model)
    text = made(plain)[0]
    assert isinstance(text, Completion)
    stop = (text.text[3:5], "\n")
    assert made(other, stop=stop) == made(plain, stop=stop)
    assert {one.finish_reason for one in made(other, stop=stop)} == {"stop", "length"}  # type: ignore[union-attr]
    model.generation_config.eos_token_id = fake_tokenizer().encode(text.text)[2]
    plain, other = both(model)
    assert made(other) == made(plain)
    assert made(other)[0].num_completion_tokens == 3  # type: ignore[union-attr]


def test_what_is_drawn_is_made_in_plain_batches() -> None:
    plain, other = both(tiny_model("llama"))
    assert made(other, temperature=1.0, seed=3) == made(plain, temperature=1.0, seed=3)
    assert other.describe()["generation"] == "batched"


def test_only_architectures_that_are_known_to_be_right_are_served() -> None:
    for name in [*sorted(PACKED_MODEL_TYPES - SERVED), "gpt_neox_japanese"]:
        model = tiny_model("falcon-new" if name == "falcon" else name)
        codec = Codec(fake_tokenizer(), RULES, model.config, model.generation_config)
        assert why_not_served(model.config, codec, "none") == f"{name} models"
    llama = tiny_model("llama")
    codec = Codec(fake_tokenizer(), RULES, llama.config, llama.generation_config)
    assert why_not_served(llama.config, codec, "none") is None
    assert why_not_served(llama.config, codec, "layers") == "models on several GPUs"
    llama.generation_config.repetition_penalty = 1.3
    assert "repetition_penalty" in str(why_not_served(llama.config, codec, "none"))


@pytest.mark.parametrize("name", ["gptj", "bloom", "falcon"])
def test_an_architecture_that_ignores_the_pages_is_found_out(name: str) -> None:
    """transformers writes something else for these, without an error."""
    _, other = both(tiny_model(name))
    with pytest.raises(ModelLoadError, match=r"less probable than others.*use engine.generation batched"):
        made(other)


def test_what_ends_transformers_loop_is_told_and_the_model_is_as_before() -> None:
    model = tiny_model("stablelm")
    plain, other = both(model)
    before = made(plain)
    with pytest.raises(ScoringError, match=r"continuous batching: .*use engine.generation batched"):
        made(other)
    assert made(plain) == before


def test_leaving_early_ends_the_loop() -> None:
    model = tiny_model("llama")
    plain, other = both(model)
    results = other.generate(PROMPTS, Decoding(max_tokens=400))
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert "paged" not in model.config._attn_implementation
    assert made(other) == made(plain)


def test_a_written_token_is_compared_with_the_most_probable_one() -> None:
    model = tiny_model("llama")
    ids = [5, 6, 7]
    with torch.inference_mode():
        logits = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1].float(), -1)
    order = logits.argsort(descending=True).tolist()
    assert below_the_best(model, ids, [order[0]]) == 0
    assert below_the_best(model, ids, [order[4]]) == pytest.approx(float(logits[order[0]] - logits[order[4]]), abs=1e-5)


def test_a_run_writes_the_same_in_both_ways(cli: Bench, tmp_path: Path) -> None:
    lines = {}
    for way in ("batched", "continuous"):
        (tmp_path / way).mkdir()
        done = cli("run", write_plan(tmp_path / way, tasks=[WRITTEN], generation=way, max_batch_tokens=2048))
        assert done.code == 0, done.err
        run = only_run(tmp_path / way / "results")
        lines[way] = read_lines(run)
        assert read_info(run)["engine"]["generation"] == way
    assert lines["continuous"] == lines["batched"]
    assert cli("verify", run).code == 0


def test_a_model_that_is_not_served_is_refused_for_what_it_would_write(
    cli: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(continuous, "SERVED", frozenset({"gpt2"}))
    done = cli("run", write_plan(tmp_path, tasks=[SMALL, WRITTEN], generation="continuous"))
    assert done.code == 2
    assert "engine.generation continuous does not serve llama models; use batched" in done.err
    assert read_info(only_run(tmp_path / "results"))["lane"] == "likelihood"

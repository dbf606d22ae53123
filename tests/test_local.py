"""A model's folder is loaded as it is, or told in one line."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from model_folders import CPU, change_config, change_weights, load, message, spec_of
from tiny_models import plain_loglikelihoods, tiny_model
from tokenizer_kinds import tokenizer_of
from transformers import CONFIG_MAPPING

from bench.engine.pack import TokenRequest
from bench.errors import ModelInputError, ModelLoadError
from bench.models.files import ModelFiles, locate
from bench.models.local import (
    choose_device,
    choose_dtype,
    load_config,
    load_model,
    load_tokenizer,
    resolve_max_length,
)

# Devices and dtypes


def test_cpu_is_there() -> None:
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize(("count", "name", "expected"), [
    (0, "auto", "cpu"),
    (2, "auto", "cuda:0"),
    (2, "cuda", "cuda:0"),
    (2, "cuda:1", "cuda:1"),
    (2, "cpu", "cpu"),
])  # fmt: skip
def test_a_device_that_is_there_is_taken(count: int, name: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert choose_device(name) == torch.device(expected)


@pytest.mark.parametrize(("count", "name", "here"), [
    (0, "cuda", "here: cpu)"),
    (0, "cuda:0", "here: cpu)"),
    (2, "cuda:2", "here: cpu, cuda:0, cuda:1)"),
])  # fmt: skip
def test_a_device_that_is_not_there_is_an_error(
    count: int, name: str, here: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(ModelInputError) as error:
        choose_device(name)
    assert repr(name) in str(error.value)
    assert str(error.value).endswith(here)


@pytest.mark.parametrize(("name", "device", "stored", "expected"), [
    ("auto", "cpu", torch.bfloat16, torch.float32),
    ("auto", "cuda", torch.float16, torch.float16),
    ("auto", "cuda", torch.bfloat16, torch.bfloat16),
    ("auto", "cuda", torch.float32, torch.bfloat16),
    ("auto", "cuda", None, torch.bfloat16),
    ("float32", "cuda", torch.float16, torch.float32),
    ("float16", "cpu", torch.float32, torch.float16),
    ("bfloat16", "cpu", None, torch.bfloat16),
])  # fmt: skip
def test_dtype(name: str, device: str, stored: torch.dtype | None, expected: torch.dtype) -> None:
    assert choose_dtype(name, torch.device(device), SimpleNamespace(dtype=stored, model_type="llama")) == expected


# Loading


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_a_folder_loads_as_it_was_saved(saved: Path, dtype: str) -> None:
    model, tokenizer = load(saved, dtype=dtype)
    original = tiny_model("llama")
    wanted = torch.float32 if dtype == "auto" else torch.bfloat16
    assert not model.training
    for mine, its in zip(model.parameters(), original.parameters(), strict=True):
        assert mine.dtype == wanted
        assert torch.equal(mine, its.to(wanted))
    assert tokenizer("Answer: B").input_ids == tokenizer_of("gpt2")("Answer: B").input_ids


def test_soft_caps_are_not_left_out_of_plain_scoring(tmp_path: Path) -> None:
    """transformers' default attention leaves them out without a word."""
    original = tiny_model("gemma2")
    original.save_pretrained(tmp_path)
    tokenizer_of("gpt2").save_pretrained(tmp_path)
    model, _ = load(tmp_path)
    request = TokenRequest(torch.arange(3, 40).numpy().astype("uint32"), (7,))
    ((expected, _),) = plain_loglikelihoods(original, [request])
    with torch.inference_mode():
        logits = model(input_ids=torch.arange(3, 40)[None]).logits[0, -1].double()
    assert float(torch.log_softmax(logits, -1)[7]) == pytest.approx(expected, abs=1e-5)


def test_the_fake_model_needs_no_files_and_is_always_the_same() -> None:
    spec = spec_of("fake")
    found = locate(spec)
    assert found == ModelFiles(None, "fake-1", "fake-1")
    config = load_config(spec, found)
    one, other = (load_model(spec, found, config, CPU, torch.float32) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    tokenizer = load_tokenizer(spec, found)
    assert tokenizer.decode(tokenizer("Größe: 7\n").input_ids) == "Größe: 7\n"
    assert len(tokenizer("Größe").input_ids) == len("Größe".encode())


@pytest.mark.parametrize(("name", "told"), [
    ("config.json", "has no config.json"),
    ("tokenizer.json", "has no tokenizer (tokenizer.json, tokenizer.model or vocab file)"),
    ("model.safetensors", "has no safetensors weights"),
])  # fmt: skip
def test_a_folder_without_one_of_its_files(name: str, told: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelInputError) as error:
        locate(spec_of(folder))
    assert told in message(error)


@pytest.mark.parametrize("name", ["tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"])
def test_older_tokenizer_files_are_known(name: str, folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / name)
    assert locate(spec_of(folder)).folder == folder


def test_pickled_weights_are_refused_unless_allowed_in_words(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(tiny_model("llama").state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ModelInputError) as error:
        locate(spec_of(folder))
    assert "allow_pickle: true" in message(error)
    model, _ = load(folder, allow_pickle=True)
    assert torch.equal(model.model.norm.weight, tiny_model("llama").model.norm.weight)


def test_pickled_weights_beside_safetensors_are_not_read(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"no pickle at all")
    model, _ = load(folder)
    assert torch.equal(model.model.norm.weight, tiny_model("llama").model.norm.weight)


def test_a_weight_that_is_absent_is_an_error_and_not_made_up(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.pop("model.layers.1.self_attn.q_proj.weight"))
    with pytest.raises(ModelLoadError) as error:
        load(folder)
    assert "lack 1 of the weights" in message(error)
    assert "model.layers.1.self_attn.q_proj.weight" in message(error)


def test_a_weight_of_another_shape_is_an_error(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.update({"model.norm.weight": torch.ones(5)}))
    with pytest.raises(ModelLoadError) as error:
        load(folder)
    assert "model.norm.weight" in message(error)


def test_weights_of_another_model_are_an_error(folder: Path) -> None:
    tiny_model("gpt2").save_pretrained(folder.parent / "other")
    shutil.copy(folder.parent / "other" / "model.safetensors", folder)
    with pytest.raises(ModelLoadError) as error:
        load(folder)
    assert re.search(r"lack \d+ of the weights .* the first is lm_head.weight", message(error))


def _in_shards(folder: Path) -> list[Path]:
    (folder / "model.safetensors").unlink()
    tiny_model("llama").save_pretrained(folder, max_shard_size="30KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    return shards


def test_a_model_in_shards_is_loaded_whole(folder: Path) -> None:
    _in_shards(folder)
    model, _ = load(folder)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), tiny_model("llama").parameters(), strict=True))


def test_a_shard_that_the_index_names_and_nobody_has(folder: Path) -> None:
    shard = _in_shards(folder)[1]
    shard.unlink()
    with pytest.raises(ModelInputError) as error:
        locate(spec_of(folder))
    assert f"lacks 1 of the files that model.safetensors.index.json names, such as {shard.name}" in message(error)


def test_a_shard_that_is_cut_off(folder: Path) -> None:
    shard = _in_shards(folder)[1]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ModelLoadError) as error:
        load(folder)
    assert "cannot be loaded" in message(error)


def test_an_index_that_is_damaged(folder: Path) -> None:
    _in_shards(folder)
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ModelLoadError) as error:
        locate(spec_of(folder))
    assert "model.safetensors.index.json cannot be read" in message(error)


def test_pickled_weights_that_are_damaged(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"no pickle at all")
    with pytest.raises(ModelLoadError) as error:
        load(folder, allow_pickle=True)
    assert "cannot be loaded" in message(error)


def _write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize(("damage", "told"), [
    (_write("config.json", b"{"), "configuration"),
    (_write("config.json", b"[]"), "configuration"),
    (_write("config.json", b"{}"), "model_type"),
    (lambda folder: change_config(folder, model_type="llamma"), "llamma"),
    (lambda folder: change_config(folder, hidden_size="big"), "hidden_size"),
    (lambda folder: change_config(folder, num_attention_heads=5), "number of attention heads (5)"),
    (lambda folder: change_config(folder, model_type="t5"), "T5Config"),
    (lambda folder: change_config(folder, model_type="x", auto_map={"AutoConfig": "a.B"}), "trust_remote_code: true"),
    (_write("tokenizer.json", b"{"), "tokenizer"),
    (_write("tokenizer.json", b"{}"), "'added_tokens' is absent"),
    (_write("model.safetensors", b""), "cannot be loaded"),
    (_write("model.safetensors", b"garbage" * 100), "cannot be loaded"),
    (_cut, "cannot be loaded"),
])  # fmt: skip
def test_a_damaged_folder_is_told_in_one_line(damage: Callable[[Path], object], told: str, folder: Path) -> None:
    damage(folder)
    with pytest.raises(ModelLoadError) as error:
        load(folder)
    assert told in message(error)


# Lengths


def config_of(model_type: str, **keys: Any) -> Any:
    return CONFIG_MAPPING[model_type](**keys)


LONG = {"rope_type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48, "rope_theta": 1e4}


@pytest.mark.parametrize(("config", "expected"), [
    (config_of("llama", max_position_embeddings=4096), 4096),
    (config_of("gpt2", n_positions=1024), 1024),
    (config_of("gptj", n_positions=2048), 2048),
    (config_of("mpt", max_seq_len=512), 777),
    (config_of("bloom"), 777),  # neither configuration nor attention bounds it: the tokenizer does
    (
        config_of("phi3", max_position_embeddings=131072, original_max_position_embeddings=4096, rope_parameters=LONG),
        4096,
    ),
    (
        config_of(
            "llama",
            max_position_embeddings=8192,
            rope_parameters={
                "rope_type": "dynamic", "factor": 4.0, "original_max_position_embeddings": 2048, "rope_theta": 1e4,
            },
        ),
        2048,
    ),
    (
        config_of(
            "llama",
            max_position_embeddings=8192,
            rope_parameters={
                "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048, "rope_theta": 1e4,
            },
        ),
        8192,  # does not depend on a sequence's own length
    ),
    (
        config_of(
            "gemma3_text",
            max_position_embeddings=8192,
            rope_parameters={
                "full_attention": {
                    "rope_type": "dynamic", "factor": 4.0, "original_max_position_embeddings": 2048, "rope_theta": 1e4,
                },
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        ),
        2048,
    ),
], ids=lambda value: getattr(value, "model_type", None))  # fmt: skip
def test_max_length(config: Any, expected: int) -> None:
    assert resolve_max_length(config, SimpleNamespace(model_max_length=777)) == expected


@pytest.mark.parametrize("told", [None, int(1e30)])
def test_max_length_where_nobody_says(told: int | None) -> None:
    """As lm-evaluation-harness has it."""
    assert resolve_max_length(config_of("bloom"), SimpleNamespace(model_max_length=told)) == 2048


def test_max_length_of_a_model_inside_a_larger_one() -> None:
    inner = config_of("gemma3_text", max_position_embeddings=4096)
    assert resolve_max_length(SimpleNamespace(text_config=inner, max_position_embeddings=7), None) == 4096

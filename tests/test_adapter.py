"""LoRA adapters, made here with peft, against the arithmetic that they stand for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import few_shot_requests
from runs import Bench, only_run, read_info, run_folders, write_plan
from safetensors.torch import load_file, save_file
from test_runner import write_model
from tiny_models import VOCAB, largest_difference, plain_loglikelihoods, score, tiny_model

from bench.config import ModelSpec
from bench.engine.forward import PackedForward
from bench.engine.pack import Budget
from bench.errors import ModelInputError, ModelLoadError
from bench.models.adapter import apply_adapter, locate_adapter

RANK, ALPHA = 4, 8


def write_adapter(folder: Path, model: Any, **changes: Any) -> Path:
    """An adapter with random weights for a tiny model's q_proj and down_proj."""
    from peft import LoraConfig, get_peft_model

    options = {"r": RANK, "lora_alpha": ALPHA, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}
    wrapped = get_peft_model(model, LoraConfig(**{**options, **changes}))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if ".lora_" in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(len(name)))
    wrapped.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "tuned", tiny_model("llama"))


def spec_of(source: object, **keys: Any) -> ModelSpec:
    return ModelSpec.model_validate({"source": "someone/mine", "adapter": str(source), **keys})


def adapted(model: Any, folder: Path, *, is_quantised: bool = False) -> Any:
    spec = spec_of(folder)
    adapter = locate_adapter(spec)
    assert adapter is not None
    return apply_adapter(model, adapter, spec, is_quantised=is_quantised)


def expected_of(folder: Path) -> Any:
    """The model with W + (alpha / r) B A, by hand."""
    model = tiny_model("llama")
    weights = load_file(folder / "adapter_model.safetensors")
    state = model.state_dict()
    for name in [name for name in weights if name.endswith("lora_A.weight")]:
        own = name.removeprefix("base_model.model.").removesuffix("lora_A.weight") + "weight"
        b = weights[name.replace("lora_A", "lora_B")]
        state[own] = state[own] + ALPHA / RANK * b @ weights[name]
    assert len(weights) == 8
    model.load_state_dict(state)
    return model


def message(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith("model mine+")
    assert len(text) < 500
    return text


def test_an_adapter_is_merged_into_the_weights(folder: Path) -> None:
    model, expected = adapted(tiny_model("llama"), folder), expected_of(folder)
    for name, weight in expected.state_dict().items():
        assert torch.allclose(model.state_dict()[name], weight, atol=1e-6), name
    assert {type(module).__module__.split(".")[0] for module in model.modules()} <= {"torch", "transformers"}
    requests = few_shot_requests(VOCAB)
    found = score(PackedForward(model, "sdpa"), requests, Budget(1000, 1000))
    assert largest_difference(found, plain_loglikelihoods(expected, requests)) < 1e-4


def test_an_adapter_stays_beside_weights_that_are_quantised(folder: Path) -> None:
    model, expected = adapted(tiny_model("llama"), folder, is_quantised=True), expected_of(folder)
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        assert torch.allclose(model(input_ids=ids).logits, expected(input_ids=ids).logits, atol=1e-4)
    requests = few_shot_requests(VOCAB)
    found = score(PackedForward(model, "sdpa"), requests, Budget(1000, 1000))
    assert largest_difference(found, plain_loglikelihoods(expected, requests)) < 1e-4


@pytest.mark.parametrize("quantization", ["bnb-4bit", "bnb-8bit", "torchao-int8"])
def test_a_run_of_a_quantised_model_with_an_adapter(quantization: str, cli: Bench, tmp_path: Path) -> None:
    from bench.models.fake import fake_config, fake_model

    source = write_model(tmp_path / "base")
    tuned = write_adapter(tmp_path / "tuned", fake_model(fake_config()))
    model = {"source": str(source), "adapter": str(tuned), "quantization": quantization}
    result = cli("run", write_plan(tmp_path, models=[model]))
    assert result.code == 0, result.err
    run = only_run(tmp_path / "results")
    info = read_info(run)
    assert info["model"]["quantization"] == quantization
    assert info["model"]["adapter"]["source"] == str(tuned)
    assert info["engine"]["path"] == "packed"
    assert info["engine"]["self_check"]["max_difference"] < 1e-3
    assert f"fp32 {quantization} +LoRA" in result.out
    assert "base+tuned" in result.out
    assert cli("verify", run).code == 0


def test_an_adapter_makes_it_another_run(cli: Bench, tmp_path: Path) -> None:
    from bench.models.fake import fake_config, fake_model

    source = str(write_model(tmp_path / "base"))
    tuned = write_adapter(tmp_path / "tuned", fake_model(fake_config()))
    plans = [{"source": source, "name": "m"}, {"source": source, "name": "m", "adapter": {"source": str(tuned)}}]
    for model in plans:
        assert cli("run", write_plan(tmp_path, models=[model])).code == 0
    weights = load_file(tuned / "adapter_model.safetensors")
    save_file({name: weight * 1.5 for name, weight in weights.items()}, tuned / "adapter_model.safetensors")
    assert cli("run", write_plan(tmp_path, models=plans[1:])).code == 0
    runs = [read_info(run) for run in run_folders(tmp_path / "results")]
    assert len({run["identity"] for run in runs}) == 3
    assert len({str(run["metrics"]) for run in runs}) > 1


# What is refused


def change_config(folder: Path, **keys: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


@pytest.mark.parametrize(("damage", "told"), [
    (lambda folder: (folder / "adapter_config.json").unlink(), "has no adapter_config.json"),
    (lambda folder: (folder / "adapter_model.safetensors").unlink(), "say allow_pickle: true if you trust them"),
    (lambda folder: change_config(folder, peft_type="PREFIX_TUNING"), "is of kind PREFIX_TUNING; only LORA adapters"),
])  # fmt: skip
def test_what_is_no_adapter(damage: Callable[[Path], object], told: str, folder: Path) -> None:
    damage(folder)
    with pytest.raises(ModelInputError) as error:
        locate_adapter(spec_of(folder))
    assert told in message(error)


def _drop_weight(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    del weights[sorted(weights)[0]]
    save_file(weights, path)


@pytest.mark.parametrize(("damage", "other", "told"), [
    (lambda _: None, {"head_dim": 32}, "size mismatch"),
    (lambda _: None, {"num_hidden_layers": 1}, "weights of the two differ, such as base_model.model.model.layers.1."),
    (lambda _: None, {"num_hidden_layers": 3}, "weights of the two differ, such as base_model.model.model.layers.2."),
    (_drop_weight, {}, "1 weights of the two differ"),
    (lambda folder: change_config(folder, target_modules=["c_attn"]), {}, "c_attn"),
    (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"garbage" * 9), {}, "does not fit this model"),
])  # fmt: skip
def test_an_adapter_of_another_model(
    damage: Callable[[Path], object], other: dict[str, Any], told: str, folder: Path
) -> None:
    damage(folder)
    with pytest.raises(ModelLoadError) as error:
        adapted(tiny_model("llama", **other), folder)
    assert told in message(error)


def test_an_adapter_of_another_architecture(folder: Path) -> None:
    change_config(folder, base_model_name_or_path="someone/llama")
    with pytest.raises(ModelLoadError) as error:
        adapted(tiny_model("gpt2"), folder)
    assert "which was made for someone/llama, does not fit this model: " in message(error)


@pytest.mark.parametrize("source", ["./nowhere", "/no/where", "nowhere", "a/b/c"])
def test_an_adapter_that_is_nowhere(source: str) -> None:
    with pytest.raises(ModelInputError) as error:
        locate_adapter(spec_of(source))
    assert f"adapter {source!r} is neither a folder nor a hub id" in message(error)


def test_an_adapter_on_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def snapshot_download(repo: str, **options: Any) -> str:
        asked.update(options, repo=repo)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    adapter = locate_adapter(spec_of("x", adapter={"source": "someone/tuned", "revision": "v1"}))
    assert adapter is not None
    assert (asked["repo"], asked["revision"]) == ("someone/tuned", "v1")
    assert asked["allow_patterns"] == ["adapter_config.json", "adapter_model.safetensors"]
    assert (adapter.revision, adapter.fingerprint) == (folder.name, f"someone/tuned@{folder.name}")


def test_peft_that_is_missing_is_told_with_its_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModelInputError) as error:
        locate_adapter(spec_of(folder))
    assert message(error).endswith('needs peft: pip install "steelyard[peft]"')

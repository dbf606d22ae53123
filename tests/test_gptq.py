"""GPTQ and AWQ checkpoints: scored on CPUs with exactly the weights that their files stand for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import few_shot_requests
from packed_weights import Form, write_packed
from runs import Bench, only_run, read_info, write_plan
from safetensors.torch import load_file, save_file
from tiny_models import PACKED, VOCAB, largest_difference, plain_loglikelihoods, score

from bench.config import EngineSpec, ModelSpec
from bench.engine.forward import PackedForward
from bench.engine.pack import Budget
from bench.models.fit import estimate_memory
from bench.models.quantize import quiet
from bench.session import Session

with quiet():
    pytest.importorskip("gptqmodel", reason='pip install "steelyard[gptq]"')
    pytest.importorskip("optimum", reason='pip install "steelyard[gptq]"')

GPTQ, AWQ = Form("gptq"), Form("awq")
UNREAD = {"gpt2", "gpt_bigcode"}  # transformers fails to make them: it goes for weights that are packed
UNREAD |= {"qwen2_moe"}  # a gate of a single output fills no word
UNREAD_GPTQ = {"falcon", "falcon-alibi", "falcon-new", "mpt"}
CHANGES: dict[str, dict[str, Any]] = {
    "opt": {"word_embed_proj_dim": 32},  # the layers between two widths are packed in no checkpoint
}


def session_of(folder: Path, **about: Any) -> Session:
    spec = ModelSpec.model_validate({"source": str(folder), "name": "mine", "device": "cpu", **about})
    session = Session(spec, EngineSpec())
    session.load()
    torch.set_num_threads(1)  # as in helpers
    return session


def check_scores(model: Any, *plain: Any) -> None:
    """Packed scores are those of plain transformers, one request at a time, with each of the models in `plain`."""
    requests = few_shot_requests(VOCAB)
    for other in plain:
        expected = plain_loglikelihoods(other, requests)
        for budget in (Budget(1000, 1000), Budget(16, 4)):
            assert largest_difference(score(PackedForward(model, "sdpa"), requests, budget), expected) < 1e-4


@pytest.mark.parametrize("form", [
    GPTQ,
    Form("gptq", is_shuffled=True),
    Form("gptq", has_plain_zeros=True),
    Form("gptq", bits=8),
    Form("gptq", bits=2),
    AWQ,
], ids=str)  # fmt: skip
def test_every_form_is_read(form: Form, tmp_path: Path) -> None:
    same = write_packed(tmp_path, "llama", form)
    session = session_of(tmp_path)
    model = session.model
    for name, weight in same.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
    assert str(session.precision) == f"float32, {form.method}-{form.bits}bit"
    check_scores(model, model, same)


@pytest.mark.parametrize("form", [GPTQ, AWQ], ids=str)
@pytest.mark.parametrize("name", sorted(PACKED.keys() - UNREAD))
def test_families(name: str, form: Form, tmp_path: Path) -> None:
    """AWQ scales what goes into some layers of BLOOM, GPT-J and others beside the activation function before them."""
    if form is GPTQ and name in UNREAD_GPTQ:
        pytest.skip("optimum does not find its layers")
    same = write_packed(tmp_path, name, form, **CHANGES.get(name, {}))
    check_scores(session_of(tmp_path).model, same)


@pytest.mark.parametrize("form", [GPTQ, AWQ], ids=str)
def test_the_estimate_is_what_a_checkpoint_takes(form: Form, tmp_path: Path) -> None:
    write_packed(tmp_path, "llama", form)
    session = session_of(tmp_path)
    estimated = estimate_memory(session, ()).weights_bytes
    tensors = [*session.model.parameters(), *session.model.buffers()]
    assert estimated == pytest.approx(sum(tensor.numel() * tensor.element_size() for tensor in tensors), rel=0.02)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_rounds_the_weights_once(dtype: str, tmp_path: Path) -> None:
    same = write_packed(tmp_path, "llama", GPTQ)
    model = session_of(tmp_path, dtype=dtype).model
    name = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(model.state_dict()[name].float(), same.state_dict()[name].to(getattr(torch, dtype)).float())


@pytest.mark.parametrize("form", [GPTQ, AWQ], ids=str)
def test_a_whole_run_with_an_adapter_is_verified(form: Form, cli: Bench, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    same = write_packed(tmp_path / "mine", "llama", form)
    tuned = get_peft_model(same, LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    tuned.save_pretrained(tmp_path / "tuned")
    models = [{"source": str(tmp_path / "mine"), "adapter": str(tmp_path / "tuned"), "dtype": "float32"}]
    result = cli("run", write_plan(tmp_path, models=models))
    assert result.code == 0, result.err
    assert f"fp32 {form.method}-4bit +LoRA" in result.out
    assert result.out.lstrip("\n") == result.out.lstrip()  # gptqmodel prints nothing among the tables
    run = only_run(tmp_path / "results")
    assert read_info(run)["engine"]["path"] == "packed"
    assert cli("verify", run).code == 0


def test_experts_that_are_quantised_one_by_one_are_refused(cli: Bench, tmp_path: Path) -> None:
    """transformers keeps all experts of a layer in one tensor, and reads no packed weights into it."""
    write_packed(tmp_path / "mine", "qwen3_moe", GPTQ)
    path = tmp_path / "mine" / "model.safetensors"
    weights = load_file(path)
    layer = "model.layers.0.mlp.experts"
    packed = {
        key: weights[f"model.layers.0.self_attn.q_proj.{key}"] for key in ("qweight", "qzeros", "scales", "g_idx")
    }
    weights = {name: weight for name, weight in weights.items() if not name.startswith(layer)}
    save_file(weights | {f"{layer}.0.gate_proj.{key}": value.clone() for key, value in packed.items()}, path)
    result = cli("run", write_plan(tmp_path, models=[{"source": str(tmp_path / "mine")}]))
    assert result.code == 1
    assert f"the first is {layer}." in result.complaint


@pytest.mark.parametrize(("form", "changes", "told"), [
    (AWQ, {"version": "gemv"}, "GEMV"),
    (GPTQ, {"bits": 5}, "[2,3,4,8] bits but found 5"),
    (GPTQ, {"bits": 8}, "do not fit what its configuration says"),
])  # fmt: skip
def test_what_cannot_be_read_is_one_line(
    form: Form, changes: dict[str, Any], told: str, cli: Bench, tmp_path: Path
) -> None:
    write_packed(tmp_path / "mine", "llama", form)
    path = tmp_path / "mine" / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] |= changes
    path.write_text(json.dumps(config))
    result = cli("run", write_plan(tmp_path, models=[{"source": str(tmp_path / "mine")}]))
    assert result.code == 1
    assert "model mine cannot be loaded" in result.complaint
    assert told in result.complaint

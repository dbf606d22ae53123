"""Quantised models: packed scoring of them is exact, they are loaded as the plan says, and what is missing is told."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import few_shot_requests
from model_folders import change_config
from runs import Bench, write_plan
from tiny_models import VOCAB, largest_difference, plain_loglikelihoods, score, tiny_model
from tokenizer_kinds import tokenizer_of

from bench.config import ModelSpec
from bench.engine.forward import PackedForward
from bench.engine.memory import weights_bytes
from bench.engine.pack import Budget
from bench.errors import ModelInputError, ModelLoadError
from bench.models import quantize
from bench.models.files import locate
from bench.models.local import build_skeleton, load_config, load_model
from bench.models.quantize import BYTES_PER_WEIGHT, check_quantization, check_stored, stored_quantization

CPU = torch.device("cpu")
ON_CPU = ["bnb-8bit", "bnb-4bit", "torchao-int8", "torchao-int4", "torchao-fp8"]


def tiny(**changes: Any) -> Any:
    return tiny_model(
        "llama", **{"hidden_size": 128, "head_dim": 32, "intermediate_size": 256, "initializer_range": 0.05, **changes}
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    tiny().save_pretrained(folder)
    tokenizer_of("gpt2").save_pretrained(folder)
    return folder


def load(folder: Path, quantization: str = "none", dtype: torch.dtype = torch.float32) -> Any:
    spec = ModelSpec.model_validate({"source": str(folder), "name": "mine", "quantization": quantization})
    found = locate(spec)
    config = load_config(spec, found)
    check_quantization(spec, config, CPU, dtype)
    return load_model(spec, found, config, CPU, dtype)


def check_scores(model: Any) -> None:
    """Packed scores are those of the same model, one request at a time."""
    requests = few_shot_requests(VOCAB)
    expected = plain_loglikelihoods(model, requests)
    for budget in (Budget(1000, 1000), Budget(16, 4)):
        found = score(PackedForward(model, "sdpa"), requests, budget)
        assert largest_difference(found, expected) < 1e-4


@pytest.mark.parametrize("quantization", ON_CPU)
def test_packed_scores_of_a_quantised_model_are_its_plain_scores(quantization: str, saved: Path) -> None:
    check_scores(load(saved, quantization))


@pytest.mark.parametrize("quantization", ["bnb-4bit", "torchao-int8"])
@pytest.mark.parametrize("name", ["gptj", "bloom", "gpt_neo", "gpt_neox", "opt", "qwen3_moe"])
def test_other_families(name: str, quantization: str, tmp_path: Path) -> None:
    tiny_model(name).save_pretrained(tmp_path)
    tokenizer_of("gpt2").save_pretrained(tmp_path)
    check_scores(load(tmp_path, quantization))


@pytest.mark.parametrize("quantization", ON_CPU)
def test_weights_are_rounded_and_nothing_else_is(quantization: str, saved: Path) -> None:
    """A quantised layer's product is that of its input, as it is, with weights near the original ones."""
    model, original = load(saved, quantization), tiny()
    layer, its = model.model.layers[0].mlp.up_proj, original.model.layers[0].mlp.up_proj
    with torch.inference_mode():
        rounded = layer(torch.eye(128)).T - (0 if layer.bias is None else layer.bias[:, None])
        x = torch.randn(7, 128) * 10
        assert torch.allclose(layer(x), torch.nn.functional.linear(x, rounded, layer.bias), atol=1e-4)
    error = ((rounded - its.weight).norm() / its.weight.norm()).item()
    assert 1e-4 < error < (0.15 if quantization in {"bnb-4bit", "torchao-int4"} else 0.04)
    assert torch.equal(model.lm_head.weight, original.lm_head.weight)


@pytest.mark.parametrize("quantization", ON_CPU)
def test_the_estimate_is_what_a_quantised_model_takes(quantization: str, saved: Path) -> None:
    def size(tensor: Any) -> int:
        """Bytes of a tensor with all that belongs to it; what only looks like one says how large it would be."""
        inside = [getattr(tensor, name, None) for name in ("qdata", "scale", "scale_and_zero", "SCB")]
        state = getattr(tensor, "quant_state", None)
        parts = [part for part in [*inside, getattr(state, "absmax", None)] if isinstance(part, torch.Tensor)]
        own = 0 if any(part is inside[0] for part in parts) else tensor.numel() * tensor.element_size()
        return own + sum(part.numel() * part.element_size() for part in parts)

    model = load(saved, quantization)
    taken = sum(size(parameter) for parameter in model.parameters())
    skeleton = build_skeleton(tiny().config)
    assert weights_bytes(skeleton, torch.float32, BYTES_PER_WEIGHT[quantization]) == pytest.approx(taken, rel=0.1)


@pytest.mark.parametrize("quantization", ["bnb-8bit", "bnb-4bit", "torchao-int8"])
def test_a_checkpoint_that_was_saved_quantised(
    quantization: str, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from transformers.quantizers import quantizer_torchao

    # What only saving needs: `bench.hf` imports transformers without torchao.
    monkeypatch.setattr(quantizer_torchao, "flatten_tensor_state_dict", flatten_tensor_state_dict, raising=False)
    made = load(saved, quantization)
    made.save_pretrained(tmp_path)
    tokenizer_of("gpt2").save_pretrained(tmp_path)
    model = load(tmp_path)
    name = {"torchao-int8": "torchao"}.get(quantization, quantization)
    assert stored_quantization(model.config) == name
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        assert torch.allclose(model(input_ids=ids).logits, made(input_ids=ids).logits, atol=1e-5)
    check_scores(model)
    with pytest.raises(ModelInputError) as error:
        load(tmp_path, "bnb-4bit")
    assert f"mine: its checkpoint is quantised already ({name})" in str(error.value)


@pytest.mark.parametrize(
    ("about", "name"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bnb-4bit"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
    ],
)
def test_a_checkpoint_whose_weights_are_not_what_its_configuration_says(
    about: dict[str, Any], name: str, folder: Path
) -> None:
    change_config(folder, quantization_config=about)
    with pytest.raises(ModelLoadError) as error:
        load(folder)
    assert str(error.value) == f"model mine cannot be loaded: its weights are not quantised ({name})"


def test_a_checkpoint_that_cannot_be_told_from_a_plain_one_is_not_refused(folder: Path) -> None:
    rounded = SimpleNamespace(quantization_config={"quant_method": "compressed-tensors", "format": "dense"})
    check_stored(rounded, folder)
    said = SimpleNamespace(quantization_config={"quant_method": "fp8"})
    with pytest.raises(ValueError, match="not quantised"):
        check_stored(said, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    check_stored(said, folder)


def test_a_checkpoint_in_compressed_tensors(tmp_path: Path) -> None:
    """Eight-bit weights with a scale a row, four of them in a word, as the format has them."""
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
    from safetensors.torch import load_file, save_file

    tiny().save_pretrained(tmp_path)
    tokenizer_of("gpt2").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    dense = {}
    for name in [name for name in weights if name.endswith("_proj.weight")]:
        scale = weights[name].abs().amax(1, keepdim=True) / 127
        weights[name.removesuffix("weight") + "weight_scale"] = scale
        rounded = (weights[name] / scale).round().clamp(-128, 127)
        dense[name] = rounded * scale
        weights[name.removesuffix("weight") + "weight_packed"] = pack_to_int32(rounded.to(torch.int8), 8)
        weights[name.removesuffix("weight") + "weight_shape"] = torch.tensor(rounded.shape)
        del weights[name]
    save_file(weights, path, metadata={"format": "pt"})
    scheme = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False}
    about = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": scheme, "input_activations": None}},
    }
    change_config(tmp_path, quantization_config=about)
    model = load(tmp_path)
    assert stored_quantization(model.config) == "compressed-tensors"
    expected = tiny()
    expected.load_state_dict(expected.state_dict() | dense)
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        assert torch.allclose(model(input_ids=ids).logits, expected(input_ids=ids).logits, atol=1e-4)
    check_scores(model)


def test_a_checkpoint_in_fp8(tmp_path: Path) -> None:
    """Blocks of 128 times 128 weights with a scale each, which transformers turns into plain weights on CPUs."""
    from safetensors.torch import load_file, save_file

    tiny().save_pretrained(tmp_path)
    tokenizer_of("gpt2").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights, dense = load_file(path), {}
    for name in [name for name in weights if name.endswith("_proj.weight")]:
        blocks = [list(rows.split(128, 1)) for rows in weights[name].split(128)]
        scales = torch.stack([torch.stack([block.abs().max() / 448 for block in row]) for row in blocks])
        rounded = [
            [(block / scale).to(torch.float8_e4m3fn) for block, scale in zip(row, own, strict=True)]
            for row, own in zip(blocks, scales, strict=True)
        ]
        weights[name] = torch.cat([torch.cat(row, 1) for row in rounded])
        weights[f"{name}_scale_inv"] = scales
        dense[name] = torch.cat(
            [
                torch.cat([block.float() * scale for block, scale in zip(row, own, strict=True)], 1)
                for row, own in zip(rounded, scales, strict=True)
            ]
        )
    save_file(weights, path, metadata={"format": "pt"})
    change_config(tmp_path, quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})
    model = load(tmp_path)
    for name, weight in dense.items():
        assert torch.allclose(model.state_dict()[name].float(), weight, atol=1e-6), name
    check_scores(model)


def test_a_head_that_is_quantised_is_used_as_it_is(saved: Path) -> None:
    import bitsandbytes as bnb

    model = load(saved, "bnb-8bit")
    head = bnb.nn.Linear8bitLt(128, VOCAB, bias=False, has_fp16_weights=False)
    head.weight = bnb.nn.Int8Params(model.lm_head.weight.data.clone(), requires_grad=False, has_fp16_weights=False)
    model.set_output_embeddings(head.to("cpu").eval())
    quantize.multiply_dequantised(model)
    check_scores(model)


def test_a_model_without_layers_that_can_be_quantised_is_refused(tmp_path: Path) -> None:
    tiny_model("gpt2").save_pretrained(tmp_path)  # its layers are of a kind of their own
    tokenizer_of("gpt2").save_pretrained(tmp_path)
    with pytest.raises(ModelInputError) as error:
        load(tmp_path, "torchao-int8")
    assert "mine: none of its layers can be quantised by torchao-int8" in str(error.value)


def test_int4_is_refused_where_it_would_leave_layers_as_they_are(tmp_path: Path) -> None:
    tiny(intermediate_size=192).save_pretrained(tmp_path)
    tokenizer_of("gpt2").save_pretrained(tmp_path)
    with pytest.raises(ModelInputError) as error:
        load(tmp_path, "torchao-int4")
    told = "quantises 128 inputs at a time, into which 2 of its 14 linear layers do not divide (one has 192)"
    assert told in str(error.value)


def test_layers_that_multiply_in_their_own_way_are_refused_in_one_line(cli: Bench, tmp_path: Path) -> None:
    """Falcon's transposes its weight itself, which torchao's tensors cannot."""
    tokenizer = tokenizer_of("gpt2")
    tokenizer.save_pretrained(tmp_path / "falcon")
    tiny_model("falcon", vocab_size=len(tokenizer)).save_pretrained(tmp_path / "falcon")
    plan = write_plan(tmp_path, models=[{"source": str(tmp_path / "falcon"), "quantization": "torchao-int8"}])
    result = cli("run", plan)
    assert result.code == 1
    assert "layers of falcon cannot be computed with torchao-int8 weights" in result.err
    assert "Traceback" not in result.err

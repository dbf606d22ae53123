"""What is said of quantised models: their names, packages that are missing, and what is refused before loading."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from runs import Bench, write_plan
from tiny_models import tiny_model
from tokenizer_kinds import tokenizer_of

from bench.config import ModelSpec
from bench.errors import ModelInputError
from bench.models.local import choose_dtype
from bench.models.quantize import check_quantization, stored_quantization

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def config_of(**about: Any) -> Any:
    return SimpleNamespace(quantization_config=about or None)


@pytest.mark.parametrize(("about", "name"), [
    ({}, None),
    ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq-4bit"),
    ({"quant_method": "awq", "bits": 4}, "awq-4bit"),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False}, "bnb-4bit"),
    ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8"),
    ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "compressed-tensors"),
])  # fmt: skip
def test_what_a_checkpoint_is_called(about: dict[str, Any], name: str | None) -> None:
    assert stored_quantization(config_of(**about)) == name


@pytest.mark.parametrize(("asked", "about", "told"), [
    ("bnb-8bit", {}, 'bnb-8bit needs bitsandbytes: pip install "steelyard[bnb]"'),
    ("torchao-fp8", {}, 'torchao-fp8 needs torchao: pip install "steelyard[torchao]"'),
    ("none", {"quant_method": "gptq", "bits": 4}, 'needs gptqmodel and optimum: pip install "steelyard[gptq]"'),
    ("none", {"quant_method": "awq", "bits": 4}, 'awq-4bit needs gptqmodel: pip install "steelyard[awq]"'),
    ("none", {"quant_method": "bitsandbytes", "load_in_8bit": True}, 'pip install "steelyard[bnb]"'),
    ("none", {"quant_method": "compressed-tensors"}, 'pip install "steelyard[compressed-tensors]"'),
])  # fmt: skip
def test_a_missing_package_is_told_with_its_command(
    asked: str, about: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    spec = ModelSpec.model_validate({"source": "someone/mine", "quantization": asked})
    with pytest.raises(ModelInputError) as error:
        check_quantization(spec, config_of(**about), CPU, torch.float32)
    assert str(error.value).startswith("model mine: ")
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("source", "asked", "told"), [
    ("fake", "bnb-8bit", "the fake model cannot be quantised"),
    ("someone/mine", "torchao-int4", "torchao-int4 needs bfloat16 on CUDA; bnb-4bit takes any dtype"),
])  # fmt: skip
def test_what_does_not_go_together(source: str, asked: str, told: str) -> None:
    spec = ModelSpec.model_validate({"source": source, "quantization": asked})
    with pytest.raises(ModelInputError, match=told):
        check_quantization(spec, config_of(), CUDA, torch.float32)


@pytest.mark.parametrize(("method", "asked", "told"), [
    ("awq", "bfloat16", "awq is computed in float16 on GPUs; say dtype: float16"),
    ("gptq", "float32", "gptq is computed in float16 or bfloat16 on GPUs; say dtype: float16 or bfloat16"),
])  # fmt: skip
def test_dtypes_that_kernels_of_gpus_do_not_know(
    method: str, asked: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    config = config_of(quant_method=method)
    spec = ModelSpec.model_validate({"source": "someone/mine", "dtype": asked})
    check_quantization(spec, config, CPU, choose_dtype(asked, CPU, config))
    check_quantization(spec, config, CUDA, choose_dtype("auto", CUDA, config))
    with pytest.raises(ModelInputError) as error:
        check_quantization(spec, config, CUDA, choose_dtype(asked, CUDA, config))
    assert str(error.value) == f"model mine: {told}"


@pytest.mark.parametrize(("method", "told"), [
    ("hqq", "'hqq', which is not supported; allowed: awq, bitsandbytes, "),
    ("quanto", "'quanto', which is not supported; allowed: "),
    ("fbgemm_fp8", "'fbgemm_fp8', which is not supported; "),
    ("gtpq", "'gtpq', which is not supported; did you mean 'gptq'? (allowed: "),
])  # fmt: skip
def test_a_quantised_checkpoint_of_an_unknown_method(method: str, told: str, cli: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    tiny_model("llama").save_pretrained(folder)
    tokenizer_of("gpt2").save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": method}}))
    result = cli("run", write_plan(tmp_path, models=[{"source": str(folder)}]))
    assert result.code == 2
    assert f"model mine: its checkpoint is quantised with {told}" in result.complaint

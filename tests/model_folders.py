"""A model's folder, to be damaged; `saved` and `folder` of conftest.py are such."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.config import ModelSpec
from bench.models.files import locate
from bench.models.local import choose_dtype, load_config, load_model, load_tokenizer

CPU = torch.device("cpu")


def spec_of(source: object, **keys: Any) -> ModelSpec:
    return ModelSpec.model_validate({"source": str(source), **keys})


def load(folder: Path, **keys: Any) -> tuple[Any, Any]:
    """Model and tokenizer of a folder, by all the steps."""
    spec = spec_of(folder, **keys)
    found = locate(spec)
    config = load_config(spec, found)
    tokenizer = load_tokenizer(spec, found)
    return load_model(spec, found, config, CPU, choose_dtype(spec.dtype, CPU, config)), tokenizer


def change_config(folder: Path, **keys: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def message(error: pytest.ExceptionInfo[Exception]) -> str:
    """The error's message, which must be one line that names the model."""
    text = str(error.value)
    assert "\n" not in text
    assert "mine" in text
    assert len(text) < 500
    return text

"""Architectures that do not look their attention up by name: one small file each, named after the model type.

Such a file holds `REPLACEMENTS`: for each of transformers' classes the subclass of ours that attends to a pack. A
model's modules change class while it is scored packed and change back afterwards; their weights are not touched. To
add a family, add a file.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from torch import nn

WITH_INTERFACE = frozenset({
    "cohere", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_bigcode", "gpt_neox", "granite", "llama", "mistral",
    "mixtral", "olmo", "olmo2", "olmo3", "opt", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3",
    "stablelm", "starcoder2",
})  # fmt: skip
"""Architectures whose attention goes through transformers' interface and was compared with plain scoring.

An explicit list, because some others accept an attention function's name and silently ignore it."""

WITH_REPLACEMENTS = frozenset(module.name for module in pkgutil.iter_modules(__path__))
"""Architectures that have a file here."""

PACKED_MODEL_TYPES = WITH_INTERFACE | WITH_REPLACEMENTS
"""All architectures that are scored packed."""


def replacements(model_type: str) -> dict[type[nn.Module], type[nn.Module]]:
    """Return what stands in for which of an architecture's classes while it is scored packed; most need nothing."""
    if model_type not in WITH_REPLACEMENTS:
        return {}
    found: dict[type[nn.Module], type[nn.Module]] = importlib.import_module(f"{__name__}.{model_type}").REPLACEMENTS
    return found


def swap_classes(model: Any, classes: dict[type[nn.Module], type[nn.Module]]) -> None:
    """Change the class of every module of a model for which `classes` names another."""
    for module in model.modules():
        module.__class__ = classes.get(type(module), type(module))

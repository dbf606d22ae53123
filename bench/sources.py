"""Which kind of source a model comes from. A new kind is a module with `ModelSource`'s functions, and a line here."""

from __future__ import annotations

from bench.api.presets import split_source
from bench.config import ModelSpec
from bench.model import ModelSource


def source_of(spec: ModelSpec) -> ModelSource:
    """The source of a model. Imported only where a plan has such a model: torch, for one, takes seconds."""
    if split_source(spec.source) is not None:
        from bench.api import model

        return model
    if spec.backend == "vllm":
        from bench.vllm import model as vllm_model

        return vllm_model
    from bench import local_model

    return local_model

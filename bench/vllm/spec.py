"""The part `vllm` of a model in a plan."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from bench.schema import StrictModel


class VllmSpec(StrictModel):
    """How vLLM runs a model. The length of its sequences is `engine.max_length`.

    Attributes:
        gpu_memory_utilization: the share of a GPU's memory that it takes for weights, activations and its cache.
        tensor_parallel_size: over how many GPUs each layer is split.
    """

    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    tensor_parallel_size: Annotated[int, Field(ge=1)] = 1

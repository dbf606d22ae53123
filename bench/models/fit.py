"""Does a model fit? Asked before any of its weights is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from bench.config import ModelSpec
from bench.engine.kinds import Kind
from bench.engine.memory import Memory, activation_bytes, pack_bytes, trunk_bytes, weights_bytes
from bench.engine.pack import AnyPack, Pack
from bench.engine.scorer import SMALLEST_BUDGET
from bench.errors import ModelLoadError
from bench.models.files import ModelFiles
from bench.models.precision import Precision
from bench.models.quantize import BYTES_PER_WEIGHT, is_dequantised


class Unloaded(Protocol):
    """What is known of a model whose weights are not in memory; a session is one."""

    spec: ModelSpec
    files: ModelFiles
    config: Any
    device: torch.device
    dtype: torch.dtype
    kind: Kind[Any]

    @property
    def devices(self) -> list[torch.device]:
        """The devices that this process uses."""

    @property
    def num_parts(self) -> int:
        """How many processes have a part of the weights each."""

    @property
    def precision(self) -> Precision:
        """What its weights are computed with."""

    @property
    def is_widened(self) -> bool:
        """Whether half-precision products are made in fp32."""

    @property
    def skeleton(self) -> Any:
        """The model without weights."""


def estimate_memory(model: Unloaded, packs: Sequence[AnyPack]) -> Memory:
    """Bytes that a model takes to score these packs."""
    depths = [pack.prefix_length + pack.num_tokens for pack in packs if isinstance(pack, Pack) and pack.is_trunk]
    sizes = [pack_bytes(model.config, _token_bytes(model), pack.num_tokens, len(pack.rows)) for pack in packs]
    trunk = trunk_bytes(model.config, model.dtype, max(depths, default=0))
    return Memory(_weights(model), max(sizes, default=0), trunk)


def check_fit(model: Unloaded) -> None:
    """Refuse a model for which memory does not suffice even with the smallest packs.

    Raises:
        ModelLoadError: it cannot fit, with the numbers.
    """
    pack = pack_bytes(model.config, _token_bytes(model), SMALLEST_BUDGET, SMALLEST_BUDGET)
    need = _weights(model) // model.num_parts + pack
    places = set(model.devices)
    if model.spec.parallel == "layers":
        places.add(torch.device("cpu"))  # where what the GPUs cannot hold waits
    if need > (free := sum(map(free_bytes, places))):
        where = " and ".join(sorted(map(str, places)))
        raise ModelLoadError(
            f"model {model.spec.name} needs about {need / 2**30:.1f} GiB ({model.precision}), "
            f"{free / 2**30:.1f} GiB free on {where} (engine.memory_check: false tries all the same)"
        )


def _token_bytes(model: Unloaded) -> int:
    return activation_bytes(model.config, model.dtype, model.kind.num_kept(model.config))


def _weights(model: Unloaded) -> int:
    """Bytes of weights in each process."""
    return _all_weights(model) // model.num_parts


def _all_weights(model: Unloaded) -> int:
    if model.spec.quantization != "none":
        return weights_bytes(model.skeleton, model.dtype, BYTES_PER_WEIGHT[model.spec.quantization])
    if model.precision.quantization is None or is_dequantised(model.config, model.device):
        return weights_bytes(model.skeleton, model.dtype, 4 if model.is_widened else None)
    if model.files.folder is None:  # the fake model, which is never quantised
        return 0
    return sum(path.stat().st_size for path in model.files.folder.glob("*.safetensors"))

"""Plain scoring, one request at a time: what the engine is checked against. Nothing is shared, packed or padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from bench.engine.pack import TokenRequest


@torch.inference_mode()
def score_alone(model: Any, requests: Sequence[TokenRequest]) -> list[float]:
    """Loglikelihood of each request by one forward pass of its own, all logits, log-softmax in fp64.

    Requests with the same inputs share the pass, since it is the same computation. In fp32 torch's log-softmax on a
    CPU adds a vocabulary of 49,152 up with an error of 1e-5 to 3e-5, always upwards, more than all else together.
    """
    longest = max(len(request.targets) for request in requests)
    passes: dict[bytes, torch.Tensor] = {}
    values = []
    for request in requests:
        key = request.inputs.tobytes()
        if key not in passes:
            ids = torch.from_numpy(request.inputs.astype("int64")).to(input_device(model))[None]
            logits = model(input_ids=ids, use_cache=False).logits[0]
            passes[key] = torch.log_softmax(logits[-longest:].double(), dim=-1).cpu()
        logprobs = passes[key]
        start = len(logprobs) - len(request.targets)
        values.append(sum(float(logprobs[start + i, token]) for i, token in enumerate(request.targets)))
    return values


def input_device(model: Any) -> torch.device:
    """Where a model takes its input; of one whose weights wait elsewhere, where they are brought."""
    hook = getattr(model, "_hf_hook", None)  # accelerate's
    if model.device.type == "meta" and hook is not None:
        return torch.device(hook.execution_device)
    return model.device  # type: ignore[no-any-return]

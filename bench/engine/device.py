"""Where a model takes its input, also if its weights are not all in one place."""

from __future__ import annotations

from typing import Any

import torch


def input_device(model: Any) -> torch.device:
    """Where a model takes its input; of one whose weights wait elsewhere, where they are brought."""
    hook = getattr(model, "_hf_hook", None)  # accelerate's
    if model.device.type == "meta" and hook is not None:
        return torch.device(hook.execution_device)
    return model.device  # type: ignore[no-any-return]

"""Tests that need a CUDA device: `python -m pytest -m gpu`. Elsewhere they are skipped, and counted as skipped."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def device() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device("cuda", 0)

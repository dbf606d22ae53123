from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.models.bloom.modeling_bloom import BloomGelu

from bench.engine.families import replacements, swap_classes
from bench.engine.fuse import FUSED


@pytest.mark.parametrize("kind", [*FUSED, BloomGelu], ids=lambda kind: kind.__name__)
def test_a_fused_activation_is_the_same_function(kind: type[nn.Module]) -> None:
    module = kind()
    points = torch.cat((torch.linspace(-12, 12, 4001), torch.tensor([0.0, -0.0, 1e-30, 60.0, -60.0])))
    expected = module(points.double())
    written_out = (module(points).double() - expected).abs().max()
    swap_classes(module, {**FUSED, **replacements("bloom")})
    assert type(module) is not kind
    assert isinstance(module, kind)
    torch.testing.assert_close(module(points.double()), expected, atol=1e-8, rtol=1e-8)
    assert (module(points).double() - expected).abs().max() <= 2 * written_out

"""Each attention backend on the device against softmax by hand in fp64, on packs of every kind and odd sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_cases import PACKS, layout_of, moved, packs_and_paths, random_inputs, softmax_by_hand

from bench.engine.attention import flex, reference, varlen
from bench.engine.attention.contract import AttentionBackend
from bench.engine.head import NeededRowsHead
from bench.engine.levels import Limits

pytestmark = pytest.mark.gpu
ALLOWED = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 0.03}
ODD = [*PACKS, *packs_and_paths(10_000, shared=257, passage=129, own=31), *packs_and_paths(200, shared=257, own=31)]
FEATURES = [{}, {"window": 1}, {"window": 33}, {"softcap": 1.5}, {"window": 130, "softcap": 2.0}]
WITH_BIAS = [{}, {"softcap": 3.0}]


def compare(attend: AttentionBackend, dtype: torch.dtype, device: torch.device, shape: Any, **features: Any) -> None:
    heads, size = shape
    for pack, paths in ODD:
        inputs = random_inputs(pack, heads, size, **features)
        found = attend(moved(inputs, dtype, device), layout_of(pack, Limits(), device))
        expected = softmax_by_hand(moved(inputs, dtype, torch.device("cpu")), paths)
        assert found.dtype == dtype
        torch.testing.assert_close(found.cpu().double(), expected, atol=ALLOWED[dtype], rtol=ALLOWED[dtype])


def test_the_packs_tried_have_one_token_and_several_blocks() -> None:
    lengths = [len(pack.tokens) for pack, _ in ODD]
    assert min(lengths) == 1
    assert max(lengths) > 3 * 128
    assert any(pack.prefix_length > 128 for pack, _ in ODD)


@pytest.mark.parametrize("features", FEATURES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_reference(device: torch.device, dtype: torch.dtype, features: dict[str, Any]) -> None:
    compare(reference.attend, dtype, device, ((4, 2), 64), **features)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [((8, 8), 64), ((8, 2), 128), ((6, 1), 80)], ids=str)
def test_varlen(device: torch.device, dtype: torch.dtype, shape: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    real: Callable[..., Any] = varlen._varlen_attn()

    def watched(query: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        output, lse = real(query, *args, **kwargs)
        shapes.append((tuple(lse.shape), (query.shape[1], len(query)), lse.dtype))
        return output, lse

    takes_groups = varlen.takes_groups(real)
    monkeypatch.setattr(varlen, "_varlen_attn", lambda: watched)
    monkeypatch.setattr(varlen, "takes_groups", lambda _: takes_groups)
    compare(varlen.attend, dtype, device, shape)
    assert shapes
    assert all(found == expected and kind == torch.float32 for found, expected, kind in shapes)


@pytest.mark.parametrize("features", FEATURES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [((4, 4), 64), ((8, 2), 128), ((6, 2), 64)], ids=str)
def test_flex(device: torch.device, dtype: torch.dtype, shape: Any, features: dict[str, Any]) -> None:
    compare(flex.attend, dtype, device, shape, **features)


def test_flex_is_compiled_once_for_all_packs(device: torch.device) -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    flex._flex.cache_clear()
    counters.clear()
    with torch.inference_mode():
        compare(flex.attend, torch.bfloat16, device, ((4, 2), 64), window=33)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("features", WITH_BIAS, ids=str)
@pytest.mark.parametrize("attend", [varlen.attend, flex.attend], ids=lambda one: one.__module__)
def test_a_key_bias(device: torch.device, attend: AttentionBackend, features: dict[str, Any]) -> None:
    """Against the reference on the CPU, which other tests hold to arithmetic by hand."""
    if features and attend is varlen.attend:
        pytest.skip("varlen has no soft caps")
    for pack, _ in ODD:
        slopes = torch.tensor([0.5, 0.0625, 0.004, 0.0], dtype=torch.float64)
        bias = slopes[:, None] * torch.arange(pack.prefix_length + len(pack.tokens))
        inputs = random_inputs(pack, (4, 2), 64, key_bias=bias, **features)
        expected = reference.attend(moved(inputs, torch.bfloat16, torch.device("cpu")), layout_of(pack, Limits()))
        on_device = random_inputs(pack, (4, 2), 64, key_bias=bias.to(device), **features)
        found = attend(moved(on_device, torch.bfloat16, device), layout_of(pack, Limits(), device))
        torch.testing.assert_close(found.cpu(), expected, atol=0.03, rtol=0.03)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("has_bias", [True, False])
def test_the_heads_logits_are_not_rounded(device: torch.device, dtype: torch.dtype, has_bias: bool) -> None:
    torch.manual_seed(0)
    own = torch.nn.Linear(256, 1001, bias=has_bias).to(device, dtype)
    head, hidden = NeededRowsHead(own), torch.randn(3, 17, 256).to(device, dtype)
    exact = hidden.double() @ own.weight.double().T + (own.bias.double() if has_bias else 0)
    with torch.inference_mode():
        assert head(hidden).dtype == torch.float32
        torch.testing.assert_close(head(hidden).double(), exact, atol=1e-4, rtol=1e-5)
        head.rows = torch.tensor([5, 0, 50], device=device)
        torch.testing.assert_close(head(hidden).double(), exact.flatten(0, 1)[[5, 0, 50]], atol=1e-4, rtol=1e-5)
        head.rows = head.rows[:0]
        assert head(hidden).shape == (0, 1001)

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import few_shot_requests, make_request, varlen_attn_by_contract
from tiny_models import PACKED, VOCAB, largest_difference, plain_loglikelihoods, score, tiny_model

from bench.engine import families
from bench.engine.attention import flex, reference, sdpa, varlen
from bench.engine.attention.bias import fold_key_bias
from bench.engine.attention.contract import AttentionBackend, AttentionInputs, PackLayout, make_layout
from bench.engine.forward import PackedForward
from bench.engine.levels import Limits, plan_attention
from bench.engine.pack import Budget, Pack, plan_packs
from bench.records import Loglikelihood

REQUESTS = few_shot_requests(VOCAB, shared=50, passage=30, own=8)
WITH_CLASSES = sorted(name for name in PACKED if name.partition("-")[0] in families.WITH_REPLACEMENTS)


def test_each_file_is_named_after_what_it_serves() -> None:
    folder = Path(families.__file__).parent
    assert {path.stem for path in folder.glob("*.py")} - {"__init__"} == families.WITH_REPLACEMENTS
    assert not families.WITH_REPLACEMENTS & families.WITH_INTERFACE
    assert families.replacements("llama") == {}


@pytest.mark.parametrize("name", WITH_CLASSES)
def test_the_model_has_its_own_classes_back_afterwards(name: str) -> None:
    model = tiny_model(name)
    classes = {key: type(module) for key, module in model.named_modules()}
    untouched = copy.deepcopy(model)
    ids = torch.arange(3, 40)[None]
    forward = PackedForward(model, "sdpa")
    ours = set(families.replacements(name.partition("-")[0]).values())
    assert ours <= {type(module) for module in model.modules()}
    with forward.plain() as plain, torch.inference_mode():
        assert ours.isdisjoint(type(module) for module in model.modules())
        torch.testing.assert_close(plain(input_ids=ids).logits, untouched(input_ids=ids).logits)
    assert ours <= {type(module) for module in model.modules()}
    forward.restore()
    now = {key: type(module) for key, module in model.named_modules()}
    assert {key for key, kind in classes.items() if now[key] is not kind} == {"lm_head"}


@pytest.mark.parametrize("name", WITH_CLASSES)
@pytest.mark.parametrize("attention", ["reference", "varlen"])
def test_every_backend_serves_every_family(name: str, attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "_varlen_attn", lambda: varlen_attn_by_contract)
    model = tiny_model(name)
    expected = plain_loglikelihoods(model, REQUESTS)
    forward = PackedForward(model, attention)
    for budget in (Budget(1000, 1000), Budget(40, 8)):
        assert largest_difference(score(forward, REQUESTS, budget), expected) < 1e-5


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("bloom", {"apply_residual_connection_post_layernorm": True, "n_head": 2}),
        ("bloom", {"pretraining_tp": 2, "slow_but_exact": True}),
        ("bloom", {"hidden_size": 36, "n_head": 6}),  # not a power of two
        ("falcon", {"parallel_attn": False, "multi_query": False, "bias": True}),
        ("falcon-new", {"num_ln_in_parallel_attn": 1}),
        ("falcon-alibi", {"multi_query": True, "num_attention_heads": 2}),
        ("mpt", {"attn_config": {"clip_qkv": 0.4, "softmax_scale": 0.3}, "d_model": 36, "n_heads": 6}),
        ("gpt_neo", {"attention_types": [[["global"], 2]]}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_variants(name: str, changes: dict[str, Any]) -> None:
    model = tiny_model(name, **changes)
    expected = plain_loglikelihoods(model, REQUESTS)
    assert largest_difference(score(PackedForward(model, "sdpa"), REQUESTS, Budget(40, 8)), expected) < 1e-5


def _biased(prefix_length: int, dtype: torch.dtype, scale: float) -> tuple[AttentionInputs, PackLayout]:
    """A pack of two branches under a trunk of `prefix_length`, with slopes as steep as BLOOM's steepest."""
    requests = [make_request([*range(prefix_length), *([7 + n] * 40)], [1]) for n in range(2)]
    plan = plan_packs(requests, Budget(prefix_length or 100, 100))
    pack: Pack = plan.packs[-1]
    assert pack.prefix_length == prefix_length
    layout = make_layout(pack, plan_attention(pack.positions, pack.subtree_end, Limits(8, 3)), torch.device("cpu"))
    torch.manual_seed(0)
    num_heads, num_kv_heads, size = 4, 2, 16
    slopes = torch.tensor([0.84, 0.5, 0.0625, 0.004])
    own, above = (num_kv_heads, len(pack.tokens), size), (num_kv_heads, prefix_length, size)
    tensors = [torch.randn(num_heads, *own[1:]), *(torch.randn(shape) for shape in (own, own, above, above))]
    query, key, value, prefix_key, prefix_value = (tensor.to(dtype) for tensor in tensors)
    bias = slopes.double()[:, None] * torch.arange(layout.depth)
    inputs = AttentionInputs(query, key, value, prefix_key, prefix_value, scale=scale, key_bias=bias)
    return inputs, layout


def _naive(inputs: AttentionInputs, layout: PackLayout) -> torch.Tensor:
    """Each token by itself over its path, in fp64, with the bias relative to the token."""
    groups = inputs.query.shape[0] // inputs.key.shape[0]
    key, value = (
        torch.cat(pair, 1).double().repeat_interleave(groups, 0)
        for pair in ((inputs.prefix_key, inputs.key), (inputs.prefix_value, inputs.value))
    )
    prefix_length, ends, positions = inputs.prefix_key.shape[1], layout.pack.subtree_end, layout.pack.positions
    assert inputs.key_bias is not None
    slopes = inputs.key_bias[:, 1] - inputs.key_bias[:, 0]
    outputs = []
    for place in range(inputs.query.shape[1]):
        path = [*range(prefix_length), *(prefix_length + i for i in range(place + 1) if place < ends[i])]
        depths = torch.tensor([*range(prefix_length), *(positions[i - prefix_length] for i in path[prefix_length:])])
        scores = (key[:, path] @ inputs.query[:, place, :, None].double())[..., 0] * inputs.scale
        scores += slopes[:, None] * (depths - int(positions[place]))
        outputs.append(torch.einsum("hk,hkd->hd", torch.softmax(scores, -1), value[:, path]))
    return torch.stack(outputs, 1)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(
    "attend", [reference.attend, sdpa.attend, varlen.attend, flex.attend], ids=lambda one: one.__module__
)
@pytest.mark.parametrize("prefix_length", [0, 1900])
@pytest.mark.parametrize("scale", [0.25, 1 / math.sqrt(96)])
def test_a_bias_by_key_position(
    attend: AttentionBackend, prefix_length: int, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(varlen, "_varlen_attn", lambda: varlen_attn_by_contract)
    inputs, layout = _biased(prefix_length, torch.float32, scale)
    assert float((attend(inputs, layout) - _naive(inputs, layout)).abs().max()) < 2e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("prefix_length", [0, 1900])
def test_half_precision_holds_the_bias_to_24_bits(dtype: torch.dtype, prefix_length: int) -> None:
    inputs, layout = _biased(prefix_length, dtype, 1 / math.sqrt(96))
    folded = fold_key_bias(inputs, layout)
    assert folded.key.dtype == folded.query.dtype == dtype
    assert folded.key_bias is None
    added = (folded.query[..., 16:].double() @ folded.key[..., 16:].double().transpose(1, 2)) * inputs.scale
    assert inputs.key_bias is not None
    bias = inputs.key_bias - inputs.key_bias[:, prefix_length, None]
    expected = bias[:, layout.positions][:, None].expand_as(added)
    torch.testing.assert_close(added, expected, atol=1e-5, rtol=1e-6)
    assert bool(torch.isfinite(folded.prefix_key).all())
    assert not folded.value[..., 16:].any()


def test_alibi_in_half_precision_is_nearer_to_fp32_than_transformers() -> None:
    """transformers rounds slope × position to the model's dtype; at position 1,500 that is a bias off by several."""
    model = tiny_model("bloom", n_head=8, hidden_size=64)
    halved = copy.deepcopy(model).bfloat16()
    rounded = copy.deepcopy(halved).float()  # the same weights
    generator = np.random.default_rng(0)
    start = generator.integers(3, VOCAB, 1500).tolist()
    requests = [make_request([*start, *generator.integers(3, VOCAB, 8).tolist()], [5]) for _ in range(4)]
    exact = [value for value, _ in plain_loglikelihoods(rounded, requests)]
    plain = [value for value, _ in plain_loglikelihoods(halved, requests)]
    outcomes = score(PackedForward(halved, "sdpa"), requests, Budget(600, 100))
    ours = [outcome.value for outcome in outcomes if isinstance(outcome, Loglikelihood)]

    def error(values: list[float]) -> float:
        return float(np.abs(np.subtract(values, exact)).mean())

    assert error(ours) < error(plain) / 2

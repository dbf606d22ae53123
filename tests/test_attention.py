from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import (
    Path,
    few_shot_requests,
    plan_paths,
    token_requests,
    varlen_attn_by_contract,
    varlen_attn_with_groups,
)
from hypothesis import given
from hypothesis import strategies as st

from bench.engine.attention import reference, sdpa, varlen
from bench.engine.attention.contract import AttentionBackend, AttentionInputs, PackLayout, make_layout, tree_mask
from bench.engine.levels import plan_attention
from bench.engine.pack import Budget, Pack, TokenRequest, plan_packs

CPU = torch.device("cpu")
HEADS = [(2, 2), (4, 2), (4, 1)]  # query heads, key heads
LIMITS = [0, 8, 40, 1000]


def layout_of(pack: Pack, dense_limit: int, device: torch.device = CPU) -> PackLayout:
    return make_layout(pack, plan_attention(pack.positions, pack.subtree_end, dense_limit), device)


def random_inputs(pack: Pack, heads: tuple[int, int], size: int, **features: Any) -> AttentionInputs:
    generator = torch.Generator().manual_seed(len(pack.tokens))

    def tensor(num_heads: int, length: int) -> torch.Tensor:
        return torch.randn(num_heads, length, size, generator=generator)

    own, above = len(pack.tokens), pack.prefix_length
    query, key, value = tensor(heads[0], own), tensor(heads[1], own), tensor(heads[1], own)
    return AttentionInputs(query, key, value, tensor(heads[1], above), tensor(heads[1], above), 0.3, **features)


def softmax_by_hand(inputs: AttentionInputs, paths: list[Path]) -> torch.Tensor:
    """Each token by itself in fp64, over the tokens its path names; no mask, no plan."""
    place_of = {path: place for place, path in enumerate(paths)}
    above, num_groups = inputs.prefix_key.shape[1], len(inputs.query) // len(inputs.key)
    query = inputs.query.double().unflatten(0, (-1, num_groups))  # a key head serves neighbouring query heads
    key = torch.cat((inputs.prefix_key, inputs.key), dim=1).double()
    value = torch.cat((inputs.prefix_value, inputs.value), dim=1).double()
    outputs = []
    for place, path in enumerate(paths):
        seen = [depth if depth < above else above + place_of[path[: depth + 1]] for depth in range(len(path))]
        seen = seen if inputs.window is None else seen[-inputs.window :]
        scores = query[:, :, place] @ key[:, seen].mT * inputs.scale
        if inputs.softcap is not None:
            scores = torch.tanh(scores / inputs.softcap) * inputs.softcap
        outputs.append((torch.softmax(scores, dim=-1) @ value[:, seen]).flatten(0, 1))
    return torch.stack(outputs, dim=1)


def packs_and_paths(tokens: int, **shape: int) -> list[tuple[Pack, list[Path]]]:
    plan = plan_packs(few_shot_requests(50, **shape), Budget(tokens, 1000))
    return list(zip(plan.packs, plan_paths(plan), strict=True))


WHOLE = packs_and_paths(1000, shared=40, passage=25, own=9)  # one pack, several levels
CUT = packs_and_paths(70, shared=40, passage=25, own=9)  # trunks, a trunk below a trunk, forests below them
PACKS = [*WHOLE, *CUT]


def check(
    attend: AttentionBackend, dense_limits: list[int], heads: tuple[int, int], size: int, **features: Any
) -> None:
    for pack, paths in PACKS:
        inputs = random_inputs(pack, heads, size, **features)
        expected = softmax_by_hand(inputs, paths)
        for dense_limit in dense_limits:
            found = attend(inputs, layout_of(pack, dense_limit))
            assert found.shape == expected.shape
            torch.testing.assert_close(found.double(), expected, atol=3e-6, rtol=1e-5)


def test_the_packs_tried_have_what_there_is_to_get_wrong() -> None:
    assert any(pack.is_trunk and pack.prefix_length for pack, _ in PACKS)
    assert any(len(pack.unit_starts) > 1 and pack.prefix_length for pack, _ in PACKS)
    plans = [plan_attention(pack.positions, pack.subtree_end, 0) for pack, _ in WHOLE]
    assert max(len(plan.levels) for plan in plans) >= 3
    plans = [plan_attention(pack.positions, pack.subtree_end, 40) for pack, _ in WHOLE]
    assert any(plan.levels and not block.is_chain for plan in plans for block in plan.blocks)


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("size", [16, 64])
def test_reference_is_softmax_over_ancestors(heads: tuple[int, int], size: int) -> None:
    check(reference.attend, [0], heads, size)


@pytest.mark.parametrize(
    "features", [{"window": 5}, {"window": 33}, {"softcap": 1.5}, {"window": 7, "softcap": 2.0}], ids=str
)
def test_reference_with_windows_and_soft_caps(features: dict[str, Any]) -> None:
    check(reference.attend, [0], (4, 2), 16, **features)


def test_reference_takes_queries_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_QUERIES_AT_ONCE", 7)
    check(reference.attend, [0], (4, 2), 16, window=9)


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("size", [16, 64])
def test_sdpa_is_softmax_over_ancestors(heads: tuple[int, int], size: int) -> None:
    check(sdpa.attend, LIMITS, heads, size)


@given(token_requests(), st.sampled_from([1, 3, 8, 1000]), st.sampled_from(LIMITS), st.sampled_from(HEADS))
def test_sdpa_and_reference_agree_on_any_tree(
    requests: list[TokenRequest], tokens: int, dense_limit: int, heads: tuple[int, int]
) -> None:
    plan = plan_packs(requests, Budget(tokens, 1000))
    for pack, paths in zip(plan.packs, plan_paths(plan), strict=True):
        inputs = random_inputs(pack, heads, 16)
        expected = softmax_by_hand(inputs, paths)
        for attend in (sdpa.attend, reference.attend):
            found = attend(inputs, layout_of(pack, dense_limit))
            torch.testing.assert_close(found.double(), expected, atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("attend", [sdpa.attend, reference.attend])
def test_scores_far_apart_do_not_overflow(attend: AttentionBackend) -> None:
    """Merging works on differences of log-sum-exps; their own exponentials do not exist in fp32."""
    for pack, paths in PACKS:
        inputs = replace(random_inputs(pack, (4, 2), 16), scale=200.0)
        found = attend(inputs, layout_of(pack, 8))
        torch.testing.assert_close(found.double(), softmax_by_hand(inputs, paths), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("attend", [sdpa.attend, reference.attend])
def test_half_precision_stays_within_its_rounding(attend: AttentionBackend) -> None:
    for pack, paths in PACKS:
        wide = random_inputs(pack, (4, 2), 64)
        names = ("query", "key", "value", "prefix_key", "prefix_value")
        inputs = replace(wide, **{name: getattr(wide, name).bfloat16() for name in names})
        found = attend(inputs, layout_of(pack, 8))
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.double(), softmax_by_hand(inputs, paths), atol=0.03, rtol=0.03)


def test_tree_mask_is_the_ancestor_relation() -> None:
    for pack, paths in PACKS:
        ends = torch.from_numpy(pack.subtree_end)
        for start, stop in ((0, len(paths)), (len(paths) // 3, len(paths))):
            expected = [[mine[: len(other)] == other for other in paths[start:stop]] for mine in paths[start:stop]]
            assert tree_mask(ends, start, stop).tolist() == expected


def test_merging_two_sets_of_keys_is_attention_over_both() -> None:
    generator = torch.Generator().manual_seed(1)
    scores, values = torch.randn(3, 10, generator=generator) * 4, torch.randn(10, 2, generator=generator)
    whole = torch.softmax(scores, -1) @ values
    parts = [
        (torch.softmax(s, -1) @ v, torch.logsumexp(s, -1))
        for s, v in zip(scores.split(4, -1), values.split(4), strict=True)
    ]
    output, lse = parts[0]
    for part in parts[1:]:
        sdpa.merge_(output, lse, *part)
    torch.testing.assert_close(output, whole)
    torch.testing.assert_close(lse, torch.logsumexp(scores, -1))


@pytest.fixture(params=[varlen_attn_by_contract, varlen_attn_with_groups], ids=["torch 2.11", "torch 2.13"])
def _varlen_on_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "_varlen_attn", lambda: request.param)


def test_the_stand_ins_have_the_parameters_of_the_real_one() -> None:
    real = inspect.signature(varlen._varlen_attn()).parameters
    for stand_in in (varlen_attn_by_contract, varlen_attn_with_groups):
        for name, parameter in inspect.signature(stand_in).parameters.items():
            if name != "enable_gqa" or varlen.takes_groups(varlen._varlen_attn()):
                assert (real[name].kind, real[name].default) == (parameter.kind, parameter.default)


@pytest.mark.usefixtures("_varlen_on_cpu")
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("size", [16, 64])
def test_varlen_plans_and_merges_its_calls_right(heads: tuple[int, int], size: int) -> None:
    check(varlen.attend, [0], heads, size)


@pytest.mark.usefixtures("_varlen_on_cpu")
def test_varlen_makes_one_call_a_level_and_one_for_the_trunk(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal calls
        calls += 1
        return varlen_attn_by_contract(*args, **kwargs)

    monkeypatch.setattr(varlen, "_varlen_attn", lambda: counted)
    for pack, _ in PACKS:
        layout = layout_of(pack, 0)
        for _ in range(2):  # a second layer uses what the first worked out
            calls = 0
            varlen.attend(random_inputs(pack, (4, 2), 16), layout)
            assert calls == 1 + len(layout.attention.levels) + (pack.prefix_length > 0)


@pytest.fixture
def cuda() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: the real varlen_attn runs on nothing else")
    return torch.device("cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("heads", [(8, 8), (8, 2)])
@pytest.mark.parametrize("size", [64, 128])
def test_varlen_on_cuda(cuda: torch.device, heads: tuple[int, int], size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    real: Callable[..., Any] = varlen._varlen_attn()

    def watched(query: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        output, lse = real(query, *args, **kwargs)
        shapes.append((tuple(lse.shape), (query.shape[1], len(query)), lse.dtype))
        return output, lse

    monkeypatch.setattr(varlen, "_varlen_attn", lambda: watched)
    for pack, paths in PACKS:
        wide = random_inputs(pack, heads, size)
        names = ("query", "key", "value", "prefix_key", "prefix_value")
        inputs = replace(wide, **{name: getattr(wide, name).bfloat16().to(cuda) for name in names})
        on_cpu = replace(wide, **{name: getattr(inputs, name).cpu() for name in names})
        found = varlen.attend(inputs, layout_of(pack, 0, cuda)).cpu()
        torch.testing.assert_close(found.double(), softmax_by_hand(on_cpu, paths), atol=0.03, rtol=0.03)
    assert all(shape == expected and dtype == torch.float32 for shape, expected, dtype in shapes)

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
from attention_cases import (
    HEADS,
    PACKS,
    WHOLE,
    check,
    layout_of,
    packs_and_paths,
    random_inputs,
    softmax_by_hand,
)
from helpers import plan_paths, token_requests, varlen_attn_by_contract, varlen_attn_with_groups
from hypothesis import given
from hypothesis import strategies as st

from bench.engine.attention import flex, reference, sdpa, varlen
from bench.engine.attention.contract import AttentionBackend, tree_mask
from bench.engine.levels import Limits, plan_attention
from bench.engine.pack import Budget, TokenRequest, plan_packs

LIMITS = [Limits(0, 0), Limits(8, 0), Limits(8, 3, 4), Limits(0, 12), Limits(40, 30, 8), sdpa.LIMITS]


def test_the_packs_tried_have_what_there_is_to_get_wrong() -> None:
    assert any(pack.is_trunk and pack.prefix_length for pack, _ in PACKS)
    assert any(pack.prefix_length and (pack.positions == pack.prefix_length).sum() > 1 for pack, _ in PACKS)
    plans = [plan_attention(pack.positions, pack.subtree_end, Limits()) for pack, _ in WHOLE]
    assert max(len(plan.levels) for plan in plans) >= 3
    plans = [plan_attention(pack.positions, pack.subtree_end, Limits(40)) for pack, _ in WHOLE]
    assert any(plan.levels and block.keys for plan in plans for block in plan.blocks)


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("size", [16, 64])
def test_reference_is_softmax_over_ancestors(heads: tuple[int, int], size: int) -> None:
    check(reference.attend, [Limits()], heads, size)


@pytest.mark.parametrize(
    "features", [{"window": 5}, {"window": 33}, {"softcap": 1.5}, {"window": 7, "softcap": 2.0}], ids=str
)
def test_reference_with_windows_and_soft_caps(features: dict[str, Any]) -> None:
    check(reference.attend, [Limits()], (4, 2), 16, **features)


def test_reference_takes_queries_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_QUERIES_AT_ONCE", 7)
    check(reference.attend, [Limits()], (4, 2), 16, window=9)


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("size", [16, 64])
def test_sdpa_is_softmax_over_ancestors(heads: tuple[int, int], size: int) -> None:
    check(sdpa.attend, LIMITS, heads, size)


@pytest.mark.parametrize("heads", [(4, 2), (4, 1)])
def test_sdpa_where_the_kernel_does_not_let_heads_share_keys(
    heads: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As before torch 2.13: whoever gives it fewer key heads has it read what is not theirs."""

    def flash(query: torch.Tensor, key: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        output, lse = real(query, key, *args, **kwargs)
        if key.shape[1] < query.shape[1]:
            output[:, key.shape[1] :] = 0
        return output, lse

    real = sdpa._flash
    monkeypatch.setattr(sdpa, "_flash", flash)
    sdpa._shares_key_heads.cache_clear()
    try:
        assert not sdpa._shares_key_heads()
        check(sdpa.attend, [sdpa.LIMITS], heads, 16)
    finally:
        sdpa._shares_key_heads.cache_clear()


@given(token_requests(), st.sampled_from([1, 3, 8, 1000]), st.sampled_from(LIMITS), st.sampled_from(HEADS))
def test_sdpa_and_reference_agree_on_any_tree(
    requests: list[TokenRequest], tokens: int, limits: Limits, heads: tuple[int, int]
) -> None:
    plan = plan_packs(requests, Budget(tokens, 1000))
    for pack, paths in zip(plan.packs, plan_paths(plan), strict=True):
        inputs = random_inputs(pack, heads, 16)
        expected = softmax_by_hand(inputs, paths)
        for attend in (sdpa.attend, reference.attend):
            found = attend(inputs, layout_of(pack, limits))
            torch.testing.assert_close(found.double(), expected, atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("attend", [sdpa.attend, reference.attend])
def test_scores_far_apart_do_not_overflow(attend: AttentionBackend) -> None:
    """Merging works on differences of log-sum-exps; their own exponentials do not exist in fp32."""
    for pack, paths in PACKS:
        inputs = replace(random_inputs(pack, (4, 2), 16), scale=200.0)
        found = attend(inputs, layout_of(pack, Limits(8)))
        torch.testing.assert_close(found.double(), softmax_by_hand(inputs, paths), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("attend", [sdpa.attend, reference.attend])
def test_half_precision_stays_within_its_rounding(attend: AttentionBackend) -> None:
    for pack, paths in PACKS:
        wide = random_inputs(pack, (4, 2), 64)
        names = ("query", "key", "value", "prefix_key", "prefix_value")
        inputs = replace(wide, **{name: getattr(wide, name).bfloat16() for name in names})
        found = attend(inputs, layout_of(pack, Limits(8)))
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.double(), softmax_by_hand(inputs, paths), atol=0.03, rtol=0.03)


def test_tree_mask_is_the_ancestor_relation() -> None:
    for pack, paths in PACKS:
        ends = torch.from_numpy(pack.subtree_end)
        for start, stop in ((0, len(paths)), (len(paths) // 3, len(paths))):
            expected = [[mine[: len(other)] == other for other in paths[start:stop]] for mine in paths[start:stop]]
            places = torch.arange(start, stop)
            assert tree_mask(ends, places, places).tolist() == expected
        queries, keys = range(len(paths) // 2, len(paths)), range(0, len(paths), 3)
        expected = [[paths[i][: len(paths[j])] == paths[j] for j in keys] for i in queries]
        assert tree_mask(ends, torch.tensor(queries), torch.tensor(keys)).tolist() == expected


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
    check(varlen.attend, [Limits()], heads, size)


@pytest.mark.usefixtures("_varlen_on_cpu")
def test_varlen_makes_one_call_a_level_and_one_for_the_trunk(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal calls
        calls += 1
        return varlen_attn_by_contract(*args, **kwargs)

    monkeypatch.setattr(varlen, "_varlen_attn", lambda: counted)
    for pack, _ in PACKS:
        layout = layout_of(pack, Limits())
        for _ in range(2):  # a second layer uses what the first worked out
            calls = 0
            varlen.attend(random_inputs(pack, (4, 2), 16), layout)
            assert calls == 1 + len(layout.attention.levels) + (pack.prefix_length > 0)


UNCOMPILED = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
FEATURES = [{}, {"window": 5}, {"window": 33}, {"softcap": 1.5}, {"window": 7, "softcap": 2.0}]


@UNCOMPILED
@pytest.mark.parametrize("features", FEATURES, ids=str)
@pytest.mark.parametrize("heads", HEADS)
def test_flex_with_windows_and_soft_caps(heads: tuple[int, int], features: dict[str, Any]) -> None:
    assert min(len(pack.tokens) for pack, _ in PACKS) == 1
    check(flex.attend, [Limits()], heads, 16, **features)


@pytest.mark.parametrize("window", [None, 1, 100, 300])
@pytest.mark.parametrize("tokens", [800, 10_000])
def test_blocks_of_the_flex_mask_are_those_of_pytorchs_own_dense_way(
    tokens: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.nn.attention.flex_attention import create_block_mask

    monkeypatch.setattr(flex, "_BLOCKS_AT_ONCE", 3)
    kinds = set()
    for pack, _ in packs_and_paths(tokens, shared=300, passage=250, own=70):
        layout, length = layout_of(pack, Limits()), len(pack.tokens)
        ours = flex.block_mask(layout, pack.prefix_length, window)
        num_queries, num_keys = max(length, 129), max(pack.prefix_length + length, 129)
        theirs = create_block_mask(ours.mask_mod, None, None, num_queries, num_keys, device="cpu")
        assert ours.seq_lengths == theirs.seq_lengths
        for kind in ("kv", "full_kv"):
            counts = [getattr(mask, f"{kind}_num_blocks") for mask in (ours, theirs)]
            assert torch.equal(*counts)
            which = [getattr(mask, f"{kind}_indices") for mask in (ours, theirs)]
            for row, count in enumerate(counts[0].flatten().tolist()):
                assert which[0][0, 0, row, :count].tolist() == which[1][0, 0, row, :count].tolist()
                kinds |= {(kind, count > 0)}
    assert {("kv", True), ("full_kv", False)} <= kinds
    assert window == 1 or ("full_kv", True) in kinds or window == 100


@UNCOMPILED
def test_flex_is_compiled_once_for_all_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler proper is left out: what counts is how often it would be called."""
    from torch.nn.attention.flex_attention import flex_attention

    num_compiled = 0

    def count(graph: Any, inputs: Any) -> Any:
        nonlocal num_compiled
        num_compiled += 1
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(flex_attention, dynamic=True, backend=count)
    monkeypatch.setattr(flex, "_flex", lambda _: compiled)
    with torch.inference_mode():
        for window in (5, 9, None):
            check(flex.attend, [Limits()], (4, 2), 16, window=window)
    assert num_compiled == 1


def test_without_a_compiler_the_plain_way_takes_over_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.exc import BackendCompilerFailed

    def fail(*_: Any, **__: Any) -> None:
        nonlocal num_tries
        num_tries += 1
        raise BackendCompilerFailed(lambda: None, RuntimeError("Failed to find C compiler"), None)

    num_tries, notes = 0, list[str]()
    monkeypatch.setattr(flex, "_flex", lambda _: fail)
    check(flex.FlexOrReference(notes).attend, [Limits()], (4, 2), 16, window=5)
    assert num_tries == len(notes) == 1
    assert "Failed to find C compiler" in notes[0]


def test_memory_running_out_in_flex_is_not_taken_for_a_missing_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(flex, "_flex", lambda _: fail)
    with pytest.raises(torch.OutOfMemoryError):
        check(flex.FlexOrReference([]).attend, [Limits()], (4, 2), 16)

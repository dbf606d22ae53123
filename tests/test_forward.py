from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from helpers import few_shot_requests, varlen_attn_by_contract
from tiny_models import PACKED, UNKNOWN, VOCAB, WINDOW, largest_difference, plain_loglikelihoods, score, tiny_model

from bench.engine.attention import varlen
from bench.engine.device import lacks_instructions
from bench.engine.families import PACKED_MODEL_TYPES
from bench.engine.forward import BACKENDS, PackedForward, PrefixCacheForward
from bench.engine.head import NeededRowsHead
from bench.engine.levels import plan_attention
from bench.engine.pack import Budget, plan_packs
from bench.engine.plain import score_alone
from bench.engine.widen import widen
from bench.records import Loglikelihood

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # gpt_bigcode
REQUESTS = few_shot_requests(VOCAB, shared=50, passage=30, own=8)
BUDGETS = [Budget(1000, 1000), Budget(40, 8)]
EXACT = 1e-5  # fp32; the values are around 10


def test_the_budgets_tried_make_trunks_chains_of_trunks_and_forests() -> None:
    whole, small = (plan_packs(REQUESTS, budget) for budget in BUDGETS)
    assert len(whole.packs) == 1
    plan = plan_attention(whole.packs[0].positions, whole.packs[0].subtree_end, BACKENDS["sdpa"][1])
    assert plan.levels
    assert any(pack.is_trunk and pack.parent >= 0 and small.packs[pack.parent].parent >= 0 for pack in small.packs)
    assert any(pack.prefix_length and (pack.positions == pack.prefix_length).sum() > 1 for pack in small.packs)
    assert max(len(request.inputs) for request in REQUESTS) > 5 * WINDOW


def test_every_packed_architecture_is_tried() -> None:
    assert {name.partition("-")[0] for name in PACKED} == PACKED_MODEL_TYPES


@pytest.mark.parametrize("name", sorted(PACKED))
def test_packed_scores_are_plain_scores(name: str) -> None:
    model = tiny_model(name)
    assert model.config.model_type == name.partition("-")[0]
    expected = plain_loglikelihoods(model, REQUESTS)
    forward = PackedForward(model, "sdpa")
    for budget in BUDGETS:
        assert largest_difference(score(forward, REQUESTS, budget), expected) < EXACT


@pytest.mark.parametrize(
    "name",
    [
        *UNKNOWN,
        "bloom",
        "falcon-alibi",
        "gemma3_text",
        "gpt_neo",
        "gptj",
        "llama",
        "mistral",
        "mpt",
        "opt",
        "qwen2_moe",
    ],
)
def test_scores_with_a_repeated_prefix_cache_are_plain_scores(name: str) -> None:
    model = tiny_model(name)
    expected = plain_loglikelihoods(model, REQUESTS)
    for budget in BUDGETS:
        forward = PrefixCacheForward(model, budget.tokens)
        assert largest_difference(score(forward, REQUESTS, budget), expected) < EXACT


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 32}),
        ("gpt_neox", {"use_parallel_residual": False}),
        ("gpt_bigcode", {"multi_query": False}),
        ("cohere", {"use_qk_norm": False, "num_key_value_heads": 4}),
        ("llama", {"num_key_value_heads": 1, "tie_word_embeddings": True, "head_dim": None}),
        ("gpt2", {"reorder_and_upcast_attn": True}),
        ("qwen3_moe", {"use_sliding_window": False, "norm_topk_prob": True}),
        ("qwen2_moe", {"use_sliding_window": False, "layer_types": None}),
        (
            "phi3",
            {
                "max_position_embeddings": 512,
                "original_max_position_embeddings": 128,
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 10000.0,
                    "short_factor": [1.0, 1.5, 2.0, 3.0],
                    "long_factor": [4.0] * 4,
                },
            },
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_variants_of_an_architecture(name: str, changes: dict[str, Any]) -> None:
    model = tiny_model(name, **changes)
    expected = plain_loglikelihoods(model, REQUESTS)
    assert largest_difference(score(PackedForward(model, "sdpa"), REQUESTS, BUDGETS[1]), expected) < EXACT


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", ["gpt2", "gemma2", "llama"])
@pytest.mark.parametrize("attention", ["reference", "varlen", "flex"])
def test_other_backends_through_a_model(name: str, attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "_varlen_attn", lambda: varlen_attn_by_contract)
    model = tiny_model(name)
    expected = plain_loglikelihoods(model, REQUESTS)
    for budget in BUDGETS:
        assert largest_difference(score(PackedForward(model, attention), REQUESTS, budget), expected) < EXACT


def test_each_distinct_token_is_forwarded_once() -> None:
    forward = PackedForward(tiny_model("llama"), "sdpa")
    distinct = plan_packs(REQUESTS, BUDGETS[0]).num_distinct
    for num, budget in enumerate(BUDGETS, 1):
        score(forward, REQUESTS, budget)
        assert forward.num_forwarded == num * distinct


def test_the_other_way_counts_padding_and_repetitions() -> None:
    model = tiny_model("gptj")
    forward = PrefixCacheForward(model, BUDGETS[1].tokens)
    plan = plan_packs(REQUESTS, BUDGETS[1])
    sent = 0

    def count(module: torch.nn.Module, inputs: Any, options: dict[str, Any]) -> None:
        nonlocal sent
        sent += options["input_ids"].numel()

    model.register_forward_pre_hook(count, with_kwargs=True)
    score(forward, REQUESTS, BUDGETS[1])
    assert forward.num_forwarded == sent > plan.num_distinct


@pytest.mark.parametrize("name", ["gemma2", "granite", "gpt2"])
@pytest.mark.parametrize(
    "make", [lambda model: PackedForward(model, "sdpa"), lambda model: PrefixCacheForward(model, 64)]
)
def test_plain_gives_the_model_back_as_it_was(name: str, make: Any) -> None:
    model = tiny_model(name)
    untouched = copy.deepcopy(model)
    ids = torch.arange(3, 40)[None]
    forward = make(model)
    expected = plain_loglikelihoods(untouched, REQUESTS)
    for _ in range(2):  # in use, then lent, then in use again
        if name != "gemma2" or isinstance(forward, PackedForward):  # soft caps need attention that has them
            assert largest_difference(score(forward, REQUESTS, BUDGETS[1]), expected) < EXACT
        with forward.plain() as plain, torch.inference_mode():
            assert plain is model
            torch.testing.assert_close(plain(input_ids=ids).logits, untouched(input_ids=ids).logits)


def test_scores_alone_are_plain_scores() -> None:
    model = tiny_model("qwen2")
    expected = [value for value, _ in plain_loglikelihoods(model, REQUESTS)]
    assert score_alone(model, REQUESTS) == pytest.approx(expected, abs=EXACT)


def test_the_head_is_replaced_once_and_stays_the_models_own() -> None:
    model = tiny_model("gpt2")
    weight = model.get_output_embeddings().weight
    PackedForward(model, "sdpa").restore()
    head = model.get_output_embeddings()
    PrefixCacheForward(model, 64)
    assert model.get_output_embeddings() is head
    assert head.weight is weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_head_multiplies_in_fp32_and_only_where_asked(
    has_bias: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.engine.head._VOCABULARY_AT_ONCE", 7)
    own = torch.nn.Linear(8, 20, bias=has_bias).to(dtype)
    head = NeededRowsHead(own)
    hidden = torch.randn(2, 3, 8).to(dtype)
    expected = hidden.double() @ own.weight.double().T + (own.bias.double() if has_bias else 0)
    with torch.inference_mode():
        torch.testing.assert_close(head(hidden).double(), expected, atol=1e-5, rtol=1e-5)
        head.rows = torch.tensor([5, 0, 3])
        assert head(hidden).dtype == torch.float32
        torch.testing.assert_close(head(hidden).double(), expected.flatten(0, 1)[[5, 0, 3]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "is_widened"), [("llama", False), ("qwen3_moe", False), ("llama", True), ("gpt2", True)]
)
def test_half_precision_on_cpu_is_near_fp32(name: str, is_widened: bool) -> None:
    """As near as plain half-precision scoring is, with logits in fp32."""
    model = tiny_model(name).bfloat16()
    exact = plain_loglikelihoods(copy.deepcopy(model).float(), REQUESTS)
    plain = plain_loglikelihoods(model, REQUESTS)
    rounding = max(abs(a - b) for (a, _), (b, _) in zip(plain, exact, strict=True))
    if is_widened:
        widen(model)
    forward = PackedForward(model, "sdpa")
    for budget in BUDGETS:
        outcomes = score(forward, REQUESTS, budget)
        values = [outcome.value for outcome in outcomes if isinstance(outcome, Loglikelihood)]
        assert len(values) == len(REQUESTS)
        difference = max(abs(value - other) for value, (other, _) in zip(values, exact, strict=True))
        assert 0 < difference < 4 * rounding < 1
    pack = plan_packs(REQUESTS, BUDGETS[0]).packs[0]
    with torch.inference_mode():
        assert forward.logits(pack).dtype == torch.float32


@pytest.mark.parametrize(
    ("machine", "avx512_bf16", "amx", "onednn", "lacks"),
    [
        ("x86_64", False, False, True, True),  # any AVX-512 without them: emulated, five times slower than fp32
        ("x86_64", True, False, True, False),
        ("x86_64", False, True, True, False),
        ("aarch64", False, False, True, False),
        ("aarch64", False, False, False, True),
    ],
)
def test_bf16_that_is_emulated_is_not_had(
    machine: str, avx512_bf16: bool, amx: bool, onednn: bool, lacks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    assert lacks_instructions(torch.bfloat16, torch.device("cpu")) == lacks
    assert not lacks_instructions(torch.bfloat16, torch.device("cuda"))
    assert not lacks_instructions(torch.float32, torch.device("cpu"))


def test_a_model_that_asks_for_a_mask_is_refused() -> None:
    """A mask would mean that attention was to follow it rather than the tree."""
    from bench.engine.attention import interface

    query = torch.zeros(1, 2, 3, 4)
    with pytest.raises(RuntimeError, match="built an attention mask"):
        interface._attention_forward(torch.nn.Identity(), query, query, query, torch.zeros(1, 1, 3, 3))

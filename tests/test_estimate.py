from __future__ import annotations

import pytest
import torch
from helpers import few_shot_requests, make_request
from tiny_models import PACKED, VOCAB, tiny_model
from torch.utils.flop_counter import FlopCounterMode

from bench.engine.estimate import Cost, Flops, block_shapes, model_cost
from bench.engine.pack import Budget, plan_packs
from bench.models.local import build_skeleton

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # gpt_bigcode
LENGTH = 20
UNCOUNTED = {"falcon-new", "falcon-alibi"}  # offer no attention that PyTorch's counter sees into


def counted(name: str) -> tuple[int, int]:
    """PyTorch's count of a plain forward's operations on LENGTH tokens, and how many of them make rotary tables."""
    model = tiny_model(name)
    model.set_attn_implementation("eager")
    if any("experts" in part for part, _ in model.named_modules()):
        model.set_experts_implementation("eager")
    rotary = [module for module in model.modules() if type(module).__name__.endswith("RotaryEmbedding")]
    ids = torch.arange(3, 3 + LENGTH)[None]
    with torch.inference_mode():
        with FlopCounterMode(display=False) as tables:
            for module in rotary:
                for kind in getattr(module, "layer_types", None) or [None]:
                    options = {} if kind is None else {"layer_type": kind}
                    module(torch.zeros(1, LENGTH, 8), ids, **options)
        with FlopCounterMode(display=False) as whole:
            model(input_ids=ids)
    return whole.get_total_flops(), tables.get_total_flops()


@pytest.mark.parametrize("name", sorted(set(PACKED) - UNCOUNTED))
def test_operations_are_what_pytorch_counts(name: str) -> None:
    """PyTorch counts all pairs of tokens where ours are causal, and the making of rotary tables, which we leave out."""
    cost = model_cost(tiny_model(name), tiny_model(name).config)
    total, tables = counted(name)
    assert total - tables == LENGTH * (cost.per_token + cost.per_row) + LENGTH**2 * cost.per_pair


def test_a_plan_costs_its_tokens_visible_pairs_and_rows() -> None:
    """Three requests of which two share four tokens: pairs by hand."""
    requests = [make_request([1, 2, 3, 4, 5], [1]), make_request([1, 2, 3, 4, 6, 7], [1, 2]), make_request([9], [3])]
    pairs = (1 + 2 + 3 + 4) + 5 + (5 + 6) + 1
    cost = Cost(per_token=1_000_000, per_pair=1000, per_row=1)
    for budget in (Budget(100, 100), Budget(3, 1)):
        flops = cost.of(plan_packs(requests, budget).packs)
        assert flops == Flops(weights=8_000_000, attention=1000 * pairs, head=4)
        assert flops.total == 8_000_000 + 1000 * pairs + 4
    assert Flops(1, 2, 3) + Flops(10, 20, 30) == Flops(11, 22, 33)


def test_operations_do_not_depend_on_the_budget() -> None:
    requests = few_shot_requests(VOCAB)
    cost = Cost(3, 5, 7)
    found = {cost.of(plan_packs(requests, Budget(tokens, 1000)).packs) for tokens in (7, 30, 10_000)}
    assert len(found) == 1


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "qwen3_moe"])
def test_a_token_meets_only_the_experts_it_is_sent_to(name: str) -> None:
    config = PACKED[name]
    sizes = [tiny_model(name, num_experts_per_tok=num) for num in (1, 2, 3)]
    one, two, three = (model_cost(model, model.config).per_token for model in sizes)
    expert = 3 * 32 * config.get("moe_intermediate_size", config["intermediate_size"])
    assert three - two == two - one == 2 * 2 * expert  # two operations a weight, two layers
    more = "num_local_experts" if name == "mixtral" else "num_experts"
    wider = tiny_model(name, **{more: 8})
    assert model_cost(wider, wider.config).per_token - two == 2 * 2 * 4 * 32  # the router's rows for four more


@pytest.mark.parametrize("name", ["llama", "mixtral", "opt", "bloom"])
def test_weights_are_not_needed_to_count(name: str) -> None:
    model = tiny_model(name)
    skeleton = build_skeleton(model.config)
    assert {parameter.device.type for parameter in skeleton.parameters()} == {"meta"}
    assert model_cost(skeleton, model.config) == model_cost(model, model.config)


def test_block_shapes_are_those_of_one_layers_matrices() -> None:
    attention = [(64, 32), (32, 32), (32, 32), (32, 64)]
    assert block_shapes(tiny_model("llama")) == [*attention, (48, 32), (48, 32), (32, 48)]
    assert block_shapes(tiny_model("cohere")) == [(32, 32), (16, 32), (16, 32), (32, 32), (48, 32), (48, 32), (32, 48)]
    assert sorted(map(sorted, block_shapes(tiny_model("gpt2")))) == [[32, 32], [32, 96], [32, 128], [32, 128]]


@pytest.mark.parametrize("name", sorted(set(PACKED) - {"mixtral", "qwen2_moe", "qwen3_moe"}))
def test_block_shapes_are_all_that_is_multiplied(name: str) -> None:
    model = tiny_model(name)
    per_layer = sum(2 * rows * columns for rows, columns in block_shapes(model))
    projections = 2 * 2 * 16 * 32 if name == "opt" else 0  # into the layers and out of them
    assert model_cost(model, model.config).per_token == 2 * per_layer + projections

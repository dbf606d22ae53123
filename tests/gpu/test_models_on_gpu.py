"""Every architecture on the device, packed against plain; running out of memory; what may wait for the device."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from helpers import few_shot_requests
from tiny_models import PACKED, VOCAB, largest_difference, plain_loglikelihoods, score, tiny_model

from bench.engine.attention.flex import FlexOrReference
from bench.engine.forward import PackedForward, PrefixCacheForward
from bench.engine.pack import Budget, plan_packs
from bench.engine.scorer import Outcome, Scorer
from bench.records import Loglikelihood
from bench.telemetry.energy import total_energy_j

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning"),  # gpt_bigcode
]
REQUESTS = few_shot_requests(VOCAB, shared=51, passage=29, own=7)
BUDGETS = [Budget(1000, 1000), Budget(37, 5), Budget(1, 1)]  # one pack; trunks and forests; packs of one token


@pytest.mark.parametrize("name", sorted(PACKED))
def test_packed_scores_are_plain_scores_in_fp32(name: str, device: torch.device) -> None:
    model = tiny_model(name).to(device)
    expected = plain_loglikelihoods(model, REQUESTS)
    for attention in ("reference", "flex") if name in ("gemma2", "gpt_neo", "bloom") else ("reference",):
        if attention == "flex":  # which takes heads of 16 dimensions and more
            model = tiny_model(name, **_wider(name)).to(device)
            expected = plain_loglikelihoods(model, REQUESTS)
        for budget in BUDGETS:
            assert largest_difference(score(PackedForward(model, attention), REQUESTS, budget), expected) < 1e-4


def _wider(name: str) -> dict[str, int]:
    return {} if name == "gemma2" else {"hidden_size": 64}


@pytest.mark.parametrize("name", sorted(PACKED))
def test_half_precision_is_as_near_to_fp32_as_plain_scoring_is(name: str, device: torch.device) -> None:
    model = tiny_model(name).to(device, torch.bfloat16)
    exact = plain_loglikelihoods(copy.deepcopy(model).float(), REQUESTS)
    plain = plain_loglikelihoods(model, REQUESTS)
    rounding = max(abs(a - b) for (a, _), (b, _) in zip(plain, exact, strict=True))
    forward = PackedForward(model, "varlen", FlexOrReference([]).attend)
    for budget in BUDGETS[:2]:
        values = [one.value for one in score(forward, REQUESTS, budget) if isinstance(one, Loglikelihood)]
        assert len(values) == len(REQUESTS)
        assert max(abs(value - other) for value, (other, _) in zip(values, exact, strict=True)) < max(0.1, 4 * rounding)


@pytest.mark.parametrize("name", ["llama", "bloom", "gemma2"])
def test_with_a_repeated_prefix_cache(name: str, device: torch.device) -> None:
    model = tiny_model(name).to(device)
    expected = plain_loglikelihoods(model, REQUESTS)
    if name == "gemma2":
        model.set_attn_implementation("eager")
    assert largest_difference(score(PrefixCacheForward(model, 64), REQUESTS, BUDGETS[1]), expected) < 1e-4


@pytest.mark.parametrize("name", ["llama", "gptj", "bloom", "gpt_neox", "mistral"])
def test_nothing_but_reading_results_waits_for_the_device(name: str, device: torch.device) -> None:
    """CUDA raises where anything waits; a first pass has made what is made once: compiled kernels, biases, buffers."""
    wider = {"hidden_size": 64} if name in ("bloom", "gpt_neox", "mistral") else {}
    model = tiny_model(name, **wider).to(device, torch.bfloat16)
    forward = PackedForward(model, "varlen", FlexOrReference([]).attend)
    plan = plan_packs(REQUESTS, BUDGETS[1])
    scorer = Scorer(forward, BUDGETS[1], runs_ahead=True)
    forward.start(plan)
    with torch.inference_mode():
        for pack in plan.packs:
            scorer._start(pack)
        torch.cuda.synchronize(device)
        torch.cuda.set_sync_debug_mode("error")
        try:
            reads = [scorer._start(pack) for pack in plan.packs]
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for pack, read in zip(plan.packs, reads, strict=True):
        assert len(read.wait()[0]) == len(pack.target_requests)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # torch's own, of compiling
@pytest.mark.parametrize("name", ["llama", "gptj", "bloom"])
def test_compiled_blocks_give_the_same_scores(name: str, device: torch.device) -> None:
    torch._dynamo.reset()
    model = tiny_model(name).to(device)
    expected = plain_loglikelihoods(model, REQUESTS)
    forward = PackedForward(model, "reference", compiles=True)
    for budget in BUDGETS:
        assert largest_difference(score(forward, REQUESTS, budget), expected) < 1e-4


def test_one_pack_ahead_gives_the_same_bits(device: torch.device) -> None:
    forward = PackedForward(tiny_model("llama").to(device, torch.bfloat16), "varlen")
    plan = plan_packs(REQUESTS, BUDGETS[1])
    found: list[dict[int, Outcome]] = []
    for runs_ahead in (False, True):
        scorer = Scorer(forward, BUDGETS[1], runs_ahead=runs_ahead)
        found.append({})
        for one in scorer.score(REQUESTS, plan, set(range(len(REQUESTS)))):
            found[-1].update(one.outcomes)
    assert found[0] == found[1]


@pytest.fixture
def _little_memory(device: torch.device) -> Iterator[None]:
    """The process may take 160 MiB more than it has."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device) + (160 << 20)) / total, device)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0, device)


@pytest.mark.usefixtures("_little_memory")
@pytest.mark.parametrize("runs_ahead", [False, True])
def test_when_memory_runs_out_packs_are_halved_and_nothing_is_lost(device: torch.device, runs_ahead: bool) -> None:
    """Twelve thousand tokens' activations of 4,096 fp32 numbers are 190 MiB: the first pack cannot fit."""
    model = tiny_model("llama", intermediate_size=4096).to(device)
    requests = few_shot_requests(VOCAB, shared=20, passage=60, own=200, num_passages=30)
    assert plan_packs(requests, Budget(100_000, 10_000)).num_distinct > 12_000
    expected = plain_loglikelihoods(model, requests)
    scorer = Scorer(PackedForward(model, "reference"), Budget(100_000, 10_000), runs_ahead=runs_ahead)
    outcomes: dict[int, Outcome] = {}
    for one in scorer.score(requests, plan_packs(requests, scorer.budget), set(range(len(requests)))):
        outcomes.update(one.outcomes)
    assert scorer.num_halvings >= 1
    assert largest_difference([outcomes[index] for index in range(len(requests))], expected) < 1e-4


def test_the_energy_counter_runs(device: torch.device) -> None:
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    before = total_energy_j(uuid)
    if before is None:
        pytest.skip("this GPU keeps no energy counter, or NVML does not show it")
    x = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    for _ in range(400):  # about half a second, and 100 J and more
        torch.mm(x, x)
    torch.cuda.synchronize(device)
    after = total_energy_j(uuid)
    assert after is not None
    assert 1 < after - before < 10_000

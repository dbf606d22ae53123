from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import few_shot_requests
from runs import Bench, write_plan
from tiny_models import PACKED, VOCAB, largest_difference, plain_loglikelihoods, score, tiny_model
from torch import nn
from torch._dynamo.utils import counters

from bench.engine import forward as forward_module
from bench.engine.attention import interface
from bench.engine.compiling import repeated_blocks
from bench.engine.estimate import COMPILE_S, repays_compiling
from bench.engine.forward import PackedForward
from bench.engine.pack import Budget
from bench.route import Route
from bench.telemetry.matmul import MatmulProbe

REQUESTS = few_shot_requests(VOCAB, shared=50, passage=30, own=8)
BUDGETS = [Budget(1000, 1000), Budget(40, 8), Budget(1, 1)]  # one pack; trunks and forests; packs of one token
EXACT = 1e-5
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler (g++) to compile with")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture(autouse=True)
def _nothing_compiled_yet() -> None:
    torch._dynamo.reset()
    counters.clear()


@pytest.mark.parametrize("name", sorted(PACKED))
def test_the_repeated_blocks_are_the_models_layers(name: str) -> None:
    model = tiny_model(name)
    blocks = repeated_blocks(model)
    assert len(blocks) == 2
    inside = {id(weight) for block in blocks for weight in block.parameters()}
    outside = [part for part, weight in model.named_parameters() if id(weight) not in inside]
    others = ("embed", "wte", "wpe", "norm", "ln_", "lm_head", "project_")
    assert all(any(other in part for other in others) for part in outside)
    assert repeated_blocks(nn.Linear(2, 2)) == []


@needs_compiler
def test_compiled_scores_are_plain_scores_and_one_block_serves_for_all() -> None:
    model = tiny_model("llama", num_hidden_layers=3)
    expected = plain_loglikelihoods(model, REQUESTS)
    forward = PackedForward(model, "sdpa", compiles=True)
    assert largest_difference(score(forward, REQUESTS, BUDGETS[0]), expected) < EXACT
    num_graphs = counters["stats"]["unique_graphs"]
    assert num_graphs > 0
    for budget in BUDGETS[1:]:
        assert largest_difference(score(forward, REQUESTS, budget), expected) < EXACT
    assert counters["stats"]["unique_graphs"] == num_graphs


@pytest.mark.parametrize("name", ["bloom", "falcon-new", "gemma2", "gpt2", "gpt_neo", "gptj", "mistral", "opt"])
def test_families_can_be_traced(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing is what depends on a model's code; the C++ compiler is left out."""
    num_graphs = 0

    def count(graph: Any, inputs: Any) -> Any:
        nonlocal num_graphs
        num_graphs += 1
        return graph

    def compile_blocks(model: nn.Module) -> None:
        for block in repeated_blocks(model):
            block.compile(dynamic=True, backend=count)

    monkeypatch.setattr(forward_module, "compile_blocks", compile_blocks)
    model = tiny_model(name)
    expected = plain_loglikelihoods(model, REQUESTS)
    forward = PackedForward(model, "sdpa", compiles=True)
    for budget in BUDGETS:
        assert largest_difference(score(forward, REQUESTS, budget), expected) < EXACT
    assert num_graphs > 0


def test_lent_or_given_back_the_model_runs_uncompiled() -> None:
    model = tiny_model("gptj")
    untouched = copy.deepcopy(model)
    ids = torch.arange(3, 40)[None]
    forward = PackedForward(model, "sdpa", compiles=True)
    with forward.plain() as plain, torch.inference_mode():
        torch.testing.assert_close(plain(input_ids=ids).logits, untouched(input_ids=ids).logits)
    assert all(block._compiled_call_impl is not None for block in repeated_blocks(model))
    forward.restore()
    assert all(block._compiled_call_impl is None for block in repeated_blocks(model))
    assert counters["stats"]["unique_graphs"] == 0


def test_compiled_code_may_be_called_from_attention() -> None:
    """Attention is kept out of the blocks' graphs; FlexAttention, which it calls, is compiled for itself."""
    num_graphs = 0

    def count(graph: Any, inputs: Any) -> Any:
        nonlocal num_graphs
        num_graphs += 1
        return graph

    inner = torch.compile(lambda x: x + 1, backend=count)

    @torch.compiler.disable
    def outer(x: torch.Tensor) -> Any:
        return inner(x)

    assert outer(torch.zeros(2)).tolist() == [1, 1]
    assert num_graphs == 1
    assert getattr(interface.attend, "_torchdynamo_disable", False)


def test_when_compiling_repays() -> None:
    assert not repays_compiling(COMPILE_S, "cuda")
    assert not repays_compiling(9 * COMPILE_S, "cuda")
    assert repays_compiling(11 * COMPILE_S, "cuda")
    assert not repays_compiling(1e6, "cpu")


def run_fake(cli: Bench, folder: Path, how: str) -> dict[str, Any]:
    """Run the fake model on a few questions; returns its run.json."""
    assert cli("run", str(write_plan(folder, compile=how))).code == 0
    (path,) = (folder / "results").glob("*/run.json")
    info: dict[str, Any] = json.loads(path.read_text())
    return info


def test_without_a_compiler_a_run_goes_on_uncompiled_and_says_so(
    cli: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    info = run_fake(cli, tmp_path, "always")
    assert info["engine"]["is_compiled"] is False
    assert any(note.startswith("could not be compiled") for note in info["notes"])
    assert info["status"] == "finished"


def test_a_jobs_length_is_estimated_from_its_operations_and_the_measured_rate(
    cli: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected: list[float] = []

    def compiles(self: Route, expect_s: Callable[[], float], *, is_lockstep: bool) -> bool:
        expected.append(expect_s())
        return False

    monkeypatch.setattr(Route, "compiles", compiles)
    monkeypatch.setattr(MatmulProbe, "flops_per_s", 2e9)
    info = run_fake(cli, tmp_path, "auto")
    assert expected == [pytest.approx(info["floor"]["flops"] / 2e9 / 0.7)]


@pytest.mark.parametrize("how", ["auto", "never"])
def test_a_short_job_on_a_cpu_is_not_compiled(how: str, cli: Bench, tmp_path: Path) -> None:
    info = run_fake(cli, tmp_path, how)
    assert info["engine"]["is_compiled"] is False
    assert info["notes"] == []
    assert counters["stats"]["unique_graphs"] == 0

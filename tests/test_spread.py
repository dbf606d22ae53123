"""Models that are not on one device: layers on several, weights that wait elsewhere, a part of every layer a rank."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import few_shot_requests
from runs import Bench, Forks, only_run, read_info, read_lines, write_plan
from tiny_models import VOCAB, largest_difference, plain_loglikelihoods, score, tiny_model

from bench.config import EngineSpec, ModelSpec
from bench.engine.attention import interface
from bench.engine.attention.contract import AttentionInputs, PackLayout, make_layout
from bench.engine.attention.interface import ScoreRule, TrunkCache
from bench.engine.forward import BACKENDS, Forward, PackedForward, PrefixCacheForward
from bench.engine.levels import plan_attention
from bench.engine.pack import Budget, plan_packs
from bench.engine.plain import score_alone
from bench.errors import ModelInputError
from bench.hf import AutoModelForCausalLM
from bench.session import Session, num_processes

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="device auto takes the GPUs")

# --- layers on several devices ---


def spread(name: str, folder: Path) -> tuple[Any, Any]:
    """A tiny model, and the same with half of it on the disk, which accelerate brings in layer by layer."""
    model = tiny_model(name)
    model.save_pretrained(folder / "model")
    base = model.base_model_prefix
    (layers,) = (key for key, child in model.base_model.named_children() if isinstance(child, torch.nn.ModuleList))
    places = {f"{base}.{key}": "disk" for key, _ in model.base_model.named_children() if key != layers}
    places |= {f"{base}.{layers}.0": "cpu", f"{base}.{layers}.1": "disk", "lm_head": "disk"}
    other = AutoModelForCausalLM.from_pretrained(
        folder / "model", device_map=places, offload_folder=folder / "disk", dtype=torch.float32
    )
    assert {parameter.device.type for parameter in other.parameters()} == {"cpu", "meta"}
    assert other.get_output_embeddings().weight.device.type == "meta"
    return model, other


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("way", ["packed", "prefix_cache"])
def test_weights_that_wait_elsewhere_score_the_same(tmp_path: Path, name: str, way: str) -> None:
    model, other = spread(name, tmp_path)
    requests = few_shot_requests(VOCAB)
    expected = plain_loglikelihoods(model, requests)
    forward: Forward = PackedForward(other, "sdpa") if way == "packed" else PrefixCacheForward(other, 40)
    assert largest_difference(score(forward, requests, Budget(40, 1000)), expected) < 1e-4
    with forward.plain() as plain:
        alone = score_alone(plain, requests)
    assert np.abs(np.array(alone) - [value for value, _ in expected]).max() < 1e-4


def test_each_device_has_a_layout_of_its_own() -> None:
    """As if a model's second layer were on another device: torch's meta device, which computes shapes only."""
    requests = few_shot_requests(50)
    pack = next(pack for pack in plan_packs(requests, Budget(60, 1000)).packs if pack.prefix_length)
    attention = plan_attention(pack.positions, pack.subtree_end, BACKENDS["sdpa"][1])
    first = make_layout(pack, attention, torch.device("cpu"))
    assert first.masks
    seen: list[tuple[AttentionInputs, PackLayout]] = []

    def backend(inputs: AttentionInputs, layout: PackLayout) -> torch.Tensor:
        seen.append((inputs, layout))
        return inputs.query

    length, depth = len(pack.tokens), pack.prefix_length
    trunk = TrunkCache(depth)
    modules = [torch.nn.Module() for _ in range(4)]  # kept: the trunk's buffers go by their ids
    with interface.packed(first, trunk, backend, backend):
        for module, device, heads in zip(modules, ("cpu", "meta") * 2, (2, 3) * 2, strict=True):
            trunk.keep(module, 0, *torch.zeros(2, heads, depth, 4, device=device))
            query, key, value = torch.zeros(3, 1, heads, length, 4, device=device)
            rule = ScoreRule(1.0, key_bias=lambda num, where: torch.zeros(2, num, device=where))
            interface.attend(module, query, key, value, rule)
    for inputs, layout in seen:
        tensors = [layout.positions, layout.subtree_end, *layout.masks.values()]
        tensors += [inputs.key, inputs.prefix_key, inputs.prefix_value]
        assert {tensor.device for tensor in tensors} == {inputs.query.device}
        assert inputs.key_bias is not None
        assert inputs.key_bias.device == inputs.query.device
    assert [layout is first for _, layout in seen] == [True, False, True, False]
    assert seen[1][1] is seen[3][1]


@needs_no_gpu
def test_layers_without_a_gpu_are_all_on_the_cpu(tmp_path: Path, cli: Bench, tiny: Path) -> None:
    found = cli("run", write_plan(tmp_path, models=[{"source": str(tiny), "parallel": "layers"}]), "--limit", 2)
    assert found.code == 0, found.err
    engine = read_info(only_run(tmp_path / "results"))["engine"]
    assert (engine["path"], engine["parallel"], engine["num_processes"]) == ("packed", "layers", 1)
    assert cli("verify", only_run(tmp_path / "results")).code == 0


# --- a part of every layer a rank ---


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fake model as a folder, less wild, and with a vocabulary that can be halved."""
    from bench.models.fake import fake_config, fake_model, fake_tokenizer

    folder = tmp_path_factory.mktemp("tiny") / "tiny"
    config = fake_config()
    config.vocab_size, config.initializer_range = 258, 0.1
    fake_model(config).save_pretrained(folder)
    fake_tokenizer().save_pretrained(folder)
    return folder


TASKS = [{"task": "pocket", "num_fewshot": 1, "limit": 30}]


@needs_no_gpu
def test_two_ranks_with_half_of_each_layer_score_as_one_process(tmp_path: Path, forks: Forks, tiny: Path) -> None:
    runs, lines = [], []
    for name, parallel in (("one", "none"), ("two", "tensor")):
        (tmp_path / name).mkdir()
        models = [{"source": str(tiny), "parallel": parallel}]
        num = 2 if parallel == "tensor" else 1
        plan = write_plan(tmp_path / name, models=models, tasks=TASKS, num_processes=num, max_batch_tokens=256)
        output = tmp_path / name / "output"
        assert forks.wait(forks.start("run", plan, output=output)) == 0, output.read_text()
        runs.append(read_info(only_run(tmp_path / name / "results")))
        lines.append(read_lines(only_run(tmp_path / name / "results")))
        assert not list((tmp_path / name / "results").glob("*/samples.rank*"))
    one, two = runs
    differences = [
        abs(a - b)
        for whole, halved in zip(*lines, strict=True)
        for a, b in zip(whole["loglikelihoods"], halved["loglikelihoods"], strict=True)
    ]
    assert len(differences) == 120
    assert 0 < max(differences) < 1e-5  # equal bits would mean that nothing was split
    assert one["identity"] == two["identity"]
    assert one["tokens"] == two["tokens"]
    assert one["packs"] == two["packs"]
    assert one["floor"]["timed_flops"] == two["floor"]["timed_flops"]
    assert (two["engine"]["path"], two["engine"]["num_processes"]) == ("packed", 2)


@needs_no_gpu
def test_a_rank_that_fails_ends_the_others_that_wait_for_it(tmp_path: Path, forks: Forks, tiny: Path) -> None:
    models = [{"source": str(tiny), "parallel": "tensor"}]
    plan = write_plan(tmp_path, models=models, tasks=TASKS, num_processes=2, max_batch_tokens=256)
    output, scored = tmp_path / "output", tmp_path / "scored"
    assert forks.wait(forks.start("run", plan, output=output, scored=str(scored), broken_rank=1)) == 1
    complaints = [line for line in output.read_text().splitlines() if line.startswith("bench: ")]
    assert len(complaints) == 1, output.read_text()
    assert complaints[0].startswith("bench: rank 1 of 2 (pid ")
    assert ") failed: RuntimeError: the device is lost; what was scored is kept" in complaints[0]
    kept = read_lines(only_run(tmp_path / "results"))
    assert 0 < len(kept) < 30
    assert forks.wait(forks.start("run", plan, output=output)) == 0, output.read_text()
    assert len(read_lines(only_run(tmp_path / "results"))) == 30
    assert json.loads(scored.read_text().splitlines()[0])


# --- what cannot be ---


@pytest.mark.parametrize(
    ("model", "engine", "message"),
    [
        ({"parallel": "layers"}, {"num_processes": 2}, "parallel layers is one process; engine.num_processes is 2"),
        ({"parallel": "layers", "device": "cpu"}, {}, "takes all GPUs that are visible, not device cpu; leave it auto"),
        ({"parallel": "tensor", "device": "cpu"}, {}, "takes all GPUs that are visible, not device cpu; leave it auto"),
        ({"parallel": "tensor", "source": "fake"}, {}, "the fake model has no files that could be loaded in parts"),
        (
            {"parallel": "tensor", "quantization": "torchao-int8"},
            {},
            "splits neither quantised weights nor",
        ),
        ({"parallel": "tensor", "source": "opt"}, {}, "transformers cannot split the layers of opt; use layers"),
        ({"parallel": "tensor"}, {"num_processes": 3}, "its 4 query heads cannot be split evenly among 3 processes"),
        ({"parallel": "tensor"}, {"num_processes": 4}, "its 2 key heads cannot be split evenly among 4 processes"),
    ],
)
def test_what_cannot_be_spread_is_told_before_anything_is_loaded(
    tmp_path: Path, tiny: Path, model: dict[str, Any], engine: dict[str, Any], message: str
) -> None:
    from bench.team import Team

    source = model.get("source", str(tiny))
    if source == "opt":
        tiny_model("opt").save_pretrained(tmp_path / "opt")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (tmp_path / "opt" / name).write_bytes((tiny / name).read_bytes())
        source = str(tmp_path / "opt")
    spec = ModelSpec.model_validate({"name": "m", **model, "source": source})
    settings = EngineSpec.model_validate(engine)
    with pytest.raises(ModelInputError) as caught:
        Session(spec, settings, Team(0, num_processes(spec, settings), is_lockstep=spec.parallel == "tensor"))
    assert str(caught.value).startswith("model m: parallel ")
    assert message in str(caught.value)

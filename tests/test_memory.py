"""Estimates of memory, against what is taken; and models that do not fit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from runs import Bench, read_info, run_folders, write_plan
from test_runner import write_model
from tiny_models import PACKED, tiny_model

from bench.config import EngineSpec, ModelSpec
from bench.engine.memory import activation_bytes, trunk_bytes, weights_bytes
from bench.errors import ModelLoadError
from bench.models import fit
from bench.models.local import build_skeleton
from bench.session import Session
from bench.telemetry import machine


def resident_bytes() -> int:
    (kib,) = re.findall(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(kib) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the system does not say what a process holds")
def test_the_embedded_model_takes_what_was_estimated() -> None:
    session = Session(ModelSpec(source="embedded", dtype="float32"), EngineSpec())
    estimate = fit.estimate_memory(session, []).weights_bytes
    assert estimate == pytest.approx(4 * 134_515_008, rel=0.001)
    before = resident_bytes()
    model = session.model
    with torch.inference_mode():
        _ = [parameter.sum() for parameter in model.parameters()]  # files are mapped: a page counts once it is read
    assert resident_bytes() - before == pytest.approx(estimate, rel=0.1)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # gpt_bigcode
@pytest.mark.parametrize("name", sorted(PACKED))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_counted_without_being_there(name: str, dtype: torch.dtype) -> None:
    model = tiny_model(name).to(dtype)
    taken = {parameter.data_ptr(): parameter.nbytes for parameter in model.parameters()}
    skeleton = build_skeleton(model.config)
    buffers = sum(buffer.nbytes for buffer in skeleton.buffers())
    assert weights_bytes(skeleton, dtype) == sum(taken.values()) + buffers


def test_keys_and_values_of_a_trunk() -> None:
    config = tiny_model("llama").config  # 2 layers, 2 key heads of 16
    assert trunk_bytes(config, torch.float32, 10) == 2 * 2 * 2 * 16 * 4 * 10
    assert trunk_bytes(tiny_model("gpt2").config, torch.bfloat16, 10) == 2 * 2 * 32 * 2 * 10
    assert activation_bytes(config, torch.bfloat16) == 2 * (16 * 32 + 4 * 48)


def test_a_model_that_does_not_fit_is_refused_with_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(ModelSpec(source="embedded", dtype="float32"), EngineSpec())
    monkeypatch.setattr("bench.session.free_bytes", lambda _: 300 << 20)
    monkeypatch.setattr("bench.session.load_model", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(ModelLoadError) as error:
        session.load()
    assert str(error.value) == (
        "model embedded needs about 0.5 GiB (float32, GGUF Q4_1), 0.3 GiB free on cpu "
        "(engine.memory_check: false tries all the same)"
    )


def test_a_model_that_does_not_fit_stops_no_other(cli: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = write_model(tmp_path / "large", lambda model: model.resize_token_embeddings(40_000))
    monkeypatch.setattr("bench.session.free_bytes", lambda _: 10 << 20)
    models = [{"source": str(large)}, {"source": "fake"}]
    result = cli("run", write_plan(tmp_path, models=models))
    assert result.code == 1
    assert "large" in result.err
    assert re.search(r"needs about \d+\.\d GiB", result.err)
    status = {read_info(run)["model"]["name"]: read_info(run)["status"] for run in run_folders(tmp_path / "results")}
    assert status == {"large": "failed", "fake": "finished"}

    plan = write_plan(tmp_path, models=models, memory_check=False)
    assert cli("run", plan).code == 0


def test_a_dry_run_says_what_is_needed_and_whether_it_is_there(
    cli: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = write_plan(tmp_path)
    (line,) = [line for line in cli("run", plan, "--dry-run").out.splitlines() if line.startswith("memory")]
    assert re.search(r"memory +1 MiB of weights \(float32\), \d+ MiB a pack; .* GiB free on cpu$", line)
    monkeypatch.setattr("bench.session.free_bytes", lambda _: 1000)
    assert "free on cpu: does not fit" in cli("run", plan, "--dry-run").out


def test_limits_of_control_groups_count(tmp_path: Path) -> None:
    """A container's limit is its group's, in which the files that it has read need not stay."""
    (tmp_path / "memory.max").write_text("8000\n")
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.stat").write_text("anon 1000\ninactive_file 1500\n")
    assert list(machine._allowed_memory_bytes(tmp_path)) == [8000 - 3000 + 1500]
    (tmp_path / "memory.max").write_text("max\n")
    assert list(machine._allowed_memory_bytes(tmp_path)) == []
    assert list(machine._allowed_memory_bytes(tmp_path / "nowhere")) == []

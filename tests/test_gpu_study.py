"""The GPU study's small mode, end to end, and that its shapes are those of the models it names."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import gpu
import pytest
import torch

from bench.hf import AutoConfig
from bench.models.fake import fake_config, fake_model, fake_tokenizer
from bench.models.local import build_skeleton

# As the models' own pages give them.
NUM_PARAMETERS = {"gpt-j-6b": 6_050_882_784, "bloom-7b1": 7_069_016_064, "llama-3.1-8b": 8_030_261_248}


@pytest.mark.parametrize("name", sorted(gpu.SHAPES))
def test_shapes_have_the_real_models_parameters(name: str) -> None:
    shape = dict(gpu.SHAPES[name])
    skeleton = build_skeleton(AutoConfig.for_model(shape.pop("model_type"), **shape))
    assert sum(parameter.numel() for parameter in skeleton.parameters()) == NUM_PARAMETERS[name]


def test_random_weights_are_normal_and_the_same_each_time() -> None:
    config = AutoConfig.for_model("llama", vocab_size=500, hidden_size=64, num_hidden_layers=1, num_attention_heads=4)
    one, two = (gpu.build_random(config, torch.device("cpu"), torch.bfloat16) for _ in range(2))
    weight = one.model.layers[0].mlp.up_proj.weight
    assert weight.dtype == torch.bfloat16
    assert float(weight.float().std()) == pytest.approx(0.02, rel=0.05)
    assert all(torch.equal(*pair) for pair in zip(one.parameters(), two.parameters(), strict=True))


@pytest.fixture
def mmlu(tmp_path: Path) -> Path:
    for split, num in (("test", 3), ("dev", 5)):
        (tmp_path / split).mkdir()
        for subject in ("anatomy", "virology"):
            with (tmp_path / split / f"{subject}_{split}.csv").open("w", newline="") as file:
                csv.writer(file).writerows([[f"{subject} {n} of {split}?", *"abcd", "ABCD"[n % 4]] for n in range(num)])
    return tmp_path


@pytest.mark.filterwarnings("ignore")  # lm-evaluation-harness's
def test_the_small_mode_measures_both_programs_and_judges_nothing(
    mmlu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install lm-eval==0.4.13")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model, out = tmp_path / "model", tmp_path / "out"
    fake_tokenizer().save_pretrained(model)
    fake_model(fake_config()).save_pretrained(model)
    words = ["--mmlu", str(mmlu), "--model", str(model), "--out", str(out), "--subjects", "anatomy,virology"]
    words += ["--families", "bloom-7b1,llama-3.1-8b", "--slice", "4", "--batch-sizes", "2,4"]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *words])
    assert gpu.main() == 0
    result = json.loads(next(out.glob("gpu-small*.json")).read_text())
    assert result["is_tiny"]
    assert result["goals"] == {}
    assert result["num_questions"] == 6
    assert set(result["families"]) == {"bloom-7b1", "llama-3.1-8b"}
    for one in result["families"].values():
        theirs = one["lm_eval"]
        assert set(theirs["slice_s"]) == {"2", "4"}
        assert theirs["batch_size"] == min((2, 4), key=lambda size: theirs["slice_s"][str(size)])
        factor = theirs["tokens_all"] / theirs["tokens_slice"]
        assert 1.2 < factor < 1.8  # six questions of about equal length, four of them timed
        assert theirs["all_s"] == pytest.approx(theirs["slice_s"][str(theirs["batch_size"])] * factor)
        assert one["ratio"] == pytest.approx(theirs["all_s"] / one["seconds"])
        assert one["tokens"]["distinct"] < theirs["tokens_all"]
        assert 0 < one["floor"]["share"] < 1
    assert "no figure to quote" in capsys.readouterr().out


def test_a_family_that_is_not_there_and_a_tokenizer_that_is_too_large(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="'gpt-j' is not a family"):
        gpu._families("gpt-j")
    tokenizer = fake_tokenizer()
    tokenizer.add_tokens([f"<{number}>" for number in range(51_000)])
    with pytest.raises(gpu.InputError, match="gpt-j-6b has 50400"):
        gpu.write_model_folder("gpt-j-6b", tokenizer, tmp_path / "made", is_tiny=False)

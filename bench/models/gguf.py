"""GGUF files: each is converted once into a transformers folder in the user's cache, its weights dequantised to fp32.

transformers does the reading. What it leaves out without a word is looked for here, and either mended (the tokenizer's
rules, see `gguf_tokenizer`; stretched rotary embeddings) or refused: weights of the file that it does not take, and
weights that it would fill with random numbers.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import json
import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.errors import ModelInputError, ModelLoadError
from bench.models.fingerprint import fingerprint_files
from bench.telemetry.machine import available_memory_bytes

ARCHITECTURES = (
    "bloom", "deci", "falcon", "gemma2", "gemma3", "gemma4", "gpt2", "llama", "minimax-m2", "nemotron", "phi3", "qwen2",
    "qwen2moe", "qwen3", "qwen3moe", "stablelm", "starcoder2",
)  # fmt: skip
"""The decoders that transformers reads, as GGUF files name them (Mistral and Mixtral are `llama` there)."""

_CONVERSION = 1  # raise it when the same file comes out otherwise
_ORIGIN = "origin.json"  # written last into a converted folder
_MARGIN = 1.1  # memory and disk that a conversion takes beside the weights
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def is_gguf(source: str) -> bool:
    """Whether a model's source names a GGUF file."""
    return source.lower().endswith(".gguf")


def cache_folder() -> Path:
    """Where converted models are kept."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("steelyard")) / "models"


def converted_folder(source: Path) -> Path:
    """Where a file's conversion is or will be: named by the file's content."""
    return cache_folder() / f"gguf-{fingerprint_files([source])[:16]}-{_CONVERSION}"


def is_converted(source: Path) -> bool:
    """Whether a file has been converted."""
    return (converted_folder(source) / _ORIGIN).is_file()


def convert(source: Path, who: str) -> tuple[Path, str]:
    """Convert a GGUF file, if that has not been done; returns the folder and how the file stored its weights.

    Args:
        source: the file.
        who: names the model in messages.

    Raises:
        ModelInputError: the package `gguf` is not installed.
        ModelLoadError: the file is damaged, or holds what cannot be read.
    """
    folder = converted_folder(source)
    if not (folder / _ORIGIN).is_file():
        if importlib.util.find_spec("gguf") is None:
            raise ModelInputError(f'{who}: GGUF files need a package: pip install "steelyard[gguf]"')
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = Path(scratch) / "model"
            with contextlib.redirect_stderr(io.StringIO()):  # transformers' progress bars cannot be switched off
                _convert(source, made, who)
            if not (folder / _ORIGIN).is_file():  # another process may have been quicker
                shutil.rmtree(folder, ignore_errors=True)
                made.rename(folder)  # atomic: an interrupted conversion leaves no half model
    about = json.loads((folder / _ORIGIN).read_text())
    return folder, str(about["stored"])


def _convert(source: Path, folder: Path, who: str) -> None:
    """Write a GGUF file's model, dequantised to fp32, and its tokenizer as a transformers folder."""
    with _read_once():
        reader = _open(source, who)
        fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer.")}
        _check_header(fields, who)
        num_bytes = sum(4 * int(tensor.n_elements) for tensor in reader.tensors)
        _check_room(num_bytes, folder.parent, who)
        try:
            model = _load(source, reader, who)
            _stretch_rotary(model.config, fields, reader, who)
            tokenizer = _load_tokenizer(source, reader, who)
        except ModelLoadError:
            raise
        except Exception as error:  # whatever its libraries raise of a file that holds what they do not expect
            raise ModelLoadError(
                f"{who}: {source.name} cannot be read: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            ) from error
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        about = {"source": source.name, "architecture": fields["general.architecture"], "stored": _stored(reader)}
        (folder / _ORIGIN).write_text(json.dumps(about, indent=1) + "\n")


@contextlib.contextmanager
def _read_once() -> Iterator[None]:
    """Within this context a file's header is parsed once.

    transformers parses it, with the whole vocabulary in it, four times, and lists the tensors' names anew for each
    module: more than half of the time.
    """
    import gguf

    originals = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader, gguf.get_tensor_name_map = map(functools.cache, originals)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = originals


def _open(source: Path, who: str) -> Any:
    import gguf

    with source.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelLoadError(f"{who}: {source.name} is no GGUF file")
    try:
        return gguf.GGUFReader(str(source))
    except Exception as error:  # of many kinds, depending on where the file ends
        raise ModelLoadError(f"{who}: {source.name} is truncated or damaged; fetch it anew") from error


def _check_header(fields: dict[str, Any], who: str) -> None:
    """Refuse what is not a whole model of a known architecture."""
    architecture = fields.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise ModelLoadError(
            f"{who}: transformers does not read {architecture} models from GGUF files "
            f"(it reads: {', '.join(ARCHITECTURES)}); use the original checkpoint"
        )
    if (num := fields.get("split.count", 1)) > 1:
        raise ModelLoadError(
            f"{who}: the file is one of {num} parts; join them with llama-gguf-split --merge, or use the checkpoint"
        )


def _check_room(num_bytes: int, folder: Path, who: str) -> None:
    """The weights are in memory and then on the disk as fp32, whatever the file stores them in."""
    rooms = {"memory": available_memory_bytes(), f"disk in {folder.parent}": shutil.disk_usage(folder).free}
    for name, free in rooms.items():
        if (need := num_bytes * _MARGIN) > free:
            raise ModelLoadError(
                f"{who}: dequantising the file to float32 needs about {need / 2**30:.1f} GiB of {name}, "
                f"of which {free / 2**30:.1f} GiB are free"
            )


def _load(source: Path, reader: Any, who: str) -> Any:
    """The file's model, all of whose weights are the file's, and which takes all of the file's weights."""
    import torch

    from bench.hf import TENSOR_PROCESSORS, AutoModelForCausalLM, TensorProcessor, get_gguf_hf_weights_map

    model, info = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32, output_loading_info=True
    )
    if absent := sorted(info["missing_keys"]):
        raise ModelLoadError(f"{who}: {source.name} lacks {len(absent)} weights; the first is {absent[0]}")
    # Weights are plain now, and saving refuses what says that it is quantised.
    del model.hf_quantizer, model.config.quantization_config
    architecture = reader.fields["general.architecture"].contents()
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=model.config.to_dict())
    taken = {*get_gguf_hf_weights_map(model, processor), "rope_freqs.weight"}  # see `_stretch_rotary`
    left = sorted(tensor.name for tensor in reader.tensors if not _is_taken(tensor.name, taken))
    if left:
        raise ModelLoadError(
            f"{who}: {source.name} holds {len(left)} weights that transformers does not read, the first is {left[0]}; "
            "use the original checkpoint"
        )
    return model


def _is_taken(name: str, taken: set[str]) -> bool:
    """Whether transformers takes a tensor; tied embeddings (`output.weight`) and merged experts go by other names."""
    return name in taken or name == "output.weight" or "_exps." in name


def _stretch_rotary(config: Any, fields: dict[str, Any], reader: Any, who: str) -> None:
    """Give the configuration the rotary scaling that the file asks for and transformers passes over."""
    prefix = f"{fields['general.architecture']}.rope.scaling"
    kind = fields.get(f"{prefix}.type", "none")
    scaling: dict[str, Any] = {}
    if kind in ("linear", "yarn"):
        scaling = {"rope_type": kind, "factor": fields[f"{prefix}.factor"]}
        if kind == "yarn":
            length = fields.get(f"{prefix}.original_context_length", config.max_position_embeddings)
            scaling["original_max_position_embeddings"] = length
    elif kind != "none":
        raise ModelLoadError(f"{who}: the file's rotary scaling {kind!r} is not read; use the original checkpoint")
    factors = next((tensor.data for tensor in reader.tensors if tensor.name == "rope_freqs.weight"), None)
    if factors is not None and float(factors.max()) != 1.0:
        scaling = {"rope_type": "llama3", "factor": float(factors.max()), **_LLAMA3}
        own = _llama3_factors(2 * len(factors), config.rope_parameters["rope_theta"], scaling["factor"])
        if max(abs(mine - float(its)) / mine for mine, its in zip(own, factors, strict=True)) > 1e-3:
            raise ModelLoadError(f"{who}: the file's rotary factors are not Llama 3's; use the original checkpoint")
    if scaling:
        config.rope_parameters = {**config.rope_parameters, **scaling}


def _llama3_factors(head_size: int, theta: float, factor: float) -> list[float]:
    """What Llama 3.1 and later divide rotary frequencies by: 1 for short wavelengths, `factor` for long ones."""
    length, low, high = (_LLAMA3[key] for key in ("original_max_position_embeddings", *list(_LLAMA3)[:2]))
    found = []
    for index in range(0, head_size, 2):
        wavelength = 2 * math.pi * theta ** (index / head_size)
        smooth = min(1.0, max(0.0, (length / wavelength - low) / (high - low)))
        found.append(1 / ((1 - smooth) / factor + smooth))
    return found


def _load_tokenizer(source: Path, reader: Any, who: str) -> Any:
    from bench.hf import AutoTokenizer
    from bench.models.gguf_tokenizer import mend_tokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    names = [name for name in reader.fields if name.startswith("tokenizer.ggml.")]
    fields = {name.removeprefix("tokenizer.ggml."): reader.fields[name].contents() for name in names}
    return mend_tokenizer(tokenizer, fields, who)


def _stored(reader: Any) -> str:
    """How the weights are stored: `Q4_K_M` as the file says, or else as most of them are."""
    import gguf

    said = reader.fields.get("general.file_type")
    with contextlib.suppress(ValueError, AttributeError):
        return str(gguf.LlamaFileType(said.contents()).name).removeprefix("MOSTLY_").removeprefix("ALL_")
    sizes: Counter[str] = Counter()
    for tensor in reader.tensors:
        sizes[tensor.tensor_type.name] += int(tensor.n_elements)
    return sizes.most_common(1)[0][0]

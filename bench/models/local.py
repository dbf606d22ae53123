"""Loads a language model and gets it ready to score."""

from __future__ import annotations

import textwrap
from typing import Any

import torch

from bench.config import ModelSpec
from bench.errors import ModelInputError, ModelLoadError
from bench.hf import AutoConfig, AutoTokenizer, GenerationConfig
from bench.models.files import ModelFiles, locate_tokenizer
from bench.models.kind import AUTO_CLASSES, overflows_in_float16, settle_kind
from bench.models.placement import is_whole, placement
from bench.models.quantize import (
    check_quantised,
    check_stored,
    dequantise,
    gpu_dtypes,
    loading_options,
    multiply_dequantised,
    quiet,
    stored_quantization,
)

_DEFAULT_MAX_LENGTH = 2048  # as lm-evaluation-harness, where neither config nor tokenizer says
_UNSET = int(1e30)  # transformers' model_max_length for "unknown"
_SCALED_FROM = "original_max_position_embeddings"
_BROKEN_SDPA = {"umt5"}  # with sdpa its decoder sees the tokens that follow, in transformers 5.17
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str, rank: int = 0) -> torch.device:
    """Turn a plan's device into one that exists; one that does not is an error, never another device.

    `auto` gives each of several processes, by its `rank`, a GPU of its own.
    """
    if name == "auto":
        return torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    if name == "cpu":
        return torch.device("cpu")
    index = int(name.partition(":")[2] or 0)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        here = ", ".join(["cpu", *(f"cuda:{i}" for i in range(count))])
        raise ModelInputError(f"device {name!r} is not on this machine (here: {here})")
    return torch.device("cuda", index)


def choose_dtype(name: str, device: torch.device, config: Any) -> torch.dtype:
    """Turn a plan's dtype into one: `auto` is fp32 on CPU and the checkpoint's half precision, or bf16, on CUDA.

    T5 overflows in fp16, so its half precision is bf16; checkpoints quantised by AWQ know fp16 only.
    """
    if name != "auto":
        return _DTYPES[name]
    if device.type == "cpu":
        return torch.float32
    if gpu_dtypes(config) == (torch.float16,):
        return torch.float16
    stored = getattr(config, "dtype", None)
    return torch.float16 if stored == torch.float16 and not overflows_in_float16(config) else torch.bfloat16


def load_config(spec: ModelSpec, files: ModelFiles) -> Any:
    """Read a model's configuration without its weights."""
    if files.folder is None:
        from bench.models.fake import fake_config

        return fake_config()
    try:
        return AutoConfig.from_pretrained(files.folder, trust_remote_code=spec.trust_remote_code)
    except Exception as error:  # whatever its libraries raise of a damaged or unknown file
        raise ModelLoadError(f"model {spec.name}: its configuration cannot be read: {_reason(error)}") from error


def load_generation_config(files: ModelFiles, config: Any) -> Any:
    """What a model's makers say of decoding, as transformers gives it to a model when it loads one."""
    if files.folder is not None and (files.folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(files.folder)
    return GenerationConfig.from_model_config(config)


def load_tokenizer(spec: ModelSpec, files: ModelFiles) -> Any:
    """Load a model's tokenizer."""
    if files.folder is None:
        from bench.models.fake import fake_tokenizer

        return fake_tokenizer()
    try:
        return AutoTokenizer.from_pretrained(files.folder, trust_remote_code=spec.trust_remote_code)
    except Exception as error:
        raise ModelLoadError(f"model {spec.name}: its tokenizer cannot be loaded: {_reason(error)}") from error


def load_tokenizer_of(source: str) -> Any:
    """A tokenizer without its model: of a folder, `embedded`, `fake`, or a hub repository."""
    spec = ModelSpec(source=source)
    return load_tokenizer(spec, locate_tokenizer(spec))


def load_model(
    spec: ModelSpec, files: ModelFiles, config: Any, device: torch.device, dtype: torch.dtype, num_ranks: int = 1
) -> Any:
    """Load a model's weights to a device, or to several if the plan says so.

    `num_ranks` processes load it at the same time, and each has a part of every layer if the plan says so.

    Raises:
        ModelLoadError: the weights cannot be read, or are not all there.
    """
    if files.folder is None:
        from bench.models.fake import fake_model

        return fake_model(config).to(device=device, dtype=dtype)
    is_quantised = spec.quantization != "none" or stored_quantization(config) is not None
    needs_eager = getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None
    needs_eager = needs_eager or config.model_type in _BROKEN_SDPA
    try:
        check_stored(config, files.folder)
        with quiet():
            model, info = AUTO_CLASSES[settle_kind(spec, config)].from_pretrained(
                files.folder,
                config=config,
                attn_implementation="eager" if needs_eager else None,  # sdpa, the default, leaves soft caps out
                dtype=dtype,
                **placement(spec, device, num_ranks, is_quantised=is_quantised),
                use_safetensors=None if spec.allow_pickle else True,
                trust_remote_code=spec.trust_remote_code,
                ignore_mismatched_sizes=True,  # they are told of below, by name
                output_loading_info=True,
                **loading_options(spec, config, device, dtype),
            )
    except Exception as error:
        raise ModelLoadError(f"model {spec.name} cannot be loaded: {_reason(error)}") from error
    absent = sorted([*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])])
    if absent:  # transformers fills them with random numbers and goes on
        raise ModelLoadError(
            f"model {spec.name} cannot be loaded: its files lack {len(absent)} of the weights that its configuration "
            f"asks for, or hold them in another shape; the first is {absent[0]}"
        )
    if is_quantised:
        check_quantised(spec, model)
        multiply_dequantised(model)
        if device.type == "cpu":
            dequantise(spec, model, dtype)
    elif is_whole(spec, num_ranks):
        model.to(device)
    return model.eval()


def resolve_max_length(config: Any, tokenizer: Any) -> int:
    """Most tokens a model takes, by lm-evaluation-harness's rule.

    One departure: rotary scalings that change with a sequence's own length (dynamic, longrope) would make a token's
    state depend on what shares its pack, so such models are held to the length they scale from.
    """
    config = getattr(config, "text_config", None) or config
    rope = getattr(config, "rope_parameters", None) or {}
    scalings = [rope, *(part for part in rope.values() if isinstance(part, dict))]  # one for all layers or one a kind
    held_to = [part.get(_SCALED_FROM) for part in scalings if part.get("rope_type") in {"dynamic", "longrope"}]
    if any(held_to):
        return min(int(length) for length in held_to if length)
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        if getattr(config, name, None) is not None:
            return int(getattr(config, name))
    length = getattr(tokenizer, "model_max_length", None)
    return int(length) if length is not None and length < _UNSET else _DEFAULT_MAX_LENGTH


def usable_positions(model: Any) -> int | None:
    """Most tokens of a model that counts positions from its padding token's on, as RoBERTa does; None for others.

    Its table of positions is as long as its configuration says, but the first few are never used.
    """
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return int(len(module.weight) - module.padding_idx - 1)
    return None


def has_relative_positions(config: Any) -> bool:
    """Whether a model takes any length, and `resolve_max_length` only says what it was trained on, as with T5."""
    has_table = getattr(config, "max_position_embeddings", None) is not None
    return getattr(config, "relative_attention_num_buckets", None) is not None and not has_table


def build_skeleton(config: Any, kind: str = "causal") -> Any:
    """Build a model of some kind without weights, for counting."""
    with torch.device("meta"):
        return AUTO_CLASSES[kind].from_config(config)


def _reason(error: Exception) -> str:
    """What a library's message says, in one line."""
    if "trust_remote_code" in str(error):
        return "it needs the repository's own code; say trust_remote_code: true if you trust it"
    if isinstance(error, KeyError):
        return f"{error} is absent from it"
    return textwrap.shorten(str(error), 300, placeholder=" ...") or type(error).__name__

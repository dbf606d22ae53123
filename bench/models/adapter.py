"""LoRA adapters: found like models, and merged into the weights when these are loaded."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config import AdapterSpec, ModelSpec
from bench.errors import ModelInputError, ModelLoadError
from bench.models.fingerprint import fingerprint_folder
from bench.models.hub import fetch_folder
from bench.models.quantize import quiet

_CONFIG, _WEIGHTS, _PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter on disk.

    Attributes:
        source: as the plan has it.
        revision: the hub commit, or what else names this state of it.
        fingerprint: changes when the files do; part of a run's identity.
        base: the model it was made for, as the adapter says.
    """

    folder: Path
    source: str
    revision: str
    fingerprint: str
    base: str | None

    def describe(self) -> dict[str, object]:
        """The part `model.adapter` of run.json."""
        return {
            "source": self.source,
            "revision": self.revision,
            "fingerprint": self.fingerprint,
            "base": self.base,
        }


def locate_adapter(spec: ModelSpec) -> Adapter | None:
    """Find or download a model's adapter; None for a model that has none.

    Raises:
        ModelInputError: the package `peft` is not installed, or the source is no adapter that can be merged.
        ModelLoadError: the hub refuses.
    """
    if spec.adapter is None:
        return None
    who, source = f"model {spec.name}: adapter", spec.adapter.source
    if importlib.util.find_spec("peft") is None:
        raise ModelInputError(f'{who} {source} needs peft: pip install "steelyard[peft]"')
    folder = Path(source).expanduser()
    if folder.is_dir():
        fingerprint = fingerprint_folder(folder)
        revision = f"sha256:{fingerprint[:12]}"
    else:
        folder, revision = _fetched(spec, spec.adapter, who)
        fingerprint = f"{source}@{revision}"
    return Adapter(folder, source, revision, fingerprint, _check_folder(folder, who, spec.allow_pickle))


def apply_adapter(model: Any, adapter: Adapter, spec: ModelSpec, *, is_quantised: bool) -> Any:
    """Put an adapter into a model: merged into its weights, or beside those that are quantised.

    Raises:
        ModelLoadError: it belongs to another model, or is damaged.
    """
    from peft import PeftConfig, PeftModel, load_peft_weights, set_peft_model_state_dict

    who = f"model {spec.name}: adapter {adapter.source}"
    try:
        with quiet():
            config = PeftConfig.from_pretrained(str(adapter.folder))
            config.inference_mode = True
            weights = load_peft_weights(str(adapter.folder), device=str(model.device))
            wrapped = PeftModel(model, config)
            result = set_peft_model_state_dict(wrapped, weights)
    except Exception as error:  # of many kinds: layers that are not there, shapes, files
        base = f", which was made for {adapter.base}," if adapter.base else ""
        reason = " ".join(str(error).split())[:200]
        raise ModelLoadError(f"{who}{base} does not fit this model: {reason}") from error
    left = [*result.unexpected_keys, *(key for key in result.missing_keys if ".lora_" in key)]
    if left:
        raise ModelLoadError(f"{who} does not fit this model: {len(left)} weights of the two differ, such as {left[0]}")
    if is_quantised:
        return wrapped.base_model.model.eval()
    return wrapped.merge_and_unload(safe_merge=True).eval()


def _fetched(spec: ModelSpec, adapter: AdapterSpec, who: str) -> tuple[Path, str]:
    if adapter.source.count("/") != 1 or adapter.source.startswith((".", "/", "~")):
        raise ModelInputError(f"{who} {adapter.source!r} is neither a folder nor a hub id")
    weights = [_WEIGHTS, _PICKLE] if spec.allow_pickle else [_WEIGHTS]
    return fetch_folder(adapter.source, adapter.revision, [_CONFIG, *weights], who)


def _check_folder(folder: Path, who: str, allows_pickle: bool) -> str | None:
    """Refuse what is no LoRA adapter; returns the model it was made for, where it says so."""
    if not (folder / _CONFIG).is_file():
        raise ModelInputError(f"{who}: {folder} has no {_CONFIG}")
    try:
        config = json.loads((folder / _CONFIG).read_text())
        kind, base = config.get("peft_type"), config.get("base_model_name_or_path")
    except (ValueError, AttributeError) as error:
        raise ModelLoadError(f"{who}: {folder / _CONFIG} cannot be read: {error}") from error
    if kind != "LORA":
        raise ModelInputError(f"{who}: {folder} is of kind {kind}; only LORA adapters can be merged")
    if not (folder / _WEIGHTS).is_file() and not (allows_pickle and (folder / _PICKLE).is_file()):
        raise ModelInputError(
            f"{who}: {folder} has no {_WEIGHTS}; pickled weights run code when they are read: "
            "say allow_pickle: true if you trust them"
        )
    return None if base is None else str(base)

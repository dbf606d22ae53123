"""What tells two states of a model's files apart, without reading tens of gigabytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

_NUM_SAMPLED, _SAMPLED_BYTES = 256, 1 << 14  # parts of a large weight file that are looked at, and their size
_GGUF_HEAD_BYTES = 1 << 24  # a GGUF file starts with configuration and vocabulary, all of which counts
_WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")


def fingerprint_folder(folder: Path) -> str:
    """Hash of the names and contents of a folder's files; see `fingerprint_files`."""
    return fingerprint_files(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def fingerprint_files(paths: Iterable[Path]) -> str:
    """Hash of all small files' content and of every weight file's size and evenly spread parts.

    Hashing tens of gigabytes would take longer than scoring. The parts lie closer together than a large model's
    matrices are long, so training any one of those shows.
    """
    digest = hashlib.sha256()
    for path in sorted(paths):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}\n".encode())
        with path.open("rb") as file:
            if path.suffix in _WEIGHTS and size > _NUM_SAMPLED * _SAMPLED_BYTES:
                if path.suffix == ".gguf":
                    digest.update(file.read(_GGUF_HEAD_BYTES))
                for part in range(_NUM_SAMPLED):
                    file.seek(part * (size - _SAMPLED_BYTES) // (_NUM_SAMPLED - 1))
                    digest.update(file.read(_SAMPLED_BYTES))
            else:
                digest.update(file.read())
    return digest.hexdigest()

"""What runs, their folders and the files in them are called."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1
RUN_FILE = "run.json"
SAMPLES_FILE = "samples.jsonl"
LANE_SPEED = "speed"
"""The lane of runs that `bench speed` made: they have measured points and no scores."""


def identity(parts: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of everything that can change an answer, as canonical JSON: keys sorted, nothing but JSON types."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def run_name(model_name: str, task: str, scoring: str, num_fewshot: int | None, identity: str) -> str:
    """Name of a run's folder: readable, safe on any file system, different for different identities.

    >>> run_name("HuggingFaceTB/SmolLM2 135M", "pocket", "letter", 5, "1a2b3c4d5e6f")
    'huggingfacetb-smollm2-135m.pocket-letter-5shot.1a2b3c4d'
    """
    shots = "" if num_fewshot is None else f"-{num_fewshot}shot"  # None: not known
    return f"{_safe(model_name)}.{_safe(task)}-{_safe(scoring)}{shots}.{identity[:8]}"


def _safe(text: str) -> str:
    """Lower-case ASCII letters, digits, `.`, `_` and `-`, at most 60 of them, no dots at the ends."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    text = re.sub(r"\.{2,}", ".", re.sub(r"[^a-z0-9._]+", "-", ascii_text))
    return text[:60].strip(".-_") or "unnamed"


def rank_file(rank: int) -> str:
    """Name of the journal of a process other than the first."""
    return f"samples.rank{rank}.jsonl"


def rank_files(path: Path) -> list[Path]:
    """The journals of other processes than the first that are in a folder."""
    return sorted(path.glob(rank_file(0).replace("0", "*")))

"""A model's fingerprint changes with all that can change an answer, and with nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from model_folders import change_config, change_weights, spec_of
from safetensors.torch import load_file, save_file

from bench.models import fingerprint
from bench.models.files import locate


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

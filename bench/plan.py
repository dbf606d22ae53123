"""Loads a plan: a YAML file, what it extends, and `--set` values.

A plan is resolved when it is loaded: task files are looked up, defaults filled in, `--set` values applied. What
comes out is what runs and what the run folder records.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from bench.config import RunPlan, spelled_out
from bench.errors import PlanError
from bench.schema import Loc, key_path, load_yaml, parse_yaml, validate


def load_plan(path: Path, overrides: Sequence[str] = ()) -> RunPlan:
    """Load, override, validate and resolve a plan.

    Args:
        path: the plan's file. `extends` in it names another plan (relative to this one's folder) whose keys hold
            where this one has none: mappings merge, lists replace.
        overrides: `KEY=VALUE` strings, VALUE in YAML. In KEY, a number is a place in a list and `*` all places:
            `engine.max_batch_tokens=512`, `models.0.dtype=float32`, `tasks.*.limit=10`.

    Raises:
        PlanError: a mistake in the plan or an override.
        TaskError: a mistake in a task file that the plan uses.
    """
    return resolve_plan(_load_extended(path), overrides, path)


def resolve_plan(data: dict[str, Any], overrides: Sequence[str], where: Path | str) -> RunPlan:
    """The same of a plan that is not a file; `where` is what messages call it."""
    origins: dict[Loc, str] = {}
    for override in overrides:
        if isinstance(data.get("tasks"), list):
            data["tasks"] = [spelled_out(entry) for entry in data["tasks"]]
        for loc in _apply(data, override):
            origins[loc] = f"--set {override}"

    def place(loc: Loc) -> str | None:
        near = [end for end in range(len(loc), 0, -1) if loc[:end] in origins]
        return origins[loc[: near[0]]] if near else None

    return validate(RunPlan, data, PlanError, where, place)


def _load_extended(path: Path) -> dict[str, Any]:
    data = load_yaml(path, PlanError)
    if not isinstance(data.get("extends"), str):
        return data
    base_path = path.parent / data["extends"]
    base = load_yaml(base_path, PlanError)
    if "extends" in base:
        raise PlanError(f"{path}: extends: {base_path} extends another plan itself; one level is allowed")
    return _merged(base, data)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = {**base, **over}
    for key in base.keys() & over.keys():
        if isinstance(base[key], dict) and isinstance(over[key], dict):
            merged[key] = _merged(base[key], over[key])
    return merged


def _apply(data: dict[str, Any], override: str) -> list[Loc]:
    """Put one `KEY=VALUE` into `data`; return the locations it was put at."""
    key, equals, text = override.partition("=")
    if not equals or not re.fullmatch(r"[^.=\s]+(\.[^.=\s]+)*", key):
        raise PlanError(f"--set {override}: must be KEY=VALUE, such as engine.max_batch_tokens=512 or tasks.*.limit=10")
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as problem:
        raise PlanError(f"--set {override}: the value is not valid YAML: {' '.join(str(problem).split())}") from None
    *parents, last = key.split(".")
    places: list[tuple[Loc, Any]] = [((), data)]
    changed: list[Loc] = []
    for part in parents:
        below: list[tuple[Loc, Any]] = []
        for loc, container in places:
            for slot in _keys(override, loc, container, part):
                if isinstance(container, dict) and slot not in container:
                    container[slot] = {}
                    changed.append((*loc, slot))
                below.append(((*loc, slot), container[slot]))
        places = below
    for loc, container in places:
        for slot in _keys(override, loc, container, last):
            container[slot] = value
            changed.append((*loc, slot))
    return changed


def _keys(override: str, loc: Loc, container: Any, part: str) -> Sequence[int | str]:
    """The keys of `container` that `part` of an override's KEY means."""
    if isinstance(container, dict):
        return [part]
    if not isinstance(container, list):
        raise PlanError(f"--set {override}: {key_path(loc)} is a single value and has no {part!r} in it")
    if part == "*":
        return range(len(container))
    if not part.isdigit() or int(part) >= len(container):
        places = f"0 to {len(container) - 1} or *"
        raise PlanError(
            f"--set {override}: {key_path(loc)} is a list; {part!r} is not a place in it (allowed: {places})"
        )
    return [int(part)]

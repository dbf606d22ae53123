"""Strict YAML, for plans and tasks alike: nothing unknown, nothing twice, nothing converted in silence.

A mistake becomes one line: file and line, key path, what is wrong, the nearest allowed name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Strict, ValidationError
from pydantic_core import ErrorDetails

from bench.errors import InputError, one_of

Loc = tuple[int | str, ...]
T = TypeVar("T")
M = TypeVar("M", bound="StrictModel")


class StrictModel(BaseModel):
    """Base of everything read from YAML: unknown keys refused, types not coerced, frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


# YAML knows lists only; strict validation would refuse a list for a tuple.
Many = Annotated[tuple[T, ...], Strict(False)]
FilePath = Annotated[Path, Strict(False)]


def _auto_or_int(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"{value!r} is neither 'auto' nor a whole number of at least 1")


# Checked before the union, whose two branches would both complain.
AutoInt = Annotated[int | Literal["auto"], BeforeValidator(_auto_or_int)]


class _Loader(yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader):  # type: ignore[misc]
    """PyYAML keeps the last of two equal keys and says nothing; this one refuses them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            mark = (key.tag, str(key.value))
            if mark in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice", key.start_mark
                )
            seen.add(mark)
        return super().construct_mapping(node, deep)  # type: ignore[no-any-return]


def parse_yaml(text: str) -> Any:
    """Parse one YAML document.

    Raises:
        yaml.YAMLError: a syntax error, a key given twice, or a tag that is not plain data.
    """
    return yaml.load(text, Loader=_Loader)  # a SafeLoader: builds plain data only


def load_yaml(path: Path, error: type[InputError]) -> dict[str, Any]:
    """Load the mapping in the YAML file `path`.

    Raises:
        InputError: of the class `error`, when the file is absent, unreadable, not YAML or not a mapping.
    """
    try:
        data = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        siblings = [entry.name for entry in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        hint = f"; {one_of(path.name, siblings)}" if siblings else ""
        raise error(f"{path}: no such file{hint}") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise error(f"{path}: cannot be read: {problem}") from None
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise error(f"{path}{line}: not valid YAML: {problem.problem or problem.context}") from None
    except yaml.YAMLError as problem:
        raise error(f"{path}: not valid YAML: {' '.join(str(problem).split())}") from None
    if not isinstance(data, dict):
        raise error(f"{path}: must be a mapping of keys to values, not {_shown(data)}")
    return data


def validate(
    model: type[M],
    data: Any,
    error: type[InputError],
    where: Path | str,
    place: Callable[[Loc], str | None] | None = None,
) -> M:
    """Validate `data` with `model`.

    Args:
        model: what the data must be.
        data: plain data, as `load_yaml` returns it.
        error: the class to raise.
        where: the file the data came from, or other words for it.
        place: says where the value at a location came from if not from `where` (None: from `where`).

    Raises:
        InputError: of the class `error`, in one line; all mistakes are named, the first is explained.
    """
    try:
        return model.model_validate(data)
    except ValidationError as problem:
        # A misspelt key is two mistakes to pydantic, one unknown and one missing: the unknown one explains.
        mistakes = sorted(problem.errors(include_url=False), key=lambda item: item["type"] != "extra_forbidden")
    first, *rest = mistakes
    source = (place(first["loc"]) if place else None) or _with_line(where, first["loc"])
    own = [item for item in rest if first["loc"][: len(item["loc"])] != item["loc"]]  # not what holds the mistake
    others = sorted({key_path(item["loc"]) for item in own})
    more = f" (also wrong: {', '.join(others)})" if others else ""
    key = f"{key_path(first['loc'])}: " if first["loc"] else ""
    raise error(f"{source}: {key}{_explain(model, first)}{more}")


def key_path(loc: Sequence[int | str]) -> str:
    """Return a location as a reader writes it.

    >>> key_path(("tasks", 1, "limit"))
    'tasks[1].limit'
    """
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")


def _with_line(where: Path | str, loc: Loc) -> str:
    """`where`, with the number of the line that holds the deepest key of `loc`, if it is a file."""
    if not isinstance(where, Path) or not loc:
        return str(where)
    node = yaml.compose(where.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    line = None
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == part), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            found = (node.value[part], node.value[part])
        else:
            found = None
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return f"{where}:{line}" if line else str(where)


def _explain(model: type[BaseModel], mistake: ErrorDetails) -> str:
    """What is wrong and what is allowed, of one pydantic error."""
    value = mistake["input"]
    match mistake["type"]:
        case "extra_forbidden":
            text = f"unknown key; {one_of(str(mistake['loc'][-1]), _known_keys(model, mistake['loc'][:-1]))}"
        case "missing":
            text = "missing; this key is required"
        case "too_short" | "string_too_short":
            text = "is empty; at least one is needed"
        case "literal_error":
            allowed = re.findall(r"'([^']*)'", mistake["ctx"]["expected"])
            text = f"{_shown(value)} is not one of the allowed values; {one_of(str(value), allowed)}"
        case "value_error":
            text = str(mistake["ctx"]["error"])
        case "string_type" if isinstance(value, bool):
            text = f"YAML reads this as {value}; write it in quotes if it is meant as text"
        case _:
            wanted = mistake["msg"][mistake["msg"].find("should") :].replace("tuple", "list")
            text = f"{wanted}, not {_shown(value)}"
    return text


def _shown(value: Any) -> str:
    """A value for a message, short."""
    if isinstance(value, Mapping):
        return "a mapping"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _known_keys(model: type[BaseModel], loc: Loc) -> list[str]:
    """The keys of the model that stands at `loc` below `model`."""
    current: type[BaseModel] = model
    for part in loc:
        fields = {field.alias or name: field.annotation for name, field in current.model_fields.items()}
        if part in fields:
            current = _model_in(fields[str(part)]) or current
    return [field.alias or name for name, field in current.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model inside an annotation such as `tuple[Model, ...]` or `dict[str, Model] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)

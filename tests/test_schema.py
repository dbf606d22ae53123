from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from bench.errors import PlanError, TaskError
from bench.schema import AutoInt, Many, StrictModel, key_path, load_yaml, validate


class Wheel(StrictModel):
    size: int
    colour: Literal["red", "green"] = "red"
    label: str = ""


class Car(StrictModel):
    wheels: Many[Wheel]
    speed: AutoInt = "auto"
    spare: dict[str, Wheel] | None = None


@pytest.fixture
def write(tmp_path: Path):
    def _write(text: str) -> Path:
        path = tmp_path / "car.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return _write


def mistake(path: Path) -> str:
    with pytest.raises(PlanError) as caught:
        validate(Car, load_yaml(path, PlanError), PlanError, path)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(path))


def test_a_right_file_becomes_a_frozen_model(write) -> None:
    path = write("wheels: [{size: 3}, {size: 4, colour: green}]\nspeed: 5\nspare: {left: {size: 1}}\n")
    car = validate(Car, load_yaml(path, PlanError), PlanError, path)
    assert car.wheels[1] == Wheel(size=4, colour="green")
    assert car.speed == 5
    with pytest.raises(ValidationError):
        car.speed = 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wheels:\n- size: 3\n- {size: 3,\n   colr: red}\n", ":4: wheels[1].colr: unknown key; did you mean 'colour'?"),
        ("wheels: []\nspare:\n  left: {size: 1, labl: x}\n", ":3: spare.left.labl: unknown key; did you mean 'label'?"),
        ("wheels:\n- {colour: red}\n", ":2: wheels[0].size: missing"),
        ("wheels:\n- {size: 3, colour: gren}\n", "'gren' is not one of the allowed values; did you mean 'green'?"),
        ("wheels:\n- {size: '3'}\n", ":2: wheels[0].size: should be a valid integer, not '3'"),
        ("wheels:\n- {size: 3, label: no}\n", "wheels[0].label: YAML reads this as False; write it in quotes"),
        ("wheels: []\nspeed: 0\n", ":2: speed: 0 is neither 'auto' nor a whole number of at least 1"),
        ("wheels: []\nspeed: true\n", ":2: speed: True is neither"),
        ("wheels: 3\n", ":1: wheels: should be a valid list, not 3"),
        ("wheels: [3]\n", ":1: wheels[0]: should be a valid dictionary"),
    ],
)
def test_a_mistake_is_one_line_with_place_reason_and_remedy(write, text: str, message: str) -> None:
    assert message in mistake(write(text))


def test_a_misspelt_key_comes_before_the_missing_one(write) -> None:
    text = mistake(write("weels: []\n"))
    assert text.startswith(":1: weels: unknown key; did you mean 'wheels'?")
    assert text.endswith("(also wrong: wheels)")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wheels: []\nspeed: 1\nspeed: 2\n", ":3: not valid YAML: the key 'speed' is given twice"),
        ("wheels:\n- {size: 1, size: 1}\n", ":2: not valid YAML: the key 'size' is given twice"),
        ("wheels: [1\nspeed: 2\n", ":2: not valid YAML:"),
        ("wheels: !!python/object:os.system []\n", ":1: not valid YAML:"),
        ("- a\n", ": must be a mapping of keys to values, not ['a']"),
        ("", ": must be a mapping of keys to values, not None"),
        ("a: \x00", ": not valid YAML:"),
    ],
)
def test_what_is_not_a_yaml_mapping_is_refused_with_its_line(write, text: str, message: str) -> None:
    assert mistake(write(text)).startswith(message)


def test_a_key_given_twice_through_a_merge_is_allowed(write) -> None:
    path = write("base: &base {size: 1, label: a}\nwheel: {<<: *base, size: 2}\n")
    assert load_yaml(path, PlanError)["wheel"] == {"size": 2, "label": "a"}


def test_an_absent_file_names_its_nearest_sibling(write, tmp_path: Path) -> None:
    write("a: 1")
    with pytest.raises(TaskError, match=r"cars\.yaml: no such file; did you mean 'car\.yaml'"):
        load_yaml(tmp_path / "cars.yaml", TaskError)
    with pytest.raises(TaskError, match=r"no such file$"):
        load_yaml(tmp_path / "no" / "car.yaml", TaskError)


def test_a_file_that_is_no_text_is_an_error_not_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanError, match="cannot be read"):
        load_yaml(tmp_path / "x.yaml", PlanError)
    with pytest.raises(PlanError, match="cannot be read"):
        load_yaml(tmp_path, PlanError)


def test_the_origin_of_a_value_can_be_named_instead_of_the_file(write) -> None:
    with pytest.raises(PlanError, match=r"^--set x: speed: 0 is neither"):
        validate(Car, {"wheels": [], "speed": 0}, PlanError, write("a: 1"), lambda _: "--set x")


def test_key_paths_read_as_people_write_them() -> None:
    assert key_path(("tasks", 1, "limit")) == "tasks[1].limit"
    assert key_path((0, "a")) == "[0].a"


def test_a_list_is_not_wrong_because_its_item_is(tmp_path: Path) -> None:
    """pydantic finds a list too short once its only item is left out for a mistake in it."""

    class Garage(StrictModel):
        wheels: Annotated[Many[Wheel], Field(min_length=1)]

    file = tmp_path / "garage.yaml"
    file.write_text("wheels: [{size: 1, colour: blue}]")
    with pytest.raises(PlanError, match="colour") as error:
        validate(Garage, load_yaml(file, PlanError), PlanError, file)
    assert "also wrong" not in str(error.value)

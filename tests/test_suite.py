"""The suite's tasks: every prompt is lm-evaluation-harness 0.4.13's, from its own task over the same rows."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from counterparts import COUNTERPARTS
from lm_eval_prompts import Asked, compare_prompts, describe_settings, form_of, write_stand_in_shots
from original_rows import write_originals

from bench.config import TaskSpec
from bench.records import PromptedSample
from bench.tasks.dataset import load_rows
from bench.tasks.prompts import build_prompts
from bench.tasks.task import load_task

NUM_SAMPLES = 100  # of each task, from all of its subjects


def point_to(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Have all tasks take their rows from one folder."""
    monkeypatch.setenv("STEELYARD_DATA", str(folder))
    for source in [source for name in COUNTERPARTS for source in load_task(name.split()[0]).sources]:
        for variable in re.findall(r"\$\{(\w+_DIR)", source.folder):
            monkeypatch.delenv(variable, raising=False)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_originals(folder)
    return folder


def template(turns: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
    said = "".join(f"<{turn['role']}>{turn['content']}" for turn in turns)
    return said + "<assistant>" * add_generation_prompt


@pytest.mark.parametrize("name", COUNTERPARTS)
def test_prompts_over_made_up_rows(originals: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    point_to(monkeypatch, originals)
    found = list(compare_prompts(originals, name, NUM_SAMPLES, template=template))
    assert len({one.id for one in found}) == len(found) >= 2
    assert [one for one in found if not one.is_equal] == []
    is_written = form_of(name).lane == "generate"
    assert {(one.asked is not None, one.has_equal_turns) for one in found} == {(is_written, is_written or None)}


@pytest.mark.parametrize("name", COUNTERPARTS)
def test_prompts_over_the_real_data(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if not (folder := os.environ.get("STEELYARD_DATA")):
        pytest.skip("needs the original files: set STEELYARD_DATA to the folder that holds them")
    data = Path(folder)
    if name in ("mmlu_pro", "mmlu_pro_cot") and not any(data.glob("mmlu_pro/validation*")):
        write_stand_in_shots(data, tmp_path)
        data = tmp_path
    point_to(monkeypatch, data)
    found = list(compare_prompts(data, name, NUM_SAMPLES, template=template))
    assert len(found) >= NUM_SAMPLES
    assert [one for one in found if not one.is_equal] == []


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"prompt": "x"}, (False, True, False)),
        ({"golds": "x"}, (True, False, True)),
        ({"turns": (("Question: x\nAnswer:", "y"),)}, (True, True, False)),
    ],
)
def test_what_is_not_equal_is_seen(
    originals: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], what: tuple[bool, bool, bool]
) -> None:
    point_to(monkeypatch, originals)

    def changed(*args: Any) -> list[PromptedSample]:
        return [change(item) for item in build_prompts(*args)]

    def change(item: PromptedSample) -> PromptedSample:
        prompt = item.prompt
        if "prompt" in changes:
            prompt = replace(prompt, question=prompt.question + " ")
        if "turns" in changes:
            prompt = replace(prompt, turns=changes["turns"])
        sample = replace(item.sample, references=("0",)) if "golds" in changes else item.sample
        return replace(item, sample=sample, requests=(replace(item.requests[0], prompt=prompt),))

    monkeypatch.setattr("lm_eval_prompts.build_prompts", changed)
    for one in compare_prompts(originals, "gsm8k", 2, template=template):
        assert (one.has_equal_prompts, one.has_equal_golds, one.has_equal_turns) == what
        assert not one.is_equal


def test_settings_that_differ_are_said() -> None:
    form = form_of("gsm8k")
    assert form.generate
    own = Asked(form.generate.stop, form.generate.max_tokens, is_sampled=False)
    assert describe_settings(form, [own]) == "equal"
    assert describe_settings(form, [replace(own, stop=("Question:", "Q"))]) == (
        "stops also at `'</s>'`, `'<|im_end|>'` and not at `'Q'`"
    )
    assert describe_settings(form, [replace(own, stop=form.generate.stop[:2]), replace(own, stop=own.stop[2:])]) == (
        "stops at those of all subjects, there at its own"
    )
    assert describe_settings(form, [replace(own, max_tokens=None, is_sampled=True)]) == (
        "at most 512 tokens, there its model's own limit; sampled on one side only"
    )


ON_HUB = [name for name in COUNTERPARTS if " " not in name and any(source.hub for source in load_task(name).sources)]


def hub_file(folder: Path, pattern: str, subject: str) -> Path:
    """Where a source looks for a hub data set's file."""
    return folder / pattern.replace("*", "00000-of-00001").replace("{subject}", subject)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.parametrize("name", ON_HUB)
def test_the_hubs_rows_give_the_same_prompts(
    originals: Path, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    point_to(monkeypatch, originals)
    task, counterpart = load_task(name), COUNTERPARTS[name]
    use = TaskSpec.model_validate({"task": name})
    of_folder = load_rows(task, use)
    (source,) = [source for source in task.sources if source.hub]
    written: dict[Path, list[dict[str, Any]]] = {}
    for subject in {sample.subject: None for sample in of_folder.samples} if "{" in counterpart.yaml else ("",):
        for files, rows in ((source.test, counterpart.rows), (source.shots, counterpart.shots)):
            if files is not None and rows is not None:
                own = written.setdefault(hub_file(tmp_path, files.file, subject), [])
                own += rows(originals, subject)
    if name == "xcopa":  # whose hub has machine translations beside the languages
        written[hub_file(tmp_path, source.test.file, "translation-et")] = counterpart.rows(originals, "et")
    for path, table in written.items():
        write_rows(path, table)
    monkeypatch.delenv("STEELYARD_DATA")
    monkeypatch.setattr("bench.tasks.dataset.fetch_hub_folder", lambda *_: tmp_path)
    of_hub = load_rows(task, use)
    assert (of_hub.origin, of_hub.revision) == (f"hub {source.hub}", source.revision)
    made = [build_prompts(task, task.scoring, rows, task.num_fewshot) for rows in (of_folder, of_hub)]
    assert [item.requests for item in made[0]] == [item.requests for item in made[1]]
    assert [item.sample.golds for item in made[0]] == [item.sample.golds for item in made[1]]
    assert [item.sample.id for item in made[0]] == [item.sample.id for item in made[1]]

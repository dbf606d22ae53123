"""What both programs are given: the same folder of weights, the same rows, each in its own format.

lm-evaluation-harness runs its own MMLU templates, from its installed package; only the place of the rows is changed.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from common import FORMS, NUM_FEWSHOT, mmlu_folder, model_folder

from bench.errors import DataMissingError, InputError, one_of
from bench.tasks.task import load_task

METRICS = {"letter": ("acc",), "cloze": ("acc", "acc_norm")}  # what lm-eval reports of each form
_TEMPLATES = {"letter": "default", "cloze": "continuation"}  # folder of lm-eval's templates for each form


@dataclass(frozen=True, slots=True)
class Setting:
    """What both programs are given.

    Attributes:
        model: the model's folder.
        device: `cpu` or `cuda:0`.
        subjects: subjects of MMLU, sorted, as Steelyard scores them.
        forms: of tasks/mmlu.yaml, some of `FORMS`.
        scratch: a temporary folder: rows, task files, outputs, caches.
    """

    model: Path
    device: str
    subjects: tuple[str, ...]
    forms: tuple[str, ...]
    scratch: Path

    @property
    def rows(self) -> Path:
        """The rows, in MMLU's original layout."""
        return self.scratch / "rows"

    @property
    def lm_eval_tasks(self) -> Path:
        """The folder of task files for lm-eval."""
        return self.scratch / "lm_eval_tasks"


@contextmanager
def prepare(options: argparse.Namespace) -> Iterator[Setting]:
    """Lay out rows and task files in a temporary folder."""
    import torch

    unknown = [form for form in options.forms if form not in FORMS]
    if unknown:
        raise InputError(f"--forms {unknown[0]}: is not a form (allowed: {', '.join(FORMS)})")
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    subjects = tuple(sorted(set(options.subjects)))
    with tempfile.TemporaryDirectory(prefix="steelyard-study-") as scratch:
        setting = Setting(model_folder(options.model), device, subjects, options.forms, Path(scratch))
        write_rows(mmlu_folder(options.mmlu), setting, options.limit)
        write_lm_eval_tasks(setting)
        yield setting


def write_rows(mmlu: Path, setting: Setting, limit: int | None) -> None:
    """Write the subjects' rows as CSV, for Steelyard, and as JSON lines with the same texts, for lm-eval."""
    for split, most in (("test", limit), ("dev", None)):
        (setting.rows / split).mkdir(parents=True)
        for subject in setting.subjects:
            name = f"{split}/{subject}_{split}.csv"
            if not (mmlu / name).is_file():
                raise DataMissingError(f"--subjects: there is no {name} in {mmlu}; {one_of(subject, _subjects(mmlu))}")
            with (mmlu / name).open(encoding="utf-8", newline="") as file:
                rows = list(csv.reader(file))[:most]
            with (setting.rows / name).open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows(rows)
            with (setting.rows / name).with_suffix(".jsonl").open("w", encoding="utf-8") as file:
                for question, *choices, gold in rows:
                    row = {"question": question, "choices": choices, "answer": "ABCD".index(gold)}
                    file.write(json.dumps(row) + "\n")


def _subjects(mmlu: Path) -> list[str]:
    return [path.name.removesuffix("_test.csv") for path in mmlu.glob("test/*_test.csv")]


def write_plan(setting: Setting, dtype: str, **engine: Any) -> Path:
    """Write the plan of a setting; what does not fit the model is cut as lm-eval cuts it."""
    plan = {
        "models": [{"source": str(setting.model), "dtype": dtype, "device": setting.device}],
        "tasks": [
            {"task": "mmlu", "scoring": form, "num_fewshot": NUM_FEWSHOT, "data_dir": str(setting.rows)}
            for form in setting.forms
        ],
        "engine": {"overlong": "cut_left", **engine},
    }
    path = setting.scratch / "plan.yaml"
    _write_yaml(path, plan)
    return path


def write_lm_eval_tasks(setting: Setting) -> None:
    """Write a task file a subject and form, which includes lm-eval's own one, and a group a form."""
    setting.lm_eval_tasks.mkdir()
    for form in setting.forms:
        templates = _lm_eval_package() / "tasks" / "mmlu" / _TEMPLATES[form]
        for subject in setting.subjects:
            files = {split: str(setting.rows / split / f"{subject}_{split}.jsonl") for split in ("test", "dev")}
            task = {
                "include": str(templates / f"mmlu_{subject}.yaml"),
                "task": lm_eval_task(form, subject),
                "tag": None,  # lm-eval's own tags are for its own tasks
                "dataset_path": "json",
                "dataset_name": None,
                "dataset_kwargs": {"data_files": files, "cache_dir": str(setting.scratch / "datasets")},
            }
            _write_yaml(setting.lm_eval_tasks / f"{task['task']}.yaml", task)
        group = {
            "group": lm_eval_group(form),
            "task": [lm_eval_task(form, subject) for subject in _by_category(setting.subjects)],
            "aggregate_metric_list": [{"metric": metric, "weight_by_size": True} for metric in METRICS[form]],
        }
        _write_yaml(setting.lm_eval_tasks / f"{group['group']}.yaml", group)


def _by_category(subjects: Sequence[str]) -> list[str]:
    """The order of lm-eval's own group `mmlu`, in which it adds floats up."""
    members = [subject for category in load_task("mmlu").categories.values() for subject in category]
    return sorted(subjects, key=members.index)


def lm_eval_group(form: str) -> str:
    """What the group of all subjects is called in lm-eval."""
    return f"study_{form}"


def lm_eval_task(form: str, subject: str) -> str:
    """What a subject is called in lm-eval."""
    return f"study_{form}_{subject}"


def _lm_eval_package() -> Path:
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise InputError("lm-evaluation-harness is not installed: pip install lm-eval==0.4.13")
    return Path(spec.origin).parent


def _write_yaml(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(yaml.safe_dump(dict(data), sort_keys=False), encoding="utf-8")

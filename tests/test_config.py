from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.config import RunPlan
from bench.errors import PlanError, TaskError
from bench.plan import load_plan
from bench.tasks.task import TASKS_DIR

CONFIGS = TASKS_DIR.parent / "configs"
PLAN = """\
models:
- source: org/some-model
- {source: embedded, name: small, dtype: float32}
tasks:
- pocket
- task: mmlu
  num_fewshot: 0
  subjects: [astronomy, anatomy]
engine:
  bos: never
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def _write(text: str = PLAN, name: str = "plan.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return _write


def mistake(path: Path, *overrides: str) -> str:
    with pytest.raises(PlanError) as caught:
        load_plan(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_plan_is_resolved_when_it_is_loaded(write: Write) -> None:
    plan = load_plan(write())
    assert [model.name for model in plan.models] == ["some-model", "small"]
    assert (plan.tasks[0].task, plan.tasks[0].scoring, plan.tasks[0].num_fewshot) == ("pocket", "letter", 5)
    assert (plan.tasks[1].scoring, plan.tasks[1].num_fewshot) == ("letter", 0)
    assert plan.tasks[1].subjects == ("astronomy", "anatomy")
    assert (plan.engine.bos, plan.engine.max_batch_tokens, plan.out) == ("never", "auto", Path("results"))


def test_costs_are_what_the_plan_says_and_nothing_by_default(write: Write) -> None:
    assert load_plan(write()).costs.model_dump() == {
        "machine_usd_per_hour": None,
        "energy_usd_per_kwh": None,
        "utilisation": 1.0,
    }
    assert load_plan(write(), ["costs.machine_usd_per_hour=2"]).costs.machine_usd_per_hour == 2
    assert "costs.machine_usd_per_hour" in mistake(write(), "costs.machine_usd_per_hour=-1")
    assert "did you mean 'machine_usd_per_hour'" in mistake(write(), "costs.machine_usd_per_hou=1")


def test_a_resolved_plan_survives_json(write: Write) -> None:
    plan = load_plan(write())
    assert RunPlan.model_validate_json(plan.model_dump_json()) == plan


@pytest.mark.parametrize("name", ["cpu", "gpu", "smoke"])
def test_the_projects_plans_load(name: str) -> None:
    plan = load_plan(CONFIGS / f"{name}.yaml")
    assert {task.task for task in plan.tasks} <= {"mmlu", "pocket"}
    assert not any(model.allow_pickle or model.trust_remote_code for model in plan.models)


def test_overrides_reach_keys_places_and_all_places(write: Write) -> None:
    overrides = ["engine.max_batch_tokens=512", "models.0.dtype=float16", "tasks.*.limit=10", "out=elsewhere"]
    plan = load_plan(write(), overrides)
    assert (plan.engine.max_batch_tokens, plan.engine.bos) == (512, "never")
    assert [model.dtype for model in plan.models] == ["float16", "float32"]
    assert [task.limit for task in plan.tasks] == [10, 10]
    assert plan.out == Path("elsewhere")


def test_overrides_replace_whole_values_and_make_missing_mappings(write: Write) -> None:
    path = write("models: [source: embedded]\ntasks: [pocket]\n")
    plan = load_plan(path, ["tasks=[mmlu]", "engine.bos=never", "models.0={source: fake}"])
    assert plan.tasks[0].task == "mmlu"
    assert plan.engine.bos == "never"
    assert plan.models[0].name == "fake"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("engine.max_batch_tokns=3", "unknown key; did you mean 'max_batch_tokens'?"),
        ("engin.bos=never", "engin: unknown key; did you mean 'engine'?"),
        ("tasks.*.limt=3", "tasks[0].limt: unknown key; did you mean 'limit'?"),
        ("tasks.1.scoring=lettr", "tasks[1].scoring: 'lettr' is not a form of task mmlu; did you mean 'letter'?"),
        ("tasks.1.task=mmul", "tasks[1].task: unknown task 'mmul'; did you mean 'mmlu'?"),
        ("tasks.0.limit=0", "tasks[0].limit: should be greater than or equal to 1, not 0"),
        ("models.0.device=gpu", "models[0].device: 'gpu' is not a device (allowed: auto, cpu, cuda, cuda:0,"),
        ("tasks.2.limit=3", "tasks is a list; '2' is not a place in it (allowed: 0 to 1 or *)"),
        ("tasks.first.limit=3", "'first' is not a place in it"),
        ("engine.bos.x=3", "engine.bos is a single value and has no 'x' in it"),
        ("engine.bos", "must be KEY=VALUE"),
        ("=3", "must be KEY=VALUE"),
        ("engine.bos=[", "the value is not valid YAML"),
    ],
)
def test_a_wrong_override_is_named_itself(write: Write, override: str, message: str) -> None:
    text = mistake(write(), "out=x", override)
    assert text.startswith(f"--set {override}: ")
    assert message in text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tasks:", "taskz:", ":4: taskz: unknown key; did you mean 'tasks'?"),
        ("- pocket", "- poket", ":5: tasks[0].task: unknown task 'poket'; did you mean 'pocket'?"),
        ("- pocket", "- no/such.yaml", ":5: tasks[0].task: no task file 'no/such.yaml'"),
        ("num_fewshot: 0", "num_fewshots: 0", ":7: tasks[1].num_fewshots: unknown key; did you mean 'num_fewshot'?"),
        ("num_fewshot: 0", "scoring: clooze", ":7: tasks[1].scoring: 'clooze' is not a form of task mmlu; did you"),
        ("[astronomy, anatomy]", "[]", ":8: tasks[1].subjects: "),
        (
            "dtype: float32",
            "dtype: float23",
            "models[1].dtype: 'float23' is not one of the allowed values; did you mean",
        ),
        ("name: small", "name: some-model", "models[1] repeats models[0]; give one of them another `name`"),
        ("task: mmlu\n  num_fewshot: 0\n  subjects: [astronomy, anatomy]", "task: pocket", "tasks[1] repeats tasks[0]"),
        ("- source: org/some-model", "- {}", "models[0].source: missing"),
    ],
)
def test_a_mistake_in_a_plan_names_file_line_key_and_nearest(write: Write, old: str, new: str, message: str) -> None:
    assert old in PLAN
    path = write(PLAN.replace(old, new))
    text = mistake(path)
    assert text.startswith(str(path))
    assert message in text


def test_extends_merges_mappings_and_replaces_lists(write: Write) -> None:
    write(PLAN, "base.yaml")
    path = write("extends: base.yaml\ntasks: [pocket]\nengine: {overlong: cut_left}\n")
    plan = load_plan(path)
    assert [task.task for task in plan.tasks] == ["pocket"]
    assert (plan.engine.bos, plan.engine.overlong) == ("never", "cut_left")
    assert len(plan.models) == 2


def test_extends_goes_one_level(write: Write) -> None:
    write("extends: other.yaml\n", "base.yaml")
    assert "one level is allowed" in mistake(write("extends: base.yaml\n"))
    assert "no such file" in mistake(write("extends: bas.yaml\n"))
    assert "extends: should be a valid string" in mistake(write(f"extends: [a]\n{PLAN}"))
    assert "did you mean 'extends'?" in mistake(write("extend: base.yaml\n"))


def test_a_users_task_is_named_by_its_path_and_its_mistakes_are_the_task_files(write: Write) -> None:
    task = write("version: 1\ntitel: x\n", "own.yaml")
    with pytest.raises(TaskError, match=r"own\.yaml:2: titel: unknown key; did you mean 'title'"):
        load_plan(write(f"models: [source: fake]\ntasks: [{task}]\n"))


def test_loading_a_plan_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pathlib import Path; from bench.plan import load_plan; load_plan(Path(sys.argv[1]));"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'numpy', 'rich', 'huggingface_hub'};"
        "print(*heavy.intersection(sys.modules))"
    )
    plan = CONFIGS / "cpu.yaml"
    done = subprocess.run(
        [sys.executable, "-c", code, plan], cwd=TASKS_DIR.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""

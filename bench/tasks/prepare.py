"""From a plan's tasks to jobs: a task file's, or lm-evaluation-harness's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.config import RunPlan, TaskSpec
from bench.errors import PlanError, RunFolderError
from bench.records import PromptedSample
from bench.schema import validate
from bench.tasks.dataset import load_rows
from bench.tasks.job import Job, TaskJob
from bench.tasks.prompts import build_prompts
from bench.tasks.task import Task, load_task
from bench.tasks.template import template_variables


def prepare_job(spec: TaskSpec) -> Job:
    """Load a task's rows and build its prompts.

    Raises:
        DataMissingError: the rows are not at hand.
        TaskError, DataError, PlanError: something in the task, its rows or the plan is wrong.
    """
    if spec.lm_eval_name is not None:
        from bench.lmeval.index import find_task

        find_task(spec)  # before what takes seconds to import
        from bench.lmeval.job import prepare_lm_eval_job

        return prepare_lm_eval_job(spec)
    return prepare_task_job(spec)


def prepare_task_job(spec: TaskSpec) -> TaskJob:
    """The same, of a task that has a file of ours."""
    task = load_task(spec.task)
    _check_use(task, spec)
    dataset = load_rows(task, spec)
    prompts = build_prompts(task, spec.scoring, dataset, spec.num_fewshot or 0, spec.system_prompt)
    return TaskJob(spec, dataset, tuple(prompts), task)


def _check_use(task: Task, spec: TaskSpec) -> None:
    """Refuse what a form has no use for."""
    question, program = task.forms[spec.scoring].question, task.forms[spec.scoring].program
    if program is not None and not spec.allow_code_execution:
        raise PlanError(
            f"task {spec.task} runs what the model writes, as you and without a sandbox; if that is meant, say "
            "`allow_code_execution: true` at the task in the plan"
        )
    if spec.labels is not None and not {"labels", "shown"} & template_variables(question):
        raise PlanError(f"task {spec.task}: labels: form {spec.scoring!r} shows none, or writes its own")
    if spec.chat_template and not question:
        raise PlanError(f"task {spec.task}: chat_template: form {spec.scoring!r} scores whole texts, which nobody asks")


def find_sample(info: Mapping[str, Any], sample_id: str) -> PromptedSample:
    """Rebuild a sample of a run from its run.json.

    Raises:
        RunFolderError: the run.json is of another version, or the task no longer has the sample.
    """
    spec = validate(RunPlan, info["config"], RunFolderError, "run.json: config").tasks[0]
    for sample in prepare_job(spec).samples:
        if sample.sample.id == sample_id:
            return sample
    raise RunFolderError(f"task {spec.task} no longer has a sample {sample_id!r}")

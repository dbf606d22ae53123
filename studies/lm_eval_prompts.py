"""Our prompts, right answers and settings beside those that lm-evaluation-harness makes of the same rows."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterparts import COUNTERPARTS, Counterpart, Row, read_json_lines

from bench.config import TaskSpec
from bench.errors import ScoringError
from bench.records import PromptedSample
from bench.tasks.chat import conversation
from bench.tasks.dataset import load_rows
from bench.tasks.form import Form
from bench.tasks.prompts import build_prompts
from bench.tasks.task import Task, load_task
from bench.tasks.template import compile_template
from bench.writing.answers import references

_MOST_STOPS = 3  # that are named
Template = Callable[..., str]
"""Writes turns (`role`, `content`) as a model's chat template does; with `add_generation_prompt`, up to its answer."""


@dataclass(frozen=True, slots=True)
class Asked:
    """How lm-evaluation-harness asks for a completion; a limit of None is its model class's own."""

    stop: tuple[str, ...]
    max_tokens: int | None
    is_sampled: bool


@dataclass(frozen=True, slots=True)
class SampleComparison:
    """A sample beside its document.

    Attributes:
        id: the sample's.
        has_equal_prompts: contexts and continuations.
        has_equal_golds: the right choices, or what written answers are held against.
        has_equal_turns: the prompt as a chat template writes it, each shot as two turns; None: not compared.
        asked: how the completion is asked for there.
    """

    id: str
    has_equal_prompts: bool
    has_equal_golds: bool
    has_equal_turns: bool | None = None
    asked: Asked | None = None

    @property
    def is_equal(self) -> bool:
        """Whether prompts, turns and right answers are."""
        return self.has_equal_prompts and self.has_equal_golds and self.has_equal_turns is not False


def lm_eval_task(yaml: str, rows: list[Row], shots: list[Row] | None, **changes: Any) -> Any:
    """lm-evaluation-harness's own task, from its own file with `changes`, over our rows.

    Functions that only what is changed would need are never imported: some ask the hub.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import datasets
        import lm_eval.tasks
        from lm_eval.api.task import ConfigurableTask
        from lm_eval.tasks._yaml_loader import load_yaml

        path = Path(lm_eval.tasks.__file__).parent / yaml
        config = load_yaml(path, resolve_func=False) | changes
        config = {key: _with_functions(value) for key, value in config.items()}
        logging.disable(logging.WARNING)
        try:
            table = datasets.Dataset.from_list(rows)
            if "class" in config:
                return _task_of_class(config["class"], table)
            keys = ("training_split", "validation_split", "test_split", "fewshot_split")
            splits = {config[key]: table for key in keys if config.get(key)}
            if shots is not None:
                splits[config["fewshot_split"]] = datasets.Dataset.from_list(shots)
            config.update(dataset_path=None, dataset_name=None, custom_dataset=lambda **_: splits)
            config.setdefault("task", Path(yaml).stem)
            return ConfigurableTask(config=config)
        finally:
            logging.disable(logging.NOTSET)


def _with_functions(value: Any) -> Any:
    """What a file says, with the functions that it names in place of their paths."""
    import lm_eval.tasks
    from lm_eval.tasks._yaml_loader import _import_fun_from_str

    if isinstance(value, dict):
        return {key: _with_functions(own) for key, own in value.items()}
    if isinstance(value, list):
        return [_with_functions(own) for own in value]
    is_path = isinstance(value, str) and value.startswith(str(Path(lm_eval.tasks.__file__).parent))
    return _import_fun_from_str(value) if is_path else value


def form_of(name: str) -> Form:
    """The form that a key of `COUNTERPARTS` means."""
    task, scoring = _find(name)
    return task.forms[scoring]


def _find(name: str) -> tuple[Task, str]:
    task_name, _, scoring = name.partition(" ")
    task = load_task(task_name)
    return task, scoring or task.scoring


def _task_of_class(kind: Any, table: Any) -> Any:
    """A task that is a class of its own, with the download replaced by our rows."""

    def download(self: Any, *_: Any, **__: Any) -> None:
        self.dataset = dict.fromkeys(("train", "validation", "test"), table)

    return type(kind.__name__, (kind,), {"download": download})()


def compare_prompts(
    folder: Path, name: str, num_samples: int, *, data_dir: Path | None = None, template: Template | None = None
) -> Iterator[SampleComparison]:
    """Hold a task's prompts and golds against lm-evaluation-harness's, with the same shots: the first.

    Args:
        folder: holds all data sets.
        name: key of `COUNTERPARTS`.
        num_samples: of all subjects together, about; the first of each.
        data_dir: where our task takes its rows from, if not from where it usually does.
        template: a model's, to compare conversations, too, where the answer is written.
    """
    task, scoring = _find(name)
    counterpart, num_fewshot = COUNTERPARTS[name], task.num_fewshot_of(scoring)
    use = {"task": task.name, "num_fewshot": num_fewshot, "data_dir": None if data_dir is None else str(data_dir)}
    prompted = build_prompts(task, scoring, load_rows(task, TaskSpec.model_validate(use)), num_fewshot)
    groups = _by_subject(counterpart, prompted)
    for subject, own in groups.items():
        rows = counterpart.rows(folder, subject)
        if len(own) != len(rows):
            raise ScoringError(f"{name} {subject}: {len(own)} samples, but {len(rows)} rows")
        shots = counterpart.shots(folder, subject) if counterpart.shots and num_fewshot else None
        num = min(len(rows), -(-num_samples // len(groups)))
        yield from _Pair(task.forms[scoring], counterpart, subject, num_fewshot, template).compare(
            own[:num], rows[:num], shots
        )


def _by_subject(counterpart: Counterpart, prompted: Sequence[PromptedSample]) -> dict[str, list[PromptedSample]]:
    """The samples of each of its tasks: of a subject, or of all."""
    if counterpart.subjects:
        prompted = [one for one in prompted if one.sample.subject in counterpart.subjects]
    has_subjects = counterpart.subjects or "{" in counterpart.yaml
    groups: dict[str, list[PromptedSample]] = {}
    for one in prompted:
        groups.setdefault(one.sample.subject if has_subjects else "", []).append(one)
    return groups


@dataclass(frozen=True, slots=True)
class _Pair:
    """A form of ours and lm-evaluation-harness's task of a subject."""

    form: Form
    counterpart: Counterpart
    subject: str
    num_fewshot: int
    template: Template | None

    def compare(
        self, samples: Sequence[PromptedSample], rows: list[Row], shots: list[Row] | None
    ) -> Iterator[SampleComparison]:
        is_written = self.form.lane == "generate"
        changes: dict[str, Any] = {"metric_list": None, "filter_list": None} if is_written else {}
        if is_written and shots is not None and not self.counterpart.has_first_shots:
            changes["fewshot_config"] = {"sampler": "first_n"}
        theirs = lm_eval_task(self.counterpart.yaml_of(self.subject), rows, shots, **changes)
        for document, item in zip(theirs.eval_docs, samples, strict=True):
            yield (self._written if is_written else self._chosen)(theirs, document, item)

    def _chosen(self, theirs: Any, document: Row, item: PromptedSample) -> SampleComparison:
        requests, golds = self._asked(theirs, document), _golds(theirs, document)
        return SampleComparison(
            item.sample.id,
            [(one.prompt.text, one.continuation) for one in item.requests] == requests,
            golds is None or list(item.sample.golds) == golds,
        )

    def _written(self, theirs: Any, document: Row, item: PromptedSample) -> SampleComparison:
        context, asked = self._asked(theirs, document)[0]
        target = theirs.doc_to_target(document)
        return SampleComparison(
            item.sample.id,
            item.prompt.text == context,
            list(self._right_answers(item)) == list(self.counterpart.golds(document, target)),
            None if self.template is None else self._has_equal_turns(theirs, document, item),
            Asked(
                tuple(asked["until"]),
                asked.get("max_gen_toks"),
                bool(asked.get("do_sample") or asked.get("temperature")),
            ),
        )

    def _asked(self, theirs: Any, document: Row) -> list[tuple[Any, ...]]:
        """The arguments of its requests."""
        context = theirs.fewshot_context(document, self.num_fewshot)
        made = theirs.construct_requests(document, context, metadata=(None, 0, 1))
        return [one.args for one in (made if isinstance(made, list) else [made])]

    def _right_answers(self, item: PromptedSample) -> Sequence[str]:
        if self.form.program is None:
            return references(item.sample, self.form)
        program = compile_template(self.form.program).render({**item.sample.variables, "completion": ""})
        return [program.removesuffix("\n")]

    def _has_equal_turns(self, theirs: Any, document: Row, item: PromptedSample) -> bool:
        assert self.template is not None
        turns = [{"role": one.role, "content": one.text} for one in conversation(item.prompt, is_multi_turn=True)]
        context: str = theirs.fewshot_context(
            document,
            self.num_fewshot,
            apply_chat_template=True,
            fewshot_as_multiturn=True,
            chat_template=self.template,
        )
        return self.template(turns, add_generation_prompt=True) == context


def _golds(theirs: Any, document: Row) -> list[int] | None:
    """The right choices; None where the task has none, or reads them elsewhere."""
    if theirs.OUTPUT_TYPE != "multiple_choice":
        return []
    if theirs.config.process_results is not None:  # TruthfulQA's shares
        return None
    gold = theirs.doc_to_text(document) if theirs.multiple_input else theirs.doc_to_target(document)
    if isinstance(gold, str):
        gold = theirs.doc_to_choice(document).index(gold)
    return gold if isinstance(gold, list) else [gold]


def describe_settings(form: Form, asked: Collection[Asked]) -> str:
    """How completions are asked for otherwise than there, in words; `equal` where they are not."""
    assert form.generate is not None
    words = [_describe_stops(form.generate.stop, {one.stop for one in asked})]
    limits = {one.max_tokens for one in asked} - {form.generate.max_tokens}
    there = ["its model's own limit" if limit is None else str(limit) for limit in limits]
    words += [f"at most {form.generate.max_tokens} tokens, there {' or '.join(there)}"] if there else []
    is_other = any(one.is_sampled != (form.generate.temperature > 0) for one in asked)
    words += ["sampled on one side only"] if is_other else []
    return "; ".join(filter(None, words)) or "equal"


def _describe_stops(ours: Sequence[str], theirs: Collection[tuple[str, ...]]) -> str:
    known = dict.fromkeys(text for stops in theirs for text in stops)
    more, fewer = [text for text in ours if text not in known], [text for text in known if text not in ours]
    shown = [
        f"{word} {', '.join(f'`{text!r}`' for text in texts) if len(texts) <= _MOST_STOPS else f'{len(texts)} others'}"
        for word, texts in (("also at", more), ("not at", fewer))
        if texts
    ]
    if shown:
        return f"stops {' and '.join(shown)}"
    return "stops at those of all subjects, there at its own" if len(theirs) > 1 else ""


def write_stand_in_shots(data: Path, folder: Path) -> Path:
    """Write MMLU-Pro's rows to `folder`/mmlu_pro, with rows of test as shots: those of validation are with the hub.

    They are the last five of each subject, with a chain of thought that is as short as can be.

    Args:
        data: holds all data sets.
        folder: for the copy.

    Returns:
        The copy.
    """
    rows, copy = read_json_lines(data / "mmlu_pro/test.jsonl"), folder / "mmlu_pro"
    by_subject: dict[str, list[Row]] = {}
    for row in rows:
        thought = f"A: Let's think step by step. The answer is ({row['answer']})."
        by_subject.setdefault(row["category"], []).append({**row, "cot_content": thought})
    copy.mkdir(parents=True)
    shots = [row for own in by_subject.values() for row in own[-5:]]
    for name, kept in (("test", rows), ("validation", shots)):
        text = "".join(json.dumps(row) + "\n" for row in kept)
        (copy / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return copy

"""lm-evaluation-harness's own tasks over the original files' rows, as it would get them from the hub.

What was done to a data set when it was put there is written down here once more, in plain Python and apart from our
tasks' expressions, so that neither can hide the other's mistake.
"""

from __future__ import annotations

import csv
import gzip
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from bench.config import TaskSpec
from bench.errors import ScoringError
from bench.tasks.dataset import load_rows
from bench.tasks.prompts import build_prompts
from bench.tasks.task import load_task

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Counterpart:
    """Where lm-evaluation-harness has a task, and how its rows come of the original files.

    Attributes:
        yaml: of a subject, below its folder of tasks; `{}` stands for the subject.
        rows: of a subject, given the folder that holds all data sets.
        shots: likewise, where its shots are not random ones.
        name: the subject as its files are called.
    """

    yaml: str
    rows: Callable[[Path, str], list[Row]]
    shots: Callable[[Path, str], list[Row]] | None = None
    name: Callable[[str], str] = str

    def yaml_of(self, subject: str) -> str:
        """The file of a subject's task."""
        return self.yaml.format(self.name(subject))


def read_json_lines(path: Path) -> list[Row]:
    """Rows of a JSONL file, or of its `.gz`."""
    if not path.exists():
        path = path.with_name(path.name + ".gz")
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in content.decode().split("\n") if line.strip()]


def _json_lines(path: str) -> Callable[[Path, str], list[Row]]:
    return lambda folder, subject: read_json_lines(folder / path.format(subject))


def _mapped(path: str, change: Callable[[Row], Row]) -> Callable[[Path, str], list[Row]]:
    return lambda folder, subject: [change(row) for row in read_json_lines(folder / path.format(subject))]


def allen_row(row: Row) -> Row:
    """AI2's questions, and CommonsenseQA's, which has their format."""
    options = {key: [choice[key] for choice in row["question"]["choices"]] for key in ("text", "label")}
    stem = row["question"]["stem"]
    return {"id": row["id"], "question": stem, "question_stem": stem, "choices": options, "answerKey": row["answerKey"]}


def _hellaswag(row: Row) -> Row:
    return {**row, "label": str(row["label"])}


def _piqa(folder: Path, _: str) -> list[Row]:
    labels = (folder / "piqa/valid-labels.lst").read_text().split()
    rows = read_json_lines(folder / "piqa/valid.jsonl")
    return [{**row, "label": int(label)} for row, label in zip(rows, labels, strict=True)]


def _labelled(row: Row) -> Row:
    return {**row, "label": int(row["label"])}


def _wsc_fixed(row: Row) -> Row:
    """SuperGLUE's WSC with spans brought into line with the text, as the hub's wsc.fixed has it."""
    fixed = {"text": row["text"], "label": int(row["label"])}
    for key in ("span1", "span2"):
        span, index = row["target"][f"{key}_text"], row["target"][f"{key}_index"]
        if span not in row["text"] and span not in ("Kamenev and Zinoviev", "Kamenev, Zinoviev, and Stalin"):
            is_lower = row["text"].split()[index][0].islower()
            span = (span[0].lower() if is_lower else span[0].upper()) + span[1:]
            span = span.rstrip(".").replace("\n", " ")
        fixed |= {f"{key}_text": span, f"{key}_index": index}
    return fixed


def _truthfulqa(folder: Path, _: str) -> list[Row]:
    rows = json.loads((folder / "truthfulqa/data/mc_task.json").read_text(encoding="utf-8"))
    keys = ("mc1_targets", "mc2_targets")
    lists = [{key: {"choices": list(row[key]), "labels": list(row[key].values())} for key in keys} for row in rows]
    return [{"question": row["question"], **own} for row, own in zip(rows, lists, strict=True)]


def _mmlu(folder: Path, subject: str, split: str = "test") -> list[Row]:
    with (folder / f"mmlu/{split}/{subject}_{split}.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    return [{"question": q, "subject": subject, "choices": own, "answer": "ABCD".index(a)} for q, *own, a in rows]


_CHINESE = ("biology", "chemistry", "chinese", "geography", "history", "mathqa", "physics")


def _agieval(folder: Path, subject: str) -> list[Row]:
    """AGIEval's zero-shot prompts, as its own code makes them, and the indices of the right options."""
    found = []
    for row in read_json_lines(folder / f"agieval/v1/{subject}.jsonl"):
        options, last = " ".join(row["options"]), "ABCDE"[len(row["options"]) - 1]
        if subject.removeprefix("gaokao-") in _CHINESE:
            query = f"问题：{row['question']} 选项：{options}\n答案：从A到{last}, 我们应选择"
        else:
            query = f"Q: {row['question']} Answer Choices: {options}\nA: Among A through {last}, the answer is"
        gold = ["ABCDE".index(letter) for letter in row["label"] if letter != " "]
        found.append({"query": (row["passage"] or "") + query, "choices": row["options"], "gold": gold})
    return found


def _bbh(folder: Path, subject: str) -> list[Row]:
    examples = json.loads((folder / f"bbh/bbh/{subject}.json").read_text(encoding="utf-8"))["examples"]
    broken = ("Monsters, Inc", "dearth, wind, & fire", "rita, sue and bob poo")  # answers to none of their options
    return [row for row in examples if row["target"] not in broken]


def _belebele(folder: Path, subject: str) -> list[Row]:
    found = []
    for row in read_json_lines(folder / f"belebele/{subject}.jsonl"):
        for item in row.get("items", [None]):
            if item is None:
                found.append(row)
                continue
            answers = {f"mc_answer{number}": answer["text"] for number, answer in enumerate(item["answers"], 1)}
            right = str([answer["correct"] for answer in item["answers"]].index(True) + 1)
            found.append(
                {"flores_passage": row["text"], "question": item["question"], **answers, "correct_answer_num": right}
            )
    return found


COUNTERPARTS = {  # by task, and form if it is not the task's own
    "agieval": Counterpart("agieval/{}.yaml", _agieval),
    "arc_challenge": Counterpart(
        "arc/arc_challenge.yaml", _mapped("arc/ARC-Challenge/ARC-Challenge-Test.jsonl", allen_row)
    ),
    "arc_easy": Counterpart("arc/arc_easy.yaml", _mapped("arc/ARC-Easy/ARC-Easy-Test.jsonl", allen_row)),
    "bbh": Counterpart("leaderboard/bbh_mc/{}.yaml", _bbh),
    "belebele": Counterpart("belebele/belebele_{}.yaml", _belebele),
    "boolq": Counterpart("super_glue/boolq/default.yaml", _mapped("superglue/BoolQ/val.jsonl", _labelled)),
    "commonsense_qa": Counterpart(
        "commonsense_qa/default.yaml", _mapped("commonsenseqa/dev_rand_split.jsonl", allen_row)
    ),
    "copa": Counterpart("super_glue/copa/default.yaml", _json_lines("superglue/COPA/val.jsonl")),
    "hellaswag": Counterpart("hellaswag/hellaswag.yaml", _mapped("hellaswag/hellaswag_val.jsonl", _hellaswag)),
    "lambada_openai": Counterpart("lambada/lambada_openai.yaml", _json_lines("lambada/lambada_test.jsonl")),
    "mmlu": Counterpart("mmlu/default/mmlu_{}.yaml", _mmlu, lambda folder, subject: _mmlu(folder, subject, "dev")),
    "mmlu cloze": Counterpart(
        "mmlu/continuation/mmlu_{}.yaml", _mmlu, lambda folder, subject: _mmlu(folder, subject, "dev")
    ),
    "mmlu_pro": Counterpart(
        "leaderboard/mmlu_pro/mmlu_pro.yaml",
        _json_lines("mmlu_pro/test.jsonl"),
        _json_lines("mmlu_pro/validation.jsonl"),
    ),
    "openbookqa": Counterpart("openbookqa/openbookqa.yaml", _mapped("openbookqa/Main/test.jsonl", allen_row)),
    "piqa": Counterpart("piqa/piqa.yaml", _piqa),
    "truthfulqa_mc1": Counterpart("truthfulqa/truthfulqa_mc1.yaml", _truthfulqa),
    "truthfulqa_mc2": Counterpart("truthfulqa/truthfulqa_mc2.yaml", _truthfulqa),
    "winogrande": Counterpart("winogrande/default.yaml", _json_lines("winogrande/dev.jsonl")),
    "wsc": Counterpart("super_glue/wsc/default.yaml", _mapped("superglue/WSC/val.jsonl", _wsc_fixed)),
    "xcopa": Counterpart("xcopa/default_{0}.yaml", _json_lines("xcopa/data/{0}/test.{0}.jsonl")),
}


def lm_eval_task(yaml: str, rows: list[Row], shots: list[Row] | None, **changes: Any) -> Any:
    """lm-evaluation-harness's own task, from its own file with `changes`, over our rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import datasets
        import lm_eval.tasks
        from lm_eval.api.task import ConfigurableTask
        from lm_eval.tasks._yaml_loader import load_yaml

        config = {**load_yaml(Path(lm_eval.tasks.__file__).parent / yaml), **changes}
        table = datasets.Dataset.from_list(rows)
        keys = ("training_split", "validation_split", "test_split", "fewshot_split")
        splits = {config[key]: table for key in keys if config.get(key)}
        if shots is not None:
            splits[config["fewshot_split"]] = datasets.Dataset.from_list(shots)
        config.update(dataset_path=None, dataset_name=None, custom_dataset=lambda **_: splits)
        config.setdefault("task", Path(yaml).stem)
        logging.disable(logging.WARNING)
        try:
            return ConfigurableTask(config=config)
        finally:
            logging.disable(logging.NOTSET)


def requests_of(task: Any, document: Row, num_fewshot: int) -> tuple[list[tuple[str, str]], list[int]]:
    """What lm-evaluation-harness asks of a document: contexts and continuations, and the right choices."""
    context = task.fewshot_context(document, num_fewshot)
    made = task.construct_requests(document, context, metadata=(None, 0, 1))
    requests = [one.args for one in (made if isinstance(made, list) else [made])]
    if task.OUTPUT_TYPE != "multiple_choice":
        return requests, []
    gold = task.doc_to_text(document) if task.multiple_input else task.doc_to_target(document)
    if isinstance(gold, str):
        gold = task.doc_to_choice(document).index(gold)
    return requests, gold if isinstance(gold, list) else [gold]


def compare_prompts(folder: Path, name: str, num_samples: int, *, has_shots: bool = True) -> Iterator[tuple[str, bool]]:
    """Hold a task's prompts and golds against lm-evaluation-harness's: pairs of a sample's id and whether all is equal.

    Args:
        folder: holds all data sets.
        name: key of `COUNTERPARTS`.
        num_samples: of all subjects together, about; the first of each.
        has_shots: as many shots as the task has; else none.
    """
    task_name, _, form = name.partition(" ")
    task, counterpart = load_task(task_name), COUNTERPARTS[name]
    num_fewshot = task.num_fewshot if has_shots else 0
    dataset = load_rows(task, TaskSpec.model_validate({"task": task_name, "num_fewshot": num_fewshot}))
    prompted = build_prompts(task, form or task.scoring, dataset, num_fewshot)
    has_subjects = "{" in counterpart.yaml
    groups = [
        (key, list(own)) for key, own in groupby(prompted, lambda one: one.sample.subject if has_subjects else "")
    ]
    for subject, own in groups:
        rows = counterpart.rows(folder, subject)
        if len(own) != len(rows):
            raise ScoringError(f"{name} {subject}: {len(own)} samples, but {len(rows)} rows")
        shots = counterpart.shots(folder, subject) if counterpart.shots and num_fewshot else None
        num = min(len(rows), -(-num_samples // len(groups)))
        theirs = lm_eval_task(counterpart.yaml_of(subject), rows[:num], shots)
        for document, item in zip(theirs.eval_docs, own[:num], strict=True):
            requests, golds = requests_of(theirs, document, num_fewshot)
            is_equal = [(one.prompt.text, one.continuation) for one in item.requests] == requests
            if task_name != "truthfulqa_mc2":  # whose golds lm-evaluation-harness reads elsewhere
                is_equal = is_equal and list(item.sample.golds) == golds
            yield item.sample.id, is_equal

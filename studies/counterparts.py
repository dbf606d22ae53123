"""Which of lm-evaluation-harness's tasks ours are, and the original files' rows as it would get them from the hub.

What was done to a data set when it was put there is written down here once more, in plain Python and apart from our
tasks' expressions, so that neither can hide the other's mistake.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def _its_target(_: Row, target: str) -> Sequence[str]:
    return [target]


@dataclass(frozen=True, slots=True)
class Counterpart:
    """Where lm-evaluation-harness has a task, and how its rows come of the original files.

    Attributes:
        yaml: of a subject, below its folder of tasks; `{}` stands for the subject.
        rows: of a subject, given the folder that holds all data sets.
        shots: likewise, where its shots are not random ones.
        name: the subject as its files are called.
        subjects: those that it has such a task for; none given: all.
        golds: what written answers are held against, from a document and its target there.
        has_first_shots: its shots of written answers are the first, and no others.
    """

    yaml: str
    rows: Callable[[Path, str], list[Row]]
    shots: Callable[[Path, str], list[Row]] | None = None
    name: Callable[[str], str] = str
    subjects: tuple[str, ...] = ()
    golds: Callable[[Row, str], Sequence[str]] = _its_target
    has_first_shots: bool = False

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


def _bbh_label(_: Row, target: str) -> Sequence[str]:
    """The label of an answer: its own, or its place among a subject's words or numbers."""
    if target.startswith("("):
        return [target[1]]
    if target.isdigit():
        return ["ABCDEFGHIJKLMNOPQRS"[int(target)]]
    return ["A" if target in ("False", "Yes", "yes", "valid") else "B"]


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


def _mmlu_pro(folder: Path, subject: str, split: str = "test") -> list[Row]:
    return [row for row in read_json_lines(folder / f"mmlu_pro/{split}.jsonl") if row["category"] == subject]


def _gsm8k_number(_: Row, target: str) -> Sequence[str]:
    return [target.split("#### ")[1].replace(",", "")]


def _mgsm(folder: Path, language: str) -> list[Row]:
    lines = (folder / f"mgsm/mgsm_{language}.tsv").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    pairs = [line.split("\t") for line in lines]
    return [{"question": q, "answer": None, "answer_number": int(a.replace(",", ""))} for q, a in pairs]


def _bbh_examples(folder: Path, subject: str) -> list[Row]:
    found: list[Row] = json.loads((folder / f"bbh/bbh/{subject}.json").read_text(encoding="utf-8"))["examples"]
    return found


def _flores(folder: Path, subject: str, split: str = "devtest") -> list[Row]:
    codes = ("eng_Latn", subject)
    texts = [(folder / f"flores200/{split}/{code}.{split}").read_text(encoding="utf-8") for code in codes]
    pairs = zip(*[text.removesuffix("\n").split("\n") for text in texts], strict=True)
    return [{f"sentence_{code}": text for code, text in zip(codes, pair, strict=True)} for pair in pairs]


def _flores_shots(folder: Path, subject: str) -> list[Row]:
    return _flores(folder, subject, "dev")


def _squad(folder: Path, _: str) -> list[Row]:
    (path,) = (folder / "squad").glob("squad*.jsonl")
    return [{**row, "answers": {"text": row["answers"]}} for row in read_json_lines(path)]


def _program(row: Row, target: str) -> Sequence[str]:
    return [f"{row['prompt']}\n{target}"]  # with a completion of nothing


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
    "bbh written": Counterpart("bbh/zeroshot/{}.yaml", _bbh, golds=_bbh_label),
    "bbh cot": Counterpart("bbh/cot_zeroshot/{}.yaml", _bbh, golds=_bbh_label),
    "bbh_cot": Counterpart("bbh/cot_fewshot/{}.yaml", _bbh_examples),
    "flores_from_english": Counterpart(
        "spanish_bench/flores_es/flores_en-es.yaml", _flores, _flores_shots, subjects=("spa_Latn",)
    ),
    "flores_to_english": Counterpart(
        "spanish_bench/flores_es/flores_es-en.yaml", _flores, _flores_shots, subjects=("spa_Latn",)
    ),
    "gsm8k": Counterpart(
        "gsm8k/gsm8k.yaml", _json_lines("gsm8k/test.jsonl"), _json_lines("gsm8k/train.jsonl"), golds=_gsm8k_number
    ),
    "gsm8k cot_zeroshot": Counterpart(
        "gsm8k/gsm8k-cot-zeroshot.yaml", _json_lines("gsm8k/test.jsonl"), golds=_gsm8k_number
    ),
    "humaneval": Counterpart("humaneval/humaneval.yaml", _json_lines("humaneval/HumanEval.jsonl"), golds=_program),
    "mgsm": Counterpart("mgsm/native_cot/mgsm_native_cot_{}.yaml", _mgsm),
    "mgsm direct": Counterpart("mgsm/direct/mgsm_direct_{}.yaml", _mgsm),
    "mmlu written": Counterpart(
        "mmlu/generative/mmlu_{}.yaml", _mmlu, lambda folder, subject: _mmlu(folder, subject, "dev")
    ),
    "mmlu cot": Counterpart("mmlu/flan_cot_zeroshot/mmlu_{}.yaml", _mmlu, golds=lambda _, target: [target.strip("()")]),
    "mmlu_pro_cot": Counterpart(
        "mmlu_pro/mmlu_pro_{}.yaml",
        _mmlu_pro,
        lambda folder, subject: _mmlu_pro(folder, subject, "validation"),
        name=lambda subject: subject.replace(" ", "_"),
        has_first_shots=True,
    ),
    "squad": Counterpart("squadv2/squadv2.yaml", _squad, golds=lambda row, _: row["answers"]["text"]),
}

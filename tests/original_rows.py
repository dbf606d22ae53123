"""Made-up rows in the layouts of the suite's original files, with what a careless strip() could change."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

TRICKY = 'Why {{ x }} {% if %} \\n "a" isn\'t 大, ( ok ) ? '


def write_originals(folder: Path) -> None:
    """Write a few rows of every data set below `folder`."""
    _write_questions(folder)
    _write_scenes(folder)
    _write_superglue(folder)
    _write_truthfulqa(folder)
    _write_exams(folder)
    _write_bbh(folder)
    _write_languages(folder)
    _write_written(folder)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    _write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _allen(number: int, stem: str, texts: list[str], right: int, labels: str = "ABCDE") -> dict[str, Any]:
    choices = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=False)]
    return {"id": f"q{number}", "question": {"stem": stem, "choices": choices}, "answerKey": labels[right]}


def _write_questions(folder: Path) -> None:
    rows = [
        _allen(1, "Which bird hums?", ["the gull", "a hummingbird ", "kiwi", 'none, "really"'], 1),
        _allen(2, TRICKY, ["1", "2", " 3", "{{ 4 }}"], 3, "1234"),
        _allen(3, "  Blank at both ends ", ["α", "β", "γ", "δ"], 0),
    ]
    for name in ("ARC-Easy", "ARC-Challenge"):
        _write_rows(folder / f"arc/{name}/{name}-Test.jsonl", [*rows, _allen(4, "Three?", ["a", "b", "c"], 2)])
    _write_rows(folder / "openbookqa/Main/test.jsonl", rows)
    five = [_allen(number, f"{TRICKY}{number}", ["p", "q", "r ", "s", "t"], number) for number in range(5)]
    _write_rows(folder / "commonsenseqa/dev_rand_split.jsonl", five)
    for split in ("test", "dev"):
        path = folder / f"mmlu/{split}/anatomy_{split}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([f" {split} {n}? ", "a", "b ", 'c "d"', "e", "ABCD"[n % 4]] for n in range(6))


def _write_scenes(folder: Path) -> None:
    scene = {"activity_label": "Baking", "ctx_a": " A cook stirs [substeps] dough.", "ctx_b": "then she ADDS", "ind": 1}
    rows = [
        {**scene, "endings": [" [title] salt  and all.", "[step] sugar", "nothing", "  water."], "label": 2},
        {**scene, "ctx_b": "", "endings": ["one", "two [a] b [title] c", "three", "four"], "label": 0},
    ]
    _write_rows(folder / "hellaswag/hellaswag_val.jsonl", rows)
    ways = [{"goal": "Open a jar", "sol1": "Twist. ", "sol2": TRICKY}, {"goal": "\u2028", "sol1": "a", "sol2": "b"}]
    _write_rows(folder / "piqa/valid.jsonl", ways)
    _write(folder / "piqa/valid-labels.lst", "1\n0\n")
    sentence = {"option1": "cat", "option2": "the dog", "answer": "2"}
    rows = [{**sentence, "sentence": "The mouse fled the _  at once_ again."}, {**sentence, "sentence": "_ slept."}]
    _write_rows(folder / "winogrande/dev.jsonl", [*rows, {**sentence, "sentence": "So said _.", "answer": "1"}])
    texts = ["she looked up at  the moon", 'one\ntwo three.\n\n"four five"', "a 大 b"]
    _write_rows(folder / "lambada/lambada_test.jsonl", [{"text": text} for text in texts])


def _write_superglue(folder: Path) -> None:
    rows = [{"passage": f" {TRICKY}", "question": "is it", "label": right, "idx": 0} for right in (True, False)]
    _write_rows(folder / "superglue/BoolQ/val.jsonl", rows)
    copa = {"premise": " The lamp went out. ", "choice1": "Éva slept.", "choice2": "it rained", "idx": 0}
    rows = [{**copa, "question": "cause", "label": 0}, {**copa, "question": "effect", "label": 1}]
    _write_rows(folder / "superglue/COPA/val.jsonl", rows)
    text = "Anna ( the cook ) said \" I do n't know it 's hers \" . Then she left , and Bert followed ."
    words = text.split()
    rows = []
    for noun, pronoun, right in (("Anna", "she", True), ("anna", "She", False), ("Bert.", "she", True)):
        indices = {"span1_index": words.index(noun.rstrip(".").capitalize()), "span2_index": words.index("she")}
        spans = {"span1_text": noun, "span2_text": pronoun}
        rows.append({"text": text, "target": indices | spans, "label": right, "idx": 0})
    _write_rows(folder / "superglue/WSC/val.jsonl", rows)


def _write_truthfulqa(folder: Path) -> None:
    first = {"Nothing does.": 1, "Magic. ": 0}
    rows = [
        {"question": TRICKY, "mc1_targets": first, "mc2_targets": {**first, "Nobody knows.": 1, "Elves": 0}},
        {"question": " Who? ", "mc1_targets": {"I": 1, "You": 0, "He": 0}, "mc2_targets": {"I": 1, "You": 0}},
    ]
    _write(folder / "truthfulqa/data/mc_task.json", json.dumps(rows))


def _write_exams(folder: Path) -> None:
    four = ["(A)one", "(B) two ", "(C)三", "(D)4"]
    rows = {
        "sat-math": [{"passage": "", "question": TRICKY, "options": four, "label": "C"}],
        "aqua-rat": [{"passage": None, "question": "x?", "options": [*four, "(E)none"], "label": "E"}],
        "gaokao-english": [{"passage": "Once. ", "question": "What? ", "options": four, "label": "A"}],
        "gaokao-chinese": [{"passage": "很久以前。", "question": "什么", "options": four, "label": "B"}],
        "gaokao-physics": [{"passage": None, "question": "哪些", "options": four, "label": ["A", "D"]}],
        "gaokao-mathqa": [{"passage": None, "question": "哪些", "options": four, "label": "B C D"}],
        "gaokao-mathcloze": [{"passage": None, "question": "几", "options": None, "label": None, "answer": "2"}],
    }
    for subject, own in rows.items():
        _write_rows(folder / f"agieval/v1/{subject}.jsonl", own * 2)
    options = [f"option {n} " for n in range(10)]
    rows_pro = [
        {"question_id": 7, "question": TRICKY, "options": options, "answer": "J", "category": "law"},
        {"question_id": 8, "question": " y?\n", "options": options[:3], "answer": "B", "category": "computer science"},
    ]
    _write_rows(folder / "mmlu_pro/test.jsonl", [{**row, "cot_content": ""} for row in rows_pro])
    thought = "A: Let's think step by step. So the answer is (B)."
    shots = [{**rows_pro[n % 2], "question_id": n, "question": f"shot {n}", "cot_content": thought} for n in range(11)]
    _write_rows(folder / "mmlu_pro/validation.jsonl", shots)


def _write_bbh(folder: Path) -> None:
    """The shots of a subject are lm-evaluation-harness's own, from its file: the paper's."""
    import lm_eval.tasks
    import yaml

    for subject in ("navigate", "object_counting", "snarks", "hyperbaton", "word_sorting"):
        own = Path(lm_eval.tasks.__file__).parent / "bbh/cot_fewshot" / f"{subject}.yaml"
        theirs = yaml.safe_load(own.read_text(encoding="utf-8"))
        reasoned = "\nA: Let's think step by step.\n"
        shots = [one["input"] + reasoned + one["target"] for one in theirs["fewshot_config"]["samples"]]
        head = "No training on this.\n-----\n" + theirs["description"].rstrip()
        _write(folder / f"bbh/cot-prompts/{subject}.txt", "\n\nQ: ".join([head, *shots]) + "\n")
        path = Path(lm_eval.tasks.__file__).parent / f"leaderboard/bbh_mc/{subject}.yaml"
        has_options = path.exists()
        choices = yaml.safe_load(path.read_text(encoding="utf-8"))["doc_to_choice"] if has_options else ["a b", "b"]
        examples = [{"input": f"{TRICKY}{n}\nOptions:", "target": choices[-n]} for n in (1, 2)]
        _write(folder / f"bbh/bbh/{subject}.json", json.dumps({"canary": "c", "examples": examples}))


def _write_written(folder: Path) -> None:
    """Questions that are answered in writing."""
    sums = [{"question": f" What is {n} and 999? ", "answer": f"It is {n + 999}.\n#### {n + 999:,}"} for n in range(9)]
    _write_rows(folder / "gsm8k/test.jsonl", sums[:3])
    _write_rows(folder / "gsm8k/train.jsonl", sums[3:])
    for language in ("bn", "de", "en", "es", "fr", "ja", "ru", "sw", "te", "th", "zh"):
        _write(folder / f"mgsm/mgsm_{language}.tsv", 'Eins "und" 1?\t1,002\nZwei?\t3\n')
    for split in ("dev", "devtest"):
        for code in ("eng_Latn", "deu_Latn", "spa_Latn", "xxx_Latn"):
            _write(folder / f"flores200/{split}/{code}.{split}", "".join(f"{code} {split} {n}.\n" for n in range(7)))
    squad = {"title": "A_B", "context": f"C {TRICKY}", "question": "E?", "answers": ["C", "the d"]}
    _write_rows(folder / "squad/squad.jsonl", [{**squad, "id": "1"}, {**squad, "id": "2", "answers": ["C"]}])
    summed = {"paper_id": "p", "source": ["One. ", "Two.\n"], "target": ["Both.", "1, 2."]}
    _write_rows(folder / "scitldr/SciTLDR-A/test.jsonl", [summed])
    program = {
        "prompt": 'def f(x):\n    """Add {{ 1 }}."""\n',
        "entry_point": "f",
        "canonical_solution": "    return 1\n",
    }
    tests = "def check(candidate):\n    assert candidate(1) == 1\n"
    rows = [{**program, "task_id": f"own/{number}", "test": tests} for number in range(2)]
    _write_rows(folder / "humaneval/HumanEval.jsonl", rows)


def _write_languages(folder: Path) -> None:
    copa = {"premise": "Işık söndü. ", "choice1": "İkisi de uyudu.", "choice2": "Yağmur"}
    rows = [{**copa, "question": "cause", "label": 0, "idx": 0}, {**copa, "question": "effect", "label": 1, "idx": 1}]
    for language in ("et", "ht", "id", "it", "qu", "sw", "ta", "th", "tr", "vi", "zh"):
        _write_rows(folder / f"xcopa/data/{language}/test.{language}.jsonl", rows)
    answers = [{"text": text, "correct": text == "c "} for text in ("a", "b", "c ", "d")]
    _write_rows(
        folder / "belebele/deu_Latn.jsonl", [{"text": TRICKY, "items": [{"question": "W? ", "answers": answers}] * 2}]
    )
    flat = {"flores_passage": TRICKY, "question": " Q", "correct_answer_num": "4", "dialect": "eng_Latn"}
    flat |= {f"mc_answer{number}": f"answer {number}" for number in range(1, 5)}
    _write_rows(folder / "belebele/eng_Latn.jsonl", [flat, {**flat, "correct_answer_num": "1"}])

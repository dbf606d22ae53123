"""Tasks that are answered in writing: prompts are lm-evaluation-harness 0.4.13's, from its own tasks, same rows."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from counterparts import lm_eval_task

from bench.config import TaskSpec
from bench.errors import PlanError
from bench.metrics import summarise
from bench.records import Completion, PromptedSample
from bench.tasks.dataset import load_rows
from bench.tasks.prepare import prepare_task_job
from bench.tasks.prompts import build_prompts
from bench.tasks.task import load_task
from bench.writing.answers import score_completion
from bench.writing.execution import execute

Row = dict[str, Any]
LANGUAGES = {"deu_Latn": ("de", "German"), "spa_Latn": ("es", "Spanish")}
NUM_COMPARED = 20  # of each subject of the real data


def build(name: str, scoring: str, num_fewshot: int) -> list[PromptedSample]:
    use = TaskSpec.model_validate({"task": name, "scoring": scoring, "num_fewshot": num_fewshot})
    task = load_task(name)
    return build_prompts(task, scoring, load_rows(task, use), num_fewshot)


def json_lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def lines(path: Path) -> list[str]:
    return path.read_text().removesuffix("\n").split("\n")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_rows(path: Path, rows: list[Row]) -> None:
    write(path, "".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up rows in the layouts of the original files."""
    folder = tmp_path_factory.mktemp("data")
    sums = [{"question": f" What is {n} and 1? ", "answer": f"It is {n + 1}.\n#### {n + 1}"} for n in range(9)]
    write_rows(folder / "gsm8k/test.jsonl", sums[:3])
    write_rows(folder / "gsm8k/train.jsonl", sums[3:])
    for language in ("bn", "de", "en", "es", "fr", "ja", "ru", "sw", "te", "th", "zh"):
        write(folder / f"mgsm/mgsm_{language}.tsv", 'Eins "und" 1?\t1,002\nZwei?\t3\n')
    examples = [{"input": "not True is", "target": "False"}, {"input": "a\nb", "target": "(A)"}]
    write(folder / "bbh/bbh/navigate.json", json.dumps({"canary": "x", "examples": examples}))
    shot = "Q: Left{}?\nA: Let's think step by step.\nTwo\nlines. So the answer is Yes."
    shots = "\n\n".join(shot.format(number) for number in range(3))
    write(folder / "bbh/cot-prompts/navigate.txt", f"CANARY\n-----\nGo somewhere.\n\n{shots}")
    for split in ("dev", "devtest"):
        for code in ("eng_Latn", *LANGUAGES, "xxx_Latn"):
            write(folder / f"flores200/{split}/{code}.{split}", "".join(f"{code} {split} {n}.\n" for n in range(7)))
    squad = {"id": "1", "title": "A_B", "context": "C d.", "question": "E?", "answers": ["C", "d"]}
    write_rows(folder / "squad/squad.jsonl", [squad])
    summed = {"paper_id": "p", "source": ["One. ", "Two.\n"], "target": ["Both.", "1, 2."]}
    write_rows(folder / "scitldr/SciTLDR-A/test.jsonl", [summed])
    return folder


@pytest.fixture(params=["made up", "real"])
def data(request: pytest.FixtureRequest, originals: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of all data sets: made-up ones, and the real ones where they are."""
    if request.param == "made up":
        monkeypatch.setenv("STEELYARD_DATA", str(originals))
        return originals
    if not (folder := os.environ.get("STEELYARD_DATA")):
        pytest.skip("needs the original files: set STEELYARD_DATA to the folder that holds them")
    return Path(folder)


def compare(
    ours: list[PromptedSample], yaml: Callable[[str], str], rows: Callable[[str], list[Row]], shots: Any, num: int
) -> Iterator[str]:
    """Hold the first prompts of each subject against lm-evaluation-harness's with the first shots."""
    for subject, own in groupby(ours, lambda one: one.sample.subject):
        task = lm_eval_task(yaml(subject), rows(subject)[:NUM_COMPARED], None)
        if shots is not None:
            task.sampler.sample = lambda n, subject=subject, **_: shots(subject)[:n]
        prompted = list(own)[:NUM_COMPARED]
        for document, item in zip(task.eval_docs, prompted, strict=True):
            assert item.prompt.text == task.fewshot_context(document, num)
            assert item.requests[0].continuation == ""
        yield subject


@pytest.mark.parametrize(("scoring", "yaml", "num"), [("cot", "gsm8k", 5), ("cot_zeroshot", "gsm8k-cot-zeroshot", 0)])
def test_gsm8k(data: Path, scoring: str, yaml: str, num: int) -> None:
    train = data / "gsm8k/train.jsonl"
    ours = build("gsm8k", scoring, num)
    found = compare(
        ours,
        lambda _: f"gsm8k/{yaml}.yaml",
        lambda _: json_lines(data / "gsm8k/test.jsonl"),
        lambda _: json_lines(train),
        num,
    )
    assert list(found) == [""]
    assert load_task("gsm8k").num_fewshot_of(scoring) == num
    for item, row in zip(ours, json_lines(data / "gsm8k/test.jsonl"), strict=True):
        assert item.sample.references == (row["answer"].split("####")[1].strip(),)


@pytest.mark.parametrize(
    ("scoring", "folder"), [("cot", "native_cot/mgsm_native_cot"), ("direct", "direct/mgsm_direct")]
)
def test_mgsm(data: Path, scoring: str, folder: str) -> None:
    def rows(language: str) -> list[Row]:
        pairs = [line.split("\t") for line in lines(data / f"mgsm/mgsm_{language}.tsv")]
        return [{"question": q, "answer": None, "answer_number": int(a.replace(",", ""))} for q, a in pairs]

    ours = build("mgsm", scoring, 0)
    found = list(compare(ours, lambda language: f"mgsm/{folder}_{language}.yaml", rows, None, 0))
    assert len(found) == 11
    for language, own in groupby(ours, lambda one: one.sample.subject):
        assert [one.sample.references for one in own] == [(str(row["answer_number"]),) for row in rows(language)]


def test_bbh(data: Path) -> None:
    def rows(subject: str) -> list[Row]:
        examples: list[Row] = json.loads((data / f"bbh/bbh/{subject}.json").read_text())["examples"]
        return examples

    ours = build("bbh_cot", "cot", 3)
    task_file = "bbh/cot_fewshot/{}.yaml".format
    if len(ours) > 2:
        assert len(list(compare(ours, task_file, rows, None, 3))) == 27
        assert len(ours) == 6511
        return
    shot = "Q: Left{}?\nA: Let's think step by step.\nTwo\nlines. So the answer is Yes.\n\n"
    shots = "".join(shot.format(number) for number in range(3))
    assert ours[0].prompt.text == f"Go somewhere.\n\n{shots}Q: not True is\nA: Let's think step by step.\n"
    assert ours[1].sample.references == ("(A)",)


@pytest.mark.parametrize("way", ["from_english", "to_english"])
def test_flores(data: Path, way: str) -> None:
    def rows(subject: str, split: str = "devtest") -> list[Row]:
        codes = ["eng_Latn", subject]
        texts = [lines(data / f"flores200/{split}/{code}.{split}") for code in codes]
        return [
            {f"sentence_{code}": text for code, text in zip(codes, row, strict=True)}
            for row in zip(*texts, strict=True)
        ]

    def yaml(subject: str) -> str:
        pair = f"en-{LANGUAGES[subject][0]}" if way == "from_english" else f"{LANGUAGES[subject][0]}-en"
        return f"spanish_bench/flores_es/flores_{pair}.yaml"

    ours = [one for one in build(f"flores_{way}", "translate", 2) if one.sample.subject == "spa_Latn"]
    found = list(compare(ours, yaml, rows, lambda subject: rows(subject, "dev"), 2))
    assert found == ["spa_Latn"]
    language = "spa_Latn" if way == "from_english" else "eng_Latn"
    assert [one.sample.references[0] for one in ours] == [row[f"sentence_{language}"] for row in rows("spa_Latn")]


def test_flores_takes_the_languages_it_knows(originals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEELYARD_DATA", str(originals))
    ours = build("flores_from_english", "translate", 0)
    assert {one.sample.subject for one in ours} == set(LANGUAGES)  # no English into English, nothing unknown
    assert ours[0].prompt.text == "English sentence: eng_Latn devtest 0.\nGerman sentence:"


def test_squad(data: Path) -> None:
    from lm_eval.tasks.squadv2.task import SQuAD2

    ours = build("squad", "extractive", 0)
    (path,) = (data / "squad").glob("*.jsonl")
    for item, row in zip(ours, json_lines(path), strict=True):
        assert item.prompt.text == SQuAD2.doc_to_text(None, row)
        assert item.sample.references == tuple(row["answers"])


def test_scitldr(originals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEELYARD_DATA", str(originals))
    (item,) = build("scitldr", "summary", 0)
    assert item.prompt.text == "Abstract: One. Two.\nSummary in one sentence:"
    assert item.sample.references == ("Both.", "1, 2.")


@pytest.mark.parametrize(
    ("scoring", "yaml"),
    [("written", "generative/mmlu_anatomy.yaml"), ("cot", "flan_cot_zeroshot/mmlu_anatomy.yaml")],
)
def test_mmlu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scoring: str, yaml: str) -> None:
    monkeypatch.setenv("MMLU_DIR", str(tmp_path))
    write(tmp_path / "test/anatomy_test.csv", '" Which, bone? ",a ,b,c,d,C\nTwo?,1,2,3,4,A\n')
    write(tmp_path / "dev/anatomy_dev.csv", "Shot?,w,x,y,z,B\n")
    rows = [
        {"question": " Which, bone? ", "choices": ["a ", "b", "c", "d"], "answer": 2, "subject": "anatomy"},
        {"question": "Two?", "choices": ["1", "2", "3", "4"], "answer": 0, "subject": "anatomy"},
    ]
    shot = {"question": "Shot?", "choices": ["w", "x", "y", "z"], "answer": 1, "subject": "anatomy"}
    for num in (0, 1) if scoring == "written" else (0,):
        found = compare(build("mmlu", scoring, num), lambda _: f"mmlu/{yaml}", lambda _: rows, lambda _: [shot], num)
        assert list(found) == ["anatomy"]
    assert load_task("mmlu").num_fewshot_of(scoring) == 0


def humaneval_row(number: int, body: str) -> Row:
    prompt = f'def f{number}(x):\n    """Add {number}."""\n'
    test = f"def check(candidate):\n    assert candidate(1) == {number + 1}\n"
    return {"task_id": f"own/{number}", "prompt": prompt, "entry_point": f"f{number}", "test": test, "right": body}


def test_humaneval_runs_programs_only_where_the_plan_allows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUMANEVAL_DIR", str(tmp_path))
    write_rows(tmp_path / "HumanEval.jsonl", [humaneval_row(number, "") for number in range(4)])
    with pytest.raises(PlanError, match="runs what the model writes, as you and without a sandbox"):
        prepare_task_job(TaskSpec.model_validate({"task": "humaneval"}))
    job = prepare_task_job(TaskSpec.model_validate({"task": "humaneval", "allow_code_execution": True}))
    assert job.samples[1].prompt.text == humaneval_row(1, "")["prompt"]
    completions = [
        "    return x + 0\n",
        "Here:\n```python\ndef f1(x):\n    return x + 1\n```\nIt adds.",
        "    return x\n",
        "    while True:\n        pass\n",
    ]
    monkeypatch.setattr("bench.writing.answers.execute", lambda program: execute(program, time_s=1))
    scores = [
        score_completion(sample, Completion(text), job.form)
        for sample, text in zip(job.samples, completions, strict=True)
    ]
    assert [score.values["pass_at_1"] for score in scores] == [1.0, 1.0, 0.0, 0.0]
    assert summarise(scores, metrics=job.form.metrics)["metrics"]["pass_at_1"]["value"] == 0.5
    assert score_completion(job.samples[0], Completion("", "length"), job.form).values == {"pass_at_1": 0.0}


def test_humanevals_own_solutions_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.environ.get("STEELYARD_DATA"):
        pytest.skip("needs the original files: set STEELYARD_DATA to the folder that holds them")
    monkeypatch.delenv("HUMANEVAL_DIR", raising=False)
    job = prepare_task_job(TaskSpec.model_validate({"task": "humaneval", "allow_code_execution": True}))
    assert len(job.samples) == 164
    for sample in job.samples[::20]:
        completion = Completion(sample.sample.variables["canonical_solution"])
        assert score_completion(sample, completion, job.form).values == {"pass_at_1": 1.0}

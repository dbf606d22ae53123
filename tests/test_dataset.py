from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from bench.config import TaskSpec
from bench.errors import DataError, DataMissingError, PlanError, TaskError
from bench.tasks.dataset import Dataset, count_samples, load_rows
from bench.tasks.rows import expand_folder, find_files, read_rows
from bench.tasks.task import load_task

TASK = """\
version: 1
title: Own
sources:
- test: {file: own.csv, where: {split: test}}
  shots: {file: own.csv, where: {split: shots}}
  columns:
    id: key
    subject: topic
    question: text
    choices: [a, b]
    gold: {column: answer, as: letter}
num_choices: 2
num_fewshot: 1
scoring: letter
forms:
  letter: {question: "{{ question }}", continuations: labels}
"""
ROWS = """\
key,split,topic,text,a,b,answer
k1,test,sea,Is water wet?,yes,no,A
k2,test,sky,"Is the sky
 green?",yes,no,B
k3,test,sea," Is salt sweet? ",yes,no,B
s1,shots,sea,Is sand dry?,yes,no,A
s2,shots,sky,Do stones fly?,yes,no,B
"""
MMLU_ROWS = '"What, in ""short""?\nLine two", 1,2,3,4,C\nSecond?,a,b,c,d,A\n'

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def _write(text: str | bytes, name: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return _write


def load(write: Write, task: str = TASK, rows: str = ROWS, **use: object) -> Dataset:
    path = write(task, "own.yaml")
    write(rows, "own.csv")
    return load_rows(load_task(str(path)), TaskSpec.model_validate({"task": str(path), **use}))


def mistake(write: Write, task: str = TASK, rows: str = ROWS, error: type[Exception] = DataError, **use: object) -> str:
    with pytest.raises(error) as caught:
        load(write, task, rows, **use)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def use_of(name: str, **keys: object) -> TaskSpec:
    return TaskSpec.model_validate({"task": name, **keys})


# --- samples and shots


def test_rows_become_samples_with_nothing_stripped(write: Write) -> None:
    data = load(write)
    assert [sample.id for sample in data.samples] == ["k1", "k2", "k3"]
    assert data.samples[1].variables["question"] == "Is the sky\n green?"
    assert data.samples[2].variables["question"] == " Is salt sweet? "
    assert [(sample.subject, sample.choices, sample.gold) for sample in data.samples] == [
        ("sea", ("yes", "no"), 0),
        ("sky", ("yes", "no"), 1),
        ("sea", ("yes", "no"), 1),
    ]
    assert data.samples[0].variables["labels"] == ("A", "B")
    assert data.samples[0].variables["split"] == "test"
    assert {subject: [shot.id for shot in pool] for subject, pool in data.shots.items()} == {
        "sea": ["s1"],
        "sky": ["s2"],
    }
    assert not data.is_partial


def test_templates_are_not_given_the_gold(write: Write) -> None:
    assert not {"answer", "gold"} & set(load(write).samples[0].variables)


def test_subjects_keep_the_tasks_order_and_limit_takes_the_first_of_them(write: Write) -> None:
    data = load(write, subjects=["sky", "sea"], limit=2)
    assert [sample.id for sample in data.samples] == ["k1", "k2"]
    assert (data.num_available, data.is_partial) == (3, True)
    only = load(write, subjects=["sea"], limit=2)
    assert ([sample.id for sample in only.samples], only.is_partial) == (["k1", "k3"], False)
    assert list(only.shots) == ["sea"]


def test_an_unknown_subject_names_the_nearest(write: Write) -> None:
    text = mistake(write, error=PlanError, subjects=["sea", "skey"])
    assert "task own: unknown subject 'skey'; did you mean 'sky'?" in text


def test_without_an_id_column_samples_are_numbered_in_their_subject(write: Write) -> None:
    data = load(write, TASK.replace("    id: key\n", ""))
    assert [sample.id for sample in data.samples] == ["sea/0", "sky/0", "sea/1"]
    assert data.shots["sea"][0].id == "shots/sea/0"
    bare = TASK.replace("    id: key\n", "").replace("    subject: topic\n", "")
    assert [sample.id for sample in load(write, bare).samples] == ["0", "1", "2"]


def test_one_set_of_shots_can_serve_all_subjects(write: Write) -> None:
    data = load(write, TASK.replace("num_fewshot: 1", "num_fewshot: 1\nshots_per: task"))
    assert [shot.id for shot in data.shots["sky"]] == ["s1", "s2"]
    assert data.shots["sky"] is data.shots["sea"]


def test_a_sample_that_is_a_shot_too_is_the_same_object(write: Write) -> None:
    data = load(write, TASK.replace("where: {split: shots}", "where: {split: test}"))
    assert data.shots["sea"] == (data.samples[0], data.samples[2])
    assert data.shots["sea"][0] is data.samples[0]


def test_shots_are_not_read_when_none_are_asked_for(write: Write) -> None:
    absent = TASK.replace("shots: {file: own.csv", "shots: {file: absent.csv")
    assert load(write, absent, num_fewshot=0).shots == {"sea": (), "sky": ()}
    assert "no files absent.csv" in mistake(write, absent, error=DataMissingError)


def test_equal_ids_are_refused(write: Write) -> None:
    assert "the id 'k1' is given to 2 samples" in mistake(write, rows=ROWS.replace("k3,", "k1,"))


# --- checksum


def test_the_checksum_changes_with_each_thing_that_matters_and_with_nothing_else(write: Write) -> None:
    first = load(write).checksum
    changes = {
        "id": ROWS.replace("k3", "k4"),
        "question": ROWS.replace("Is water wet?", "Is water wet??"),
        "blank": ROWS.replace(" Is salt", "Is salt"),
        "choice": ROWS.replace("wet?,yes", "wet?,yep"),
        "gold": ROWS.replace("wet?,yes,no,A", "wet?,yes,no,B"),
        "subject": ROWS.replace("k3,test,sea", "k3,test,sky"),
        "shot": ROWS.replace("Is sand dry?", "Is sand wet?"),
        "order": ROWS.replace("k1,", "K,").replace("k3,", "k1,").replace("K,", "k3,"),
    }
    seen = {name: load(write, rows=rows).checksum for name, rows in changes.items()}
    assert len({first, *seen.values()}) == len(changes) + 1
    assert len({first, load(write, limit=2).checksum, load(write, num_fewshot=0).checksum}) == 3
    assert (
        load(write, rows=ROWS.replace("key,", "key,").replace("\n", "\r\n").replace("sky\r\n", "sky\n")).checksum
        == first
    )
    assert len(first) == len(hashlib.sha256().hexdigest())


# --- mistakes in rows


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("wet?,yes,no,A", "wet?,yes,no,C", "own.csv: row 1: column 'answer': 'C' is not one letter out of A, B"),
        ("wet?,yes,no,A", "wet?,yes,no,a", "'a' is not one letter out of A, B"),
        ("wet?,yes,no,A", "wet?,yes,no,", "'' is not one letter"),
        ("wet?,yes,no,A", "wet?,,no,A", "own.csv: row 1: column 'a': is empty"),
        ("Is water wet?", "  ", "own.csv: row 1: column 'text': is empty"),
        ("k1,test,sea", "k1,test,", "own.csv: row 1: column 'topic': is empty"),
        ("wet?,yes,no,A", "wet?,yes,A", "own.csv: row 1: has 6 cells, the header 7"),
        ('sweet? "', 'sweet? "x', "own.csv: line 5: cannot be read: ',' expected after"),
        ("text,a", "tekst,a", "own.csv: row 1: no column 'text'; did you mean 'tekst'?"),
        ("key,split,", "key,splitt,", "own.csv: `where` needs a column 'split'; did you mean 'splitt'?"),
        ("key,split,topic", "key,split,split", "own.csv: the header names a column twice"),
        (",test,", ",prod,", "own.csv: no rows where split=test"),
    ],
)
def test_a_mistake_in_rows_names_file_row_and_column(write: Write, old: str, new: str, message: str) -> None:
    assert old in ROWS
    assert message in mistake(write, rows=ROWS.replace(old, new))


def test_the_row_number_is_that_of_the_file_not_of_the_selection(write: Write) -> None:
    assert "own.csv: row 4: column 'answer'" in mistake(write, rows=ROWS.replace("dry?,yes,no,A", "dry?,yes,no,X"))


def test_a_template_variable_that_no_column_has_is_found_before_a_prompt_is_made(write: Write) -> None:
    text = mistake(write, TASK.replace("{{ question }}", "{{ tekst }}"), error=TaskError)
    assert "own.yaml: forms.letter.question: unknown variable 'tekst'; did you mean 'text'?" in text


@pytest.mark.parametrize(
    ("kind", "golds", "expected"),
    [
        ("letter", ["A", "B"], [0, 1]),
        ("index", [0, "1"], [0, 1]),
        ("number", [1, "2"], [0, 1]),
        ("text", ["yes", "no"], [0, 1]),
    ],
)
def test_gold_is_read_as_the_task_says(write: Write, kind: str, golds: list[object], expected: list[int]) -> None:
    rows = [{"text": f"q{number}", "options": ["yes", "no"], "gold": gold} for number, gold in enumerate(golds)]
    assert [sample.gold for sample in load_rows(*jsonl_task(write, rows, kind)).samples] == expected


@pytest.mark.parametrize(
    ("kind", "gold"),
    [("index", 2), ("index", -1), ("index", True), ("index", 0.0), ("index", "A"), ("number", 0), ("number", None)],
)
def test_gold_out_of_range_or_of_another_kind_is_an_error(write: Write, kind: str, gold: object) -> None:
    with pytest.raises(DataError, match=rf"row 1: column 'gold': .* is not one {kind} out of"):
        load_rows(*jsonl_task(write, [{"text": "q", "options": ["yes", "no"], "gold": gold}], kind))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"options": ["yes"]}, "column 'options': 1 choices; the task wants 2"),
        ({"options": "yes no"}, "column 'options': must be a list of choices"),
        ({"options": ["yes", None]}, r"column 'options\[1\]': must be text, not None"),
        ({"options": ["yes", " "]}, r"column 'options\[1\]': is empty"),
        ({"text": None}, "column 'text': must be text, not None"),
        ({"text": True}, "column 'text': must be text, not True"),
    ],
)
def test_a_wrong_value_in_json_is_an_error(write: Write, row: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=f"own.jsonl: row 1: {message}"):
        load_rows(*jsonl_task(write, [{"text": "q", "options": ["yes", "no"], "gold": 0, **row}], "index"))


def test_a_text_gold_that_two_choices_share_is_an_error(write: Write) -> None:
    with pytest.raises(DataError, match="'yes' is not one text out of yes, yes"):
        load_rows(*jsonl_task(write, [{"text": "q", "options": ["yes", "yes"], "gold": "yes"}], "text"))


def jsonl_task(write: Write, rows: list[dict[str, object]], kind: str):
    text = TASK[: TASK.index("- test")] + (
        f"- test: own.jsonl\n  columns: {{question: text, choices: options, gold: {{column: gold, as: {kind}}}}}\n"
    )
    text += TASK[TASK.index("num_choices") :].replace("num_fewshot: 1", "num_fewshot: 0")
    path = write(text, "own.yaml")
    write("".join(json.dumps(row) + "\n" for row in rows), "own.jsonl")
    return load_task(str(path)), use_of(str(path))


# --- formats


def test_all_formats_hold_the_same_rows(write: Write) -> None:
    from pyarrow import Table
    from pyarrow.parquet import write_table

    rows = [{"q": " a\n", "n": "1"}, {"q": "ü", "n": "2"}]
    csv_text, json_text = 'q,n\n" a\n",1\nü,2\n', "".join(json.dumps(row) + "\n\n" for row in rows)
    files = [
        write(csv_text, "x.csv"),
        write(b"\xef\xbb\xbf" + csv_text.encode(), "bom.csv"),
        write(csv_text.replace(",", "\t"), "x.tsv"),
        write(gzip.compress(csv_text.encode()), "x.csv.gz"),
        write(json_text, "x.jsonl"),
        write(gzip.compress(json_text.encode()), "x.jsonl.gz"),
    ]
    parquet = files[0].with_suffix(".parquet")
    write_table(Table.from_pylist(rows), parquet)
    for path in [*files, parquet]:
        assert read_rows(path) == rows, path.name
    assert read_rows(write("x,y\n", "bare.csv"), header=["q", "n"]) == [{"q": "x", "n": "y"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.xml", "a", "unknown format '.xml'"),
        ("x.jsno", "[]", "unknown format '.jsno'; did you mean '.json'"),
        ("x.json", '{"a": ', "not valid JSON"),
        ("x.json", '[{"a": 1}, 2]', "row 2: must be a JSON object"),
        ("x.txt", b"\xff\xff", "cannot be read"),
        ("x.jsonl", '{"a": 1}\n{"a": \n', "row 2: not valid JSON"),
        ("x.jsonl", "[1]\n", "row 1: must be a JSON object"),
        ("x.csv", b"\xff\xff", "cannot be read"),
        ("x.csv.gz", b"not gzip", "cannot be read"),
        ("x.csv.gz", gzip.compress(b"a,b\n" * 99, mtime=0)[:-9], "cannot be read"),
        ("x.parquet", "no", "cannot be read"),
    ],
)
def test_an_unreadable_file_is_an_error_with_its_name(write: Write, name: str, content: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"{name}: {message}"):
        read_rows(write(content, name))


def test_a_header_for_a_format_that_has_names_is_an_error(write: Write) -> None:
    with pytest.raises(DataError, match="`header` is for CSV and TSV"):
        read_rows(write("{}", "x.jsonl"), header=["a"])


def test_files_are_found_by_subject_and_in_its_order(write: Write, tmp_path: Path) -> None:
    for name in ("test/b_test.csv", "test/a_b_test.csv", "test/a_test.csv", "test/a_dev.csv", "test/deep/c_test.csv"):
        write("x", name)
    found = find_files(tmp_path, "test/{subject}_test.csv")
    assert [file.subject for file in found] == ["a", "a_b", "b"]
    assert [file.path.name for file in find_files(tmp_path, "test/a_?es*.csv")] == ["a_test.csv"]
    write("x", "z.csv.gz")
    assert [file.path.name for file in find_files(tmp_path, "z.csv")] == ["z.csv.gz"]
    write("x", "z.csv")
    assert [file.path.name for file in find_files(tmp_path, "z.csv")] == ["z.csv"]


# --- where rows come from


@pytest.fixture
def mmlu_folder(write: Write, tmp_path: Path) -> Path:
    for subject in ("sea", "sky"):
        write(MMLU_ROWS, f"mmlu/test/{subject}_test.csv")
        write(f"Shot?,a,b,c,d,D\n{MMLU_ROWS}" * 2, f"mmlu/dev/{subject}_dev.csv")
    return tmp_path / "mmlu"


def test_the_original_mmlu_layout_is_read_as_it_is(mmlu_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMLU_DIR", str(mmlu_folder))
    data = load_rows(load_task("mmlu"), use_of("mmlu"))
    assert [sample.id for sample in data.samples] == ["sea/0", "sea/1", "sky/0", "sky/1"]
    assert data.samples[0].variables["question"] == 'What, in "short"?\nLine two'
    assert data.samples[0].choices == (" 1", "2", "3", "4")
    assert [sample.gold for sample in data.samples] == [2, 0, 2, 0]
    assert [shot.variables["question"] for shot in data.shots["sky"]][::3] == ["Shot?", "Shot?"]
    assert (data.origin, data.revision) == (f"folder {mmlu_folder}", None)
    assert count_samples(load_task("mmlu")) == 4


def test_the_plans_data_dir_goes_before_the_tasks_sources(mmlu_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMLU_DIR", "/nowhere")
    monkeypatch.setenv("DATA", str(mmlu_folder.parent))
    assert len(load_rows(load_task("mmlu"), use_of("mmlu", data_dir="${DATA}/mmlu")).samples) == 4


def test_missing_rows_say_how_to_get_them(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMLU_DIR", raising=False)
    monkeypatch.delenv("STEELYARD_DATA", raising=False)
    with pytest.raises(DataMissingError) as caught:
        load_rows(load_task("mmlu"), use_of("mmlu"))
    assert str(caught.value) == (
        "task mmlu: rows not at hand (MMLU_DIR is not set, and STEELYARD_DATA is not set; "
        "the hub's cais/mmlu cannot be had: no network); "
        "set MMLU_DIR or STEELYARD_DATA (the folder above mmlu) or set data_dir for this task in the plan or go online"
    )
    assert count_samples(load_task("mmlu")) is None


def test_a_variable_that_is_set_but_wrong_does_not_lead_to_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMLU_DIR", "/nowhere")
    with pytest.raises(DataMissingError, match=r"rows not at hand \(no files test/\{subject\}_test.csv in /nowhere\)"):
        load_rows(load_task("mmlu"), use_of("mmlu"))
    assert hub.calls == []


def test_a_data_dir_of_an_unset_variable_is_missing_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH", raising=False)
    with pytest.raises(DataMissingError, match=r"rows not at hand \(NO_SUCH is not set\)"):
        load_rows(load_task("mmlu"), use_of("mmlu", data_dir="${NO_SUCH}/x"))


def test_variables_and_home_are_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME", "/a")
    monkeypatch.setenv("HOME", "/h")
    assert (expand_folder("${SOME}/b"), expand_folder("~/b"), expand_folder("$SOME")) == (
        Path("/a/b"),
        Path("/h/b"),
        Path("$SOME"),
    )


def test_a_variable_may_have_another_folder_in_its_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = "${OWN_DIR:-${ALL_DIR}/own}"
    for name in ("OWN_DIR", "ALL_DIR"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DataMissingError, match=r"^OWN_DIR is not set, and ALL_DIR is not set$"):
        expand_folder(folder)
    monkeypatch.setenv("ALL_DIR", str(tmp_path))
    with pytest.raises(DataMissingError, match=f"^no folder {tmp_path}/own$"):
        expand_folder(folder)
    (tmp_path / "own").mkdir()
    assert expand_folder(folder) == tmp_path / "own"
    monkeypatch.setenv("OWN_DIR", "/mine")
    assert expand_folder(folder) == Path("/mine")


class Hub:
    """Stands for `huggingface_hub`: a cache and a network, either of which may have the files."""

    def __init__(self) -> None:
        self.calls: list[dict[str, object]] = []
        self.cached: Path | None = None
        self.online: Path | None = None

    def snapshot_download(self, repo: str, **keys: object) -> str:
        self.calls.append({"repo": repo, **keys})
        folder = self.cached if keys["local_files_only"] else self.online
        if folder is None:
            raise RuntimeError("no network\nat all")
        return str(folder)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    stand_in, module = Hub(), ModuleType("huggingface_hub")
    module.snapshot_download = stand_in.snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", module)
    monkeypatch.delenv("MMLU_DIR", raising=False)
    monkeypatch.delenv("STEELYARD_DATA", raising=False)
    return stand_in


@pytest.fixture
def hub_folder(tmp_path: Path) -> Path:
    from pyarrow import Table
    from pyarrow.parquet import write_table

    folder = tmp_path / "snapshot"
    (folder / "all").mkdir(parents=True)
    for split in ("test", "dev"):
        rows = [
            {"question": 'What, in "short"?\nLine two', "choices": [" 1", "2", "3", "4"], "answer": 2},
            {"question": "Second?", "choices": ["a", "b", "c", "d"], "answer": 0},
        ]
        rows = [{"subject": "sea", **row} for row in rows]
        write_table(Table.from_pylist(rows), folder / "all" / f"{split}-00000-of-00001.parquet")
    return folder


def test_the_hub_is_asked_for_the_pinned_commit_once(hub: Hub, hub_folder: Path) -> None:
    hub.online = hub_folder
    data = load_rows(load_task("mmlu"), use_of("mmlu", num_fewshot=1))
    assert [call["local_files_only"] for call in hub.calls] == [True, False]
    assert {(call["repo"], call["repo_type"]) for call in hub.calls} == {("cais/mmlu", "dataset")}
    assert hub.calls[0]["allow_patterns"] == ["all/test-*.parquet", "all/dev-*.parquet"]
    assert (data.origin, data.revision) == ("hub cais/mmlu", hub.calls[0]["revision"])
    hub.cached = hub_folder
    load_rows(load_task("mmlu"), use_of("mmlu", num_fewshot=1))
    assert len(hub.calls) == 3  # what is cached of a pinned commit needs no network


def test_hub_and_folder_give_the_same_samples(hub: Hub, hub_folder: Path, mmlu_folder: Path, write: Write) -> None:
    hub.online = hub_folder
    write(MMLU_ROWS, "mmlu/dev/sea_dev.csv")
    use = use_of("mmlu", subjects=["sea"], num_fewshot=2)
    from_hub = load_rows(load_task("mmlu"), use)
    from_folder = load_rows(load_task("mmlu"), use.model_copy(update={"data_dir": str(mmlu_folder)}))
    assert from_hub.checksum == from_folder.checksum


def test_a_clone_of_the_hubs_data_set_serves_as_data_dir(hub_folder: Path) -> None:
    data = load_rows(load_task("mmlu"), use_of("mmlu", data_dir=str(hub_folder), num_fewshot=2))
    assert (len(data.samples), data.revision) == (2, None)


def test_a_folder_of_all_data_sets_that_lacks_one_passes_on_to_the_hub(
    hub: Hub, hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.online = hub_folder
    monkeypatch.setenv("STEELYARD_DATA", str(tmp_path / "all"))
    assert load_rows(load_task("mmlu"), use_of("mmlu", num_fewshot=0)).origin == "hub cais/mmlu"
    (tmp_path / "all" / "mmlu").mkdir(parents=True)  # it has one, and its files are not there
    with pytest.raises(DataMissingError, match="no files test/"):
        load_rows(load_task("mmlu"), use_of("mmlu", num_fewshot=0))


def test_a_hub_without_the_files_is_missing_data(hub: Hub, tmp_path: Path) -> None:
    hub.online = tmp_path
    with pytest.raises(DataMissingError, match="the hub's cais/mmlu has no files all/test"):
        load_rows(load_task("mmlu"), use_of("mmlu"))


# --- the real thing


def test_all_of_mmlu_is_read() -> None:
    folder = Path(os.environ.get("STEELYARD_DATA", "")) / "mmlu"
    if not folder.is_dir():
        pytest.skip("needs MMLU in the original layout: set STEELYARD_DATA to a folder with mmlu/ in it")
    data = load_rows(load_task("mmlu"), use_of("mmlu", data_dir=str(folder)))
    assert (len(data.samples), len(data.shots)) == (14042, 57)
    assert {len(pool) for pool in data.shots.values()} == {5}
    golds = [sum(sample.gold == gold for sample in data.samples) for gold in range(4)]
    assert golds == [3222, 3462, 3582, 3776]
    assert any(sample.variables["question"].startswith(" ") for sample in data.samples)

"""studies/suite.py: a tiny model's scores of every task, ours and lm-evaluation-harness's, over made-up rows."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from original_rows import write_originals
from suite import SUBJECTS, _score, study

from bench.errors import InputError

SUBJECTS_HERE = {"agieval": "gaokao-physics", "bbh": "object_counting", "belebele": "eng_Latn", "xcopa": "zh"}
NAMES = ("agieval", "bbh", "boolq", "copa", "hellaswag", "lambada_openai", "truthfulqa_mc2", "winogrande", "xcopa")


def test_every_kind_of_task_scores_as_lm_evaluation_harness_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.models.fake import fake_config, fake_model, fake_tokenizer

    fake_model(fake_config()).save_pretrained(tmp_path / "model")
    fake_tokenizer().save_pretrained(tmp_path / "model")
    write_originals(tmp_path / "data")
    monkeypatch.setenv("STEELYARD_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("suite.SUBJECTS", SUBJECTS | SUBJECTS_HERE)
    options = argparse.Namespace(
        model=str(tmp_path / "model"), tasks=NAMES, questions=3, batch_size=1, out=tmp_path / "out"
    )
    options.tasks = NAMES[-1:]
    assert study(options) == 0
    (path,) = (tmp_path / "out").glob("*.json")
    first = json.loads(path.read_text())["tasks"][NAMES[-1]]
    monkeypatch.setattr("suite.provenance", lambda: {"environment": {"commit": "c" * 40, "is_dirty": False}})
    options.tasks = NAMES[:-1]
    assert study(options) == 0
    result = json.loads(path.read_text())
    assert list(result["tasks"]) == list(NAMES)
    assert result["tasks"][NAMES[-1]] == first  # of an earlier sitting, with the commit it was run at
    assert all(one["num_samples"] >= 2 for one in result["tasks"].values())
    rows = {row[0]: row[-1] for row in table_rows(path.with_suffix(".md").read_text())}
    assert rows["xcopa zh"] == first["environment"]["commit"][:10] + " (changed)" * first["environment"]["is_dirty"]
    assert rows["boolq"] == "cccccccccc"
    reported = {
        f"{name} {one['name']}": (one["ours"], one["theirs"])
        for name, own in result["tasks"].items()
        for one in own["figures"]
    }
    for name in ("truthfulqa_mc2 mc2", "lambada_openai perplexity"):
        ours, theirs = reported[name]
        assert ours == pytest.approx(theirs, rel=1e-4)
        assert ours > 0


def table_rows(text: str) -> list[list[str]]:
    """The cells of all lines of tables."""
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]


def test_an_unknown_task_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEELYARD_DATA", str(tmp_path))
    with pytest.raises(InputError, match="--tasks boolk: did you mean 'boolq'"):
        study(argparse.Namespace(tasks=["boolk"]))


@pytest.mark.parametrize(
    ("keys", "is_right"),
    [
        ({"acc": 1.0}, True),
        ({"acc": 0.0}, False),
        ({"target": "ab"}, True),  # no `acc`: the answer is in words
        ({"target": "abcdef"}, False),
        ({"acc": 0.4, "doc": {"mc2_targets": {"labels": [0, 1]}}}, False),  # `acc` is a share
        ({"acc": 0.4, "doc": {"mc2_targets": {"labels": [1, 1]}}}, True),
    ],
)
def test_a_sample_of_lm_eval_is_judged_by_itself(keys: dict[str, Any], is_right: bool) -> None:
    sample = {"filtered_resps": [(-1.0, False), (-3.5, True)], "arguments": [("c", " ab"), ("c", " abcdefgh")]}
    score = _score("7", {"doc": {}, "prompt_hash": "h", "acc_norm": 1.0, **sample, **keys})
    assert (score.prediction, score.correct) == (0, is_right)
    assert (score.prediction_norm, score.correct_norm) == (1, True)

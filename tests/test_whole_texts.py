"""Whole texts, scored in windows: the task `text` from its files to its perplexities, and `bench verify` on it."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from runs import Bench, only_run, read_info, write_plan

TEXTS = {
    "harbour": "The boats come in at dawn.\n\nNobody  speaks before the ropes are tied. " * 6,
    "short": "Rain.",
    "ünïcode": "大雨 über\r\nNacht…\n",
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Bench) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8", newline="")
    monkeypatch.setenv("TEXT_DIR", str(folder))
    found = cli("run", write_plan(tmp_path, tasks=[{"task": "text"}], max_length=32))
    assert found.code == 0, found.err
    return only_run(tmp_path / "results")


def test_texts_are_scored_as_lm_evaluation_harness_scores_them(run: Path) -> None:
    from lm_eval.api.metrics import bits_per_byte, weighted_perplexity
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    from bench.engine.pack import TokenRequest
    from bench.engine.plain import score_alone
    from bench.models.fake import fake_config, fake_model, fake_tokenizer

    model, tokenizer = fake_model(fake_config()), fake_tokenizer()
    expected = {}
    for name, text in TEXTS.items():
        ids = tokenizer.encode(text)
        prefix = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        rolling = get_rolling_token_windows(ids, prefix_token=prefix, max_seq_len=32, context_len=1)
        windows = [make_disjoint_window(window) for window in rolling]
        assert (len(windows) > 2) == (name == "harbour")
        requests = [
            TokenRequest(np.array((context + rest)[:-1], dtype=np.uint32), tuple(rest)) for context, rest in windows
        ]
        expected[name] = sum(score_alone(model, requests))
    scores = [json.loads(line) for line in (run / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    found = {score["subject"]: score["loglikelihoods"] for score in scores}
    assert {name: [pytest.approx(value, rel=1e-5)] for name, value in expected.items()} == found
    metrics = {name: metric["value"] for name, metric in read_info(run)["metrics"].items()}
    own = [(found[name][0], len(text.encode())) for name, text in TEXTS.items()]
    words = [(found[name][0], len(re.split(r"\s+", text))) for name, text in TEXTS.items()]
    assert metrics == {
        "word_perplexity": pytest.approx(weighted_perplexity(words)),
        "byte_perplexity": pytest.approx(weighted_perplexity(own)),
        "bits_per_byte": pytest.approx(bits_per_byte(own)),
    }
    assert all(math.isfinite(value) for value in metrics.values())


def test_a_run_of_whole_texts_verifies(run: Path, cli: Bench) -> None:
    found = cli("verify", run)
    assert found.code == 0, found.err
    assert read_info(run)["verify"]["num_rescored"] == len(TEXTS)


def test_an_empty_text_is_an_error_of_that_text_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Bench
) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "full.txt").write_text("full")
    monkeypatch.setenv("TEXT_DIR", str(tmp_path))
    found = cli("run", write_plan(tmp_path, tasks=[{"task": "text"}]))
    assert found.complaint.endswith("1 of 2 samples have no score: the text is empty")
    metric = read_info(only_run(tmp_path / "results"))["metrics"]["byte_perplexity"]
    assert (metric["num_scored"], metric["num_failed"]) == (1, 1)

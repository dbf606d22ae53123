"""Both programs as whole commands: the same number of threads, a fresh output folder, and what they left, read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import NUM_FEWSHOT
from setting import Setting, lm_eval_group, lm_eval_task, write_plan

from bench.errors import ScoringError
from bench.measures import first_highest, length_normalised
from bench.plan import load_plan
from bench.records import Score
from bench.runs.reading import Run, find_runs, read_run
from bench.telemetry.machine import num_threads

if TYPE_CHECKING:
    from bench.engine.encode import EncodedSample
    from bench.session import Session

_ROOT = Path(__file__).resolve().parents[1]
_POLL_S = 0.02


# --- lm-evaluation-harness ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LmEvalRun:
    """What a run of lm-eval left.

    Attributes:
        results: by task and group, `results` of its results file.
        batch_sizes: those it found for itself, where it was to look for one.
        scores: by form, in the order of subjects and questions.
        wall_s: seconds the command took, start to exit.
    """

    results: Mapping[str, Mapping[str, Any]]
    batch_sizes: tuple[int, ...]
    scores: Mapping[str, tuple[Score, ...]]
    wall_s: float


def run_lm_eval(
    setting: Setting, dtype: str, batch_size: str, softmax_dtype: str | None = None, *, is_ours: bool = False
) -> LmEvalRun:
    """Run lm-eval's command on all forms of a setting, with its own model `hf`, or with ours (`bench lm-eval`)."""
    model = f"pretrained={setting.model},dtype={dtype}" + (f",softmax_dtype={softmax_dtype}" if softmax_dtype else "")
    command, name = (["bench", "lm-eval"], "steelyard") if is_ours else (["lm_eval"], "hf")
    with _fresh_folder(setting) as out:
        words = [sys.executable, "-m", *command, "run", "--model", name, "--device", setting.device]
        words += ["--model_args", model, "--batch_size", batch_size]
        words += ["--tasks", ",".join(map(lm_eval_group, setting.forms)), "--num_fewshot", str(NUM_FEWSHOT)]
        words += ["--include_path", str(setting.lm_eval_tasks), "--log_samples", "--output_path", str(out)]
        with _announced(f"lm-eval with {name}, {dtype}, batches of {batch_size}"):
            wall_s, _ = _run_command(words, cwd=out)
        return read_lm_eval_run(out, setting, wall_s)


def read_lm_eval_run(out: Path, setting: Setting, wall_s: float = 0.0) -> LmEvalRun:
    """Read what lm-eval wrote to a folder."""
    found = list(out.rglob("results_*.json"))
    if len(found) != 1:
        raise ScoringError(f"lm-eval left {len(found)} results files, not one; {_tail(out)}")
    info = json.loads(found[0].read_text(encoding="utf-8"))
    scores = {
        form: tuple(score for subject in setting.subjects for score in _lm_eval_scores(found[0].parent, form, subject))
        for form in setting.forms
    }
    return LmEvalRun(info["results"], tuple(info["config"]["batch_sizes"]), scores, wall_s)


def _lm_eval_scores(folder: Path, form: str, subject: str) -> Iterator[Score]:
    (path,) = folder.glob(f"samples_{lm_eval_task(form, subject)}_2*.jsonl")  # the date follows the name
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield _lm_eval_score(subject, json.loads(line))


def _lm_eval_score(subject: str, sample: Mapping[str, Any]) -> Score:
    """A sample of lm-eval's as one of ours; what is right and wrong is what lm-eval says of it."""
    values = tuple(float(value) for value, _ in sample["filtered_resps"])
    continuations = [pair["arg_1"] for pair in sample["arguments"].values()]
    num_chars = tuple(len(continuation) - 1 for continuation in continuations)  # without the space before the choice
    return Score(
        id=f"{subject}/{sample['doc_id']}",
        subject=subject,
        gold=int(sample["target"]),
        prompt_hash=sample["prompt_hash"],
        prediction=first_highest(values),
        prediction_norm=first_highest(length_normalised(values, num_chars)),
        correct=sample["acc"] == 1.0,
        correct_norm=sample["acc_norm"] == 1.0 if "acc_norm" in sample else None,
        loglikelihoods=values,
        is_greedy=tuple(is_greedy == "True" for _, is_greedy in sample["filtered_resps"]),
        num_choice_chars=num_chars,
    )


# --- Steelyard ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SteelyardRun:
    """What a command of ours left.

    Attributes:
        runs: by form.
        wall_s: seconds the command took, start to exit.
        first_scores_s: seconds from its start to the first scores on disk.
    """

    runs: Mapping[str, Run]
    wall_s: float
    first_scores_s: float | None


def run_steelyard(setting: Setting, dtype: str) -> SteelyardRun:
    """Run our command on all forms of a setting."""
    with _fresh_folder(setting) as out:
        plan = write_plan(setting, dtype)
        words = [sys.executable, "-m", "bench", "run", str(plan), "--out", str(out)]
        with _announced(f"Steelyard, {dtype}"):
            wall_s, first_scores_s = _run_command(words, cwd=_ROOT, watched=out)
        return SteelyardRun(read_steelyard_runs(out), wall_s, first_scores_s)


def open_session(setting: Setting, dtype: str = "float32", **engine: Any) -> Session:
    """The model of a setting in this process; its weights are loaded when they are first used."""
    from bench.session import Session

    plan = load_plan(write_plan(setting, dtype, **engine))
    return Session(plan.models[0], plan.engine)


def encode_form(session: Session, setting: Setting, form: str) -> list[EncodedSample]:
    """All samples of a setting in token ids, in the order of its subjects."""
    from bench.tasks.prepare import prepare_job

    plan = load_plan(write_plan(setting, "float32"))
    return session.encoder.encode(prepare_job(plan.tasks[setting.forms.index(form)]).samples)


def read_steelyard_runs(out: Path) -> dict[str, Run]:
    """Read the runs below a folder, by form."""
    runs = [read_run(path) for path in find_runs([out])]
    return {run.info["task"]["scoring"]: run for run in runs}


# --- commands -----------------------------------------------------------------------------------------------------


@contextmanager
def _fresh_folder(setting: Setting) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=setting.scratch) as folder:
        yield Path(folder)


@contextmanager
def _announced(title: str) -> Iterator[None]:
    """Say on stderr what is running and how long it took."""
    began = time.perf_counter()
    print(f"{title} ...", end=" ", flush=True, file=sys.stderr)
    try:
        yield
    finally:
        print(f"{time.perf_counter() - began:.1f} s", flush=True, file=sys.stderr)


def _run_command(words: Sequence[str], cwd: Path, watched: Path | None = None) -> tuple[float, float | None]:
    """Run a command; returns its seconds, and those to the first `samples.jsonl` with something in it in `watched`."""
    first_s: float | None = None
    with _log_path(watched or cwd).open("wb") as log_file:
        began = time.perf_counter()
        with subprocess.Popen(words, cwd=cwd, env=_environment(), stdout=log_file, stderr=log_file) as process:
            while process.poll() is None:
                time.sleep(_POLL_S)
                if watched and first_s is None and any(p.stat().st_size for p in watched.glob("*/samples.jsonl")):
                    first_s = time.perf_counter() - began
        wall_s = time.perf_counter() - began
    if process.returncode:
        raise ScoringError(f"{' '.join(words[1:4])} ... failed; {_tail(watched or cwd)}")
    return wall_s, first_s


def _environment() -> dict[str, str]:
    """Both programs: all cores, no hub."""
    path = os.pathsep.join(
        [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    )  # this program, not another copy
    return {**os.environ, "OMP_NUM_THREADS": str(num_threads()), "HF_HUB_OFFLINE": "1", "PYTHONPATH": path}


def _log_path(folder: Path) -> Path:
    return folder / "command.log"


def _tail(folder: Path) -> str:
    """The end of what a command printed, on one line."""
    path = _log_path(folder)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-5:] if path.is_file() else []
    return "its last lines: " + " | ".join(line.strip() for line in lines)

"""What all studies share: their arguments, and results that are printed and fit to be published."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.config import ModelSpec
from bench.errors import DataMissingError, ModelInputError, SteelyardError
from bench.models.files import locate
from bench.runs.disk import read_bytes, write_atomically, write_json
from bench.telemetry.machine import describe_environment

NUM_FEWSHOT = 5
SUBJECTS = ("global_facts", "management", "medical_genetics")  # whole subjects of about 100 short questions each
FORMS = ("letter", "cloze")  # of tasks/mmlu.yaml

_RESULTS = Path(__file__).resolve().parent / "results"
_PUBLISHED = ("steelyard", "lm_eval", "torch", "transformers", "python", "cpu", "num_cpus", "gpu", "commit", "is_dirty")


def arguments(description: str, *, forms: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of what all studies take; `forms` is the default of those that put questions in forms."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    mmlu = os.environ.get("MMLU_DIR") or None
    parser.add_argument("--mmlu", type=Path, default=mmlu, metavar="DIR", help="in the original layout, or MMLU_DIR")
    parser.add_argument("--model", default="embedded", metavar="SOURCE", help="embedded, a folder or owner/name")
    parser.add_argument("--out", type=Path, default=_RESULTS, metavar="DIR", help="of the result")
    if forms is not None:
        parser.add_argument("--subjects", type=_names, default=",".join(SUBJECTS), metavar="A,B")
        parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
        parser.add_argument("--forms", type=_names, default=forms, metavar="A,B", help=f"of {', '.join(FORMS)}")
        parser.add_argument("--limit", type=positive_int, metavar="N", help="first N questions of each subject only")
    return parser


def positive_int(text: str) -> int:
    """A number of at least 1, for `type` of an argument."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number of at least 1, not {text!r}")
    return int(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def mmlu_folder(folder: Path | None) -> Path:
    """MMLU in its original layout."""
    if folder is None:
        raise DataMissingError("set MMLU_DIR, or --mmlu, to a folder with MMLU's test/ and dev/")
    return folder.resolve()


def model_folder(source: str) -> Path:
    """The folder of a model's files."""
    folder = locate(ModelSpec(source=source)).folder
    if folder is None:
        raise ModelInputError(f"--model {source}: has no files that lm-evaluation-harness could load")
    return folder


def run_study(study: Callable[[argparse.Namespace], int], parser: argparse.ArgumentParser) -> int:
    """Run a study with the command line's arguments; what the user can mend is one line."""
    options = parser.parse_args()
    try:
        return study(options)
    except SteelyardError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def publish(options: argparse.Namespace, study: str, result: Mapping[str, Any], lines: Sequence[str]) -> None:
    """Print a result, and write it as JSON and Markdown: no path of this machine, no text of a question."""
    made = provenance()
    known = made["environment"]
    about = ", ".join(f"{key} {value}" for key, value in known.items() if value is not None)
    lines = [*lines, "", f"Made {made['made_at']} with {about}.", ""]
    print("\n".join(lines))
    write_result(options, study, {**made, **result}, lines)


def provenance() -> dict[str, Any]:
    """When, and with what: keys `made_at` and `environment`."""
    environment = describe_environment()
    known = {key: environment[key] for key in _PUBLISHED}
    return {"made_at": datetime.now(UTC).isoformat(timespec="seconds"), "environment": known}


def write_result(options: argparse.Namespace, study: str, result: Mapping[str, Any], lines: Sequence[str]) -> None:
    """Write a result that says itself when and with what it was made, as JSON and Markdown."""
    name = _result_name(study, options)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / f"{name}.json", {**_asked(options), **result})
    write_atomically(options.out / f"{name}.md", "\n".join(lines).encode())
    print(f"written: {options.out / name}.json, .md", file=sys.stderr)


def read_result(options: argparse.Namespace, study: str) -> dict[str, Any]:
    """What was written before of the same study with the same arguments; empty where there is nothing."""
    content = read_bytes(options.out / f"{_result_name(study, options)}.json")
    return dict(json.loads(content)) if content else {}


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Render a Markdown table: the first column to the left, the others to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return [f"| {' | '.join(map(str, line))} |" for line in lines]


def describe(options: argparse.Namespace) -> str:
    """What was scored, in a sentence."""
    some = f"the first {options.limit} questions of each" if options.limit else "all questions"
    asked = _asked(options)
    softmax = f" lm-eval with softmax_dtype={asked['softmax_dtype']}." if asked.get("softmax_dtype") else ""
    what = f"MMLU, {NUM_FEWSHOT}-shot; {', '.join(options.subjects)}; {some}"
    return f"Model {asked['model']}, {options.dtype}; {what}.{softmax}"


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, as far as it can be published."""
    keys = ("dtype", "subjects", "forms", "limit", "softmax_dtype")
    asked = {key: getattr(options, key) for key in keys if hasattr(options, key)}
    return asked | ({"model": model_name(options)} if hasattr(options, "model") else {})


def model_name(options: argparse.Namespace) -> str:
    """The model as it can be published: of a folder its name only."""
    return str(Path(options.model).name if Path(options.model).is_dir() else options.model)


def _result_name(study: str, options: argparse.Namespace) -> str:
    """Another model, dtype, softmax or slice does not replace what is published."""
    asked = _asked(options)
    model = asked.get("model", "embedded")
    parts = [study, *([] if model == "embedded" else [model.replace("/", "-")])]
    parts += [asked["dtype"]] if "dtype" in asked else []
    parts += [f"softmax-{asked['softmax_dtype']}"] if asked.get("softmax_dtype") else []
    parts += [f"limit{asked['limit']}"] if asked.get("limit") else []
    return "-".join(parts)


def verdict(goals: Mapping[str, bool]) -> list[str]:
    """One line a goal: met or not."""
    return [f"- {'met' if is_met else '**not met**'}: {goal}" for goal, is_met in goals.items()]

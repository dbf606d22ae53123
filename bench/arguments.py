"""What may be typed: the commands and their arguments. What they do stands in `bench.cli`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from bench import __version__
from bench.errors import InputError


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line like all others."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with an argument."""
        raise InputError(f"{message} ({self.prog} --help says more)")


_Add = Callable[[str, str], argparse.ArgumentParser]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line; `command` of what is returned names the command.

    Raises:
        InputError: an argument is wrong.
    """
    return _parser().parse_args(arguments)


def _parser() -> argparse.ArgumentParser:
    common = _Parser(add_help=False)
    common.add_argument("-v", "--verbose", action="store_true", help="print the log, too")
    parser = _Parser(
        prog="bench",
        description="Steelyard weighs language models: exact scores, fast, every number traceable.",
    )
    parser.add_argument("--version", action="version", version=f"steelyard {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, parents=[common], help=text, description=f"{text[0].upper()}{text[1:]}.")

    run = add("run", "score a plan's models on its tasks; continues what was interrupted")
    run.add_argument("plan", nargs="?", type=Path, metavar="PLAN", help="default: configs/gpu.yaml or configs/cpu.yaml")
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="such as engine.max_batch_tokens=512",
    )
    run.add_argument(
        "--limit", type=_at_least_one, metavar="N", help="first N samples of each task only; marks the run partial"
    )
    run.add_argument("--out", metavar="DIR", help="folder of run folders (default: the plan's, results)")
    run.add_argument("--dry-run", action="store_true", help="count and predict, load no weights")

    tasks = add("tasks", "list the tasks")
    tasks.add_argument(
        "--check",
        nargs="?",
        const="",
        metavar="TASK",
        help="look for mistakes in a task's data; without TASK, load and render every task whose rows are here",
    )

    _add_show(add)

    table = add("table", "compare runs in a table")
    table.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, or folders of them")

    _add_speed(add)
    _add_compare(add)
    _add_report(add)

    verify = add("verify", "recompute a finished run's numbers the plain way, in fp32")
    verify.add_argument("run", type=Path, metavar="RUN")
    verify.add_argument(
        "--samples", type=_at_least_one, default=16, metavar="N", help="samples to score again (default 16)"
    )
    verify.add_argument("--seed", type=int, default=0, metavar="N", help="which ones (default 0)")
    verify.add_argument("--device", default="auto", metavar="DEVICE", help="where to score them (default auto)")

    _add_import(add)
    add("doctor", "say what this machine has")
    _add_lm_eval(add, commands)
    return parser


def _add_show(add: _Add) -> None:
    show = add("show", "show one run in full, one of its samples, or what a task asks")
    show.add_argument("run", type=Path, metavar="RUN|TASK")
    show.add_argument("--sample", metavar="ID", help="this sample: prompt, choices, loglikelihoods")
    show.add_argument("--model", metavar="M", help="of a task: the prompt's tokens, by this model's tokenizer")
    text = "of a task: such as tasks.0.num_fewshot=1"
    show.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help=text)


def _add_speed(add: _Add) -> None:
    speed = add("speed", "measure how fast a plan's models read and write, or score; continues what was interrupted")
    speed.add_argument("plan", type=Path, metavar="PLAN", help="its section speed says what is measured")
    text = "measure how fast the plan's tasks are scored, not how fast is read and written"
    speed.add_argument("--scoring", action="store_true", help=text)
    speed.add_argument("--limit", type=_at_least_one, metavar="N", help="with --scoring: first N samples of each task")
    text = "such as speed.contexts=[512,2048]"
    speed.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help=text)
    speed.add_argument("--out", metavar="DIR", help="folder of run folders (default: the plan's, results)")


def _add_compare(add: _Add) -> None:
    compare = add("compare", "compare runs on the questions they share: differences, tests, ranks, ties")
    compare.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, or folders of them")
    compare.add_argument("--baseline", metavar="MODEL|RUN", help="compare all others with this one, and with it only")
    compare.add_argument("--allow-unlike", action="store_true", help="compare unlike settings, too, and mark them")
    compare.add_argument(
        "--cluster", metavar="COLUMN", help="column of the rows; questions with equal values are not independent"
    )
    compare.add_argument(
        "--published",
        action="append",
        default=[],
        type=_named_score,
        metavar="NAME=SCORE",
        help="a published score in percent, such as 'GPT-3.5, 5-shot=70.0'; nothing is paired",
    )


def _add_report(add: _Add) -> None:
    from bench.report.publish import FORMATS

    report = add("report", "results as they are published: quality, speed, memory, cost, openness, licence")
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, or folders of them")
    report.add_argument("--format", choices=FORMATS, default="md", help="default: md")
    report.add_argument("--out", type=Path, metavar="FILE", help="where to write it (default: print it)")
    report.add_argument("--plots", type=Path, metavar="DIR", help="write the plots there, too, as SVG and PNG")
    report.add_argument(
        "--plan", type=Path, metavar="PLAN", help="whose costs hold for runs that were made without any"
    )
    report.add_argument(
        "--published",
        choices=("all", "own", "none"),
        default="all",
        help="published scores to show: of all systems, of the runs' own models, or none",
    )
    report.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="TASK",
        help="show what is published for this task although there is no run of it",
    )


def _add_import(add: _Add) -> None:
    from bench.imports import format_names

    bring = add("import", "make runs of public per-question answers, matched to a task's questions")
    bring.add_argument("format", metavar="FORMAT", help=", ".join(format_names()))
    what = "a folder or an archive of its files, or one file; helm-mmlu fetches them without"
    bring.add_argument("path", nargs="?", type=Path, metavar="PATH", help=what)
    bring.add_argument("--out", type=Path, default=Path("results"), metavar="DIR", help="folder of run folders")
    bring.add_argument("--task", metavar="TASK", help="whose questions they are (default: the format's)")
    bring.add_argument("--data-dir", metavar="DIR", help="folder of the task's rows")


def _add_lm_eval(add: _Add, commands: argparse._SubParsersAction[_Parser]) -> None:
    export = add("export", "write a finished run as the files of another program")
    export.add_argument("run", type=Path, metavar="RUN")
    export.add_argument("--to", choices=("lm-eval",), required=True, help="lm-eval: its results and samples")
    export.add_argument("--out", type=Path, metavar="DIR", help="default: the folder lm_eval in the run's")
    # a prefix that nobody types: all that follows is lm-eval's, its -h, too
    text = "run lm-evaluation-harness's own command with this engine as its model `steelyard`"
    lm_eval = commands.add_parser("lm-eval", help=text, prefix_chars="\0", add_help=False)
    lm_eval.add_argument("arguments", nargs=argparse.REMAINDER)
    lm_eval.set_defaults(verbose=False)


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _named_score(text: str) -> tuple[str, float]:
    name, _, score = text.rpartition("=")
    try:
        value = float(score)
    except ValueError:
        value = -1.0
    if not name or not 1 <= value <= 100:  # below 1 it is more likely a share than a score
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=SCORE with a score from 1 to 100, in percent")
    return name, value / 100

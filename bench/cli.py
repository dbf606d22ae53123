"""The command line: one function a command, which calls and prints. The only place that prints.

Exit codes: 0 all is well; 1 something failed while running, if only some samples; 2 something the user gave is wrong;
130 interrupted.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.arguments import parse
from bench.errors import PlanError, SteelyardError

if TYPE_CHECKING:
    from bench.config import RunPlan


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    is_verbose = False
    try:
        options = parse(arguments)
        is_verbose = options.verbose
        with _logging(is_verbose):
            code = _COMMANDS[options.command](options)
            sys.stdout.flush()  # a reader that has left is noticed here, not at exit
            return code
    except SteelyardError as error:
        _complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _complain("interrupted; what was scored is kept, the same command continues")
        return 130
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as problem:  # a defect of this program
        if is_verbose:
            raise
        _complain(f"defect: {type(problem).__name__}: {problem} (-v shows the traceback)")
        return 1


@contextmanager
def _logging(is_verbose: bool) -> Iterator[None]:
    log = logging.getLogger("bench")
    log.setLevel(logging.DEBUG if is_verbose else logging.INFO)
    handler = logging.StreamHandler() if is_verbose else logging.NullHandler()
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


@contextmanager
def _importing() -> Iterator[None]:
    """For heavy imports: they make a million objects to stay; looking for garbage among them is a fifth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _run(options: argparse.Namespace) -> int:
    from bench.plan import load_plan

    plan = load_plan(options.plan or _default_plan(), _overrides(options))
    if options.dry_run:
        return _dry_run(plan)
    from bench.report.progress import TerminalListener

    with _importing():
        from bench.runner import run_plan
    outcomes = run_plan(plan, TerminalListener(has_bar=not options.verbose))
    paths = [outcome.path for outcome in outcomes if outcome.path is not None and outcome.error is None]
    if paths:
        print()
        _print_runs(paths, "bench verify RUN")
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    if paths and errors:
        _complain(f"{len(errors)} of {len(outcomes)} runs did not finish, for the reasons given above")
    has_failed_samples = any(outcome.num_failed for outcome in outcomes)
    return max((error.exit_code for error in errors), default=int(has_failed_samples))


def _speed(options: argparse.Namespace) -> int:
    from bench.plan import load_plan

    if options.limit is not None and not options.scoring:
        raise PlanError("--limit goes with --scoring: nothing else that bench speed measures has samples")
    plan = load_plan(options.plan, _overrides(options))
    from bench.report.progress import TerminalListener

    with _importing():
        from bench.speed.runner import run_speed
    outcomes = run_speed(plan, TerminalListener(has_bar=not options.verbose), is_scoring=options.scoring)
    paths = [outcome.path for outcome in outcomes if outcome.path is not None]
    if paths:
        _print_runs(paths, "bench table RUN")
    return max((outcome.error.exit_code for outcome in outcomes if outcome.error is not None), default=0)


def _overrides(options: argparse.Namespace) -> list[str]:
    """`--set`, and `--limit` and `--out` as overrides of the plan."""
    limit = [] if options.limit is None else [f"tasks.*.limit={options.limit}"]
    return [*options.overrides, *limit, *([] if options.out is None else [f"out={options.out}"])]


def _default_plan() -> Path:
    """The plan for this machine, below the working directory: `configs/gpu.yaml` if there is a GPU."""
    from bench.telemetry.machine import describe_gpus

    plan = Path("configs") / ("gpu.yaml" if describe_gpus()["gpu"] else "cpu.yaml")
    if not plan.is_file():
        raise PlanError(f"no PLAN was given, and {plan} is not below {Path.cwd()}")
    return plan


def _dry_run(plan: RunPlan) -> int:
    with _importing():
        from bench.dryrun import forecast_plan
    from bench.report.forecast import render_forecast
    from bench.report.progress import TerminalListener
    from bench.report.text import Screen

    forecasts, errors = forecast_plan(plan, TerminalListener())
    if forecasts:
        print("\n\n".join(render_forecast(forecast, Screen.of()) for forecast in forecasts))
    return max((error.exit_code for error in errors), default=0)


def _tasks(options: argparse.Namespace) -> int:
    from bench.report.tasks import render_findings, render_tasks
    from bench.report.text import Screen

    if options.check is None:
        from bench.tasks.dataset import count_samples
        from bench.tasks.task import list_tasks

        print(render_tasks([(task, count_samples(task)) for task in list_tasks()], Screen.of()))
        return 0
    if not options.check:
        return _check_tasks()
    from bench.tasks.audit import audit
    from bench.tasks.checking import load_whole, render_forms
    from bench.tasks.task import load_task

    task = load_task(options.check)
    dataset = load_whole(task)
    findings = audit(task, dataset)
    print(render_findings(task, dataset, findings, Screen.of()))
    render_forms(task, dataset)
    return 1 if findings else 0


def _check_tasks() -> int:
    from bench.report.progress import counted
    from bench.report.tasks import render_checks
    from bench.report.text import Screen
    from bench.tasks.checking import check_tasks
    from bench.tasks.task import task_names

    names = task_names()
    checks = list(counted(check_tasks(names), len(names), "loading and rendering tasks"))
    print(render_checks(checks, Screen.of()))
    return max((check.error.exit_code for check in checks if check.error is not None), default=0)


def _show(options: argparse.Namespace) -> int:
    from bench.report.blocks import is_pll
    from bench.report.sample import find_score, labelled, render_sample
    from bench.report.show import render_run
    from bench.report.speed import read_speed_run
    from bench.report.tables import render_subjects
    from bench.report.text import Screen
    from bench.runs.reading import read_run

    if options.sample is not None and not options.run.is_dir():
        return _show_asked(options)
    if options.sample is None and read_speed_run(options.run) is not None:
        _print_table([options.run])
        return 0
    run = read_run(options.run)
    if options.sample is None:
        print(render_run(run, Screen.of()))
        if run.info.get("groups"):
            print("\n" + render_subjects(run, Screen.of()))
        return 0
    from bench.imports import is_imported
    from bench.tasks.prepare import find_sample

    score = find_score(run, options.sample)
    sample = find_sample(run.info, score.id)
    if is_imported(run.info):  # it was put to the model in other words than ours
        shown = {"question": str(sample.sample.variables.get("question", ""))}
    else:
        shown = {"prompt": sample.prompt.without_shots(score.num_shots_dropped).text}
    measure = "PLL" if is_pll(run) else "loglikelihood"
    print(render_sample(score, Screen.of(), measure=measure, choices=labelled(sample.sample), **shown))
    return 0


def _show_asked(options: argparse.Namespace) -> int:
    from bench.asked import ask
    from bench.plan import resolve_plan
    from bench.report.asked import render_asked
    from bench.report.text import Screen

    data = {"models": [{"source": options.model or "fake"}], "tasks": [{"task": str(options.run)}]}
    plan = resolve_plan(data, options.overrides, "bench show")
    asked = ask(plan, options.sample, plan.models[0] if options.model else None)
    print(render_asked(asked, Screen.of()))
    return 0


def _table(options: argparse.Namespace) -> int:
    from bench.runs.reading import find_runs

    _print_table(find_runs(options.runs))
    return 0


def _print_runs(paths: Sequence[Path], what_next: str) -> None:
    """The table of runs just made, and where they lie."""
    _print_table(paths)
    print(f"\nRun folders (bench show RUN, {what_next}):")
    for path in paths:
        print(f"  {path}")


def _print_table(paths: Sequence[Path]) -> None:
    from bench.report.speed import read_speed_run, render_speed
    from bench.report.tables import render_runs
    from bench.report.text import Screen
    from bench.runs.reading import read_run

    speed = {path: run for path in paths if (run := read_speed_run(path)) is not None}
    runs = [read_run(path, with_scores=False) for path in paths if path not in speed]
    tables = [render_runs(runs, Screen.of(), list(speed.values()))] if runs else []
    tables += [render_speed(list(speed.values()), Screen.of())] if speed else []
    print("\n\n".join(tables))


def _compare(options: argparse.Namespace) -> int:
    from bench.comparison.compare import compare_runs
    from bench.comparison.compared import Wish
    from bench.report.comparison import render_comparisons
    from bench.report.text import Screen
    from bench.runs.reading import find_scored_runs, read_run

    runs = [read_run(path) for path in find_scored_runs(options.runs)]
    wish = Wish(options.baseline, options.allow_unlike, options.cluster, dict(options.published))
    print(render_comparisons(compare_runs(runs, wish), Screen.of()))
    return 0


def _import(options: argparse.Namespace) -> int:
    from bench.imports.importing import import_runs

    made = import_runs(options.format, options.path, options.out, options.task, options.data_dir)
    _print_runs([one.path for one in made], "bench compare RUN RUN")
    return 0


def _report(options: argparse.Namespace) -> int:
    from bench.plan import load_plan
    from bench.report.publish import load_runs, render_report, write_plots, write_text
    from bench.report.results import Choice, build_report

    costs = None if options.plan is None else load_plan(options.plan).costs
    runs, speeds = load_runs(options.runs)
    report = build_report(runs, Choice(costs, options.published, tuple(options.also)), speeds)
    text = render_report(report, options.format)
    written = [] if options.plots is None else write_plots(report, options.plots)
    if options.out is None:
        print(text, end="")
    else:
        write_text(options.out, text)
        for path in (options.out, *written):
            print(path)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from bench.report.verification import render_verification

    with _importing():
        from bench.verify import verify_run

    print(render_verification(verify_run(options.run, options.samples, options.seed, options.device)))
    return 0


def _doctor(_: argparse.Namespace) -> int:
    from bench.doctor import examine
    from bench.report.machine import render_machine
    from bench.report.text import Screen

    print(render_machine(examine(), Screen.of()))
    return 0


def _export(options: argparse.Namespace) -> int:
    from bench.lmeval.export import export_run

    print(export_run(options.run, options.out))
    return 0


def _lm_eval(options: argparse.Namespace) -> int:
    from bench.lmeval.command import run_lm_eval

    try:
        run_lm_eval(options.arguments)
    except KeyboardInterrupt:
        _complain("interrupted; lm-eval keeps nothing of what was scored")
        return 130
    return 0


def _complain(text: str) -> None:
    print(f"bench: {' '.join(text.split())}", file=sys.stderr)


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "tasks": _tasks,
    "table": _table,
    "verify": _verify,
    "doctor": _doctor,
    "show": _show,
    "speed": _speed,
    "compare": _compare,
    "report": _report,
    "import": _import,
    "export": _export,
    "lm-eval": _lm_eval,
}

"""A report in any of its formats, and its plots."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import StoreError
from bench.report.sheet import Report

if TYPE_CHECKING:
    from bench.report.speed import SpeedRun
    from bench.runs.reading import Run

_RENDERERS = {
    "md": ("bench.report.markdown", "render_markdown"),
    "latex": ("bench.report.latex", "render_latex"),
    "csv": ("bench.report.data", "render_csv"),
    "json": ("bench.report.data", "render_json"),
    "html": ("bench.report.html", "render_html"),
}
FORMATS = tuple(_RENDERERS)


def render_report(report: Report, name: str) -> str:
    """The report as text in the format called `name`, one of `FORMATS`."""
    module, function = _RENDERERS[name]
    render: Callable[[Report], str] = getattr(import_module(module), function)
    return render(report)


def load_runs(paths: Iterable[Path]) -> tuple[list[Run], list[SpeedRun]]:
    """Read the runs and the speed runs in folders; scores only where an API charged for each.

    Raises:
        RunFolderError: a path is neither a run folder nor a folder of them.
    """
    from bench.report.speed import read_speed_run
    from bench.report.text import look_up
    from bench.runs.reading import find_runs, read_run

    found = find_runs(paths)
    speeds = {path: speed for path in found if (speed := read_speed_run(path)) is not None}
    runs = [read_run(path, with_scores=False) for path in found if path not in speeds]
    runs = [read_run(run.path) if look_up(run.info, "model.kind") == "api" else run for run in runs]
    return runs, list(speeds.values())


def write_text(path: Path, text: str) -> None:
    """Write a file, as UTF-8.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as problem:
        raise StoreError(f"{path}: cannot be written: {problem.strerror}") from None


def write_plots(report: Report, folder: Path) -> list[Path]:
    """Write every plot that the report has enough for, as SVG and PNG.

    Raises:
        StoreError: the folder cannot be written.
    """
    from bench.report.plots import plan_plots

    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [path for plot in plan_plots(report) for path in plot.write(folder)]
    except OSError as problem:
        raise StoreError(f"{folder}: cannot be written: {problem.strerror}") from None

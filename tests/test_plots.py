"""Plots: what they are of, and that they are pictures and nothing more."""

from __future__ import annotations

from pathlib import Path

from report_runs import EVIL, make_run

from bench.report.drawing.fronts import pareto_front
from bench.report.plots import LIGHT, plan_plots
from bench.report.results import build_report


def test_the_front_is_what_nothing_beats() -> None:
    points = [(1.0, 50.0), (2.0, 40.0), (3.0, 70.0), (3.0, 60.0), (5.0, 70.0)]
    assert pareto_front(points, less_is_better=True) == [0, 2]
    assert pareto_front(points, less_is_better=False) == [4]
    assert pareto_front([(1.0, 5.0), (2.0, 3.0)], less_is_better=False) == [0, 1]


def test_plots_are_pictures_without_text_or_script(tmp_path: Path) -> None:
    costs = {"costs": {"machine_usd_per_hour": 1}}
    report = build_report([make_run(EVIL, config=costs), make_run("two", 35, config=costs)])
    plots = plan_plots(report)
    assert [plot.name for plot in plots] == ["scores", "cost", "speed"]
    paths = plots[0].write(tmp_path)
    assert [path.name for path in paths] == ["scores.svg", "scores.png"]
    assert paths[1].read_bytes().startswith(b"\x89PNG")
    svg = plots[0].svg(LIGHT)
    assert "<text" not in svg
    assert "<script" not in svg
    assert svg == plots[0].svg(LIGHT)  # the same report gives the same picture
    assert [plot.name for plot in plan_plots(build_report([make_run("one")]))] == ["scores"]

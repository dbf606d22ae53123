"""Plots: what they are of, and that they are pictures and nothing more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from report_runs import EVIL, decode_point, make_run, make_served_run, make_speed_run, served_point

from bench.report.drawing.canvas import panels, style
from bench.report.drawing.fronts import pareto_front
from bench.report.drawing.labels import Label, Named, place_labels
from bench.report.plots import LIGHT, plan_plots
from bench.report.results import Choice, build_report


def test_the_front_is_what_nothing_beats() -> None:
    points = [(1.0, 50.0), (2.0, 40.0), (3.0, 70.0), (3.0, 60.0), (5.0, 70.0)]
    assert pareto_front(points, less_is_better=True) == [0, 2]
    assert pareto_front(points, less_is_better=False) == [4]
    assert pareto_front([(1.0, 5.0), (2.0, 3.0)], less_is_better=False) == [0, 1]


def test_plots_are_pictures_without_text_or_script(tmp_path: Path) -> None:
    costs = {"costs": {"machine_usd_per_hour": 1}}
    runs = [make_run(EVIL, config=costs), make_run("two", 35, config=costs)]
    for run in runs:
        run.info["energy"] = {"total_j": 1000.0, "scope": "gpu"}
    report = build_report(runs, speeds=[make_speed_run(EVIL, decode_point(1, 0.01), decode_point(4, 0.0125))])
    plots = plan_plots(report)
    assert [plot.name for plot in plots] == ["scores", "cost", "energy", "speed", "throughput"]
    paths = plots[0].write(tmp_path)
    assert [path.name for path in paths] == ["scores.svg", "scores.png"]
    assert paths[1].read_bytes().startswith(b"\x89PNG")
    for plot in (plots[0], plots[-1]):
        svg = plot.svg(LIGHT)
        assert "<text" not in svg
        assert "<script" not in svg
    assert svg == plots[-1].svg(LIGHT)  # the same report gives the same picture
    assert [plot.name for plot in plan_plots(build_report([make_run("one")]))] == ["scores"]


def test_throughput_joins_the_points_of_one_model_that_differ_in_how_many_sequences_are_under_way() -> None:
    speeds = [
        make_speed_run("a", *(decode_point(size, 0.01 + size / 1000) for size in (1, 2, 4))),
        make_served_run("b", *(served_point(size) for size in (1, 8))),
        make_speed_run("c", decode_point(1, 0.01)),  # a single point shows nothing of how it goes on
    ]
    report = build_report([], speeds=speeds)
    assert [(point.line, point.label, point.per_s) for point in report.speed_points[:4]] == [
        ("a fp32, context 512", "1", 1 / 0.011),
        ("a fp32, context 512", "2", 2 / 0.012),
        ("a fp32, context 512", "4", 4 / 0.014),
        ("b, served", "1", 40.0),
    ]
    (plot,) = plan_plots(report)
    with style(LIGHT):
        (ax,) = plot.draw(LIGHT).axes
    drawn = {str(line.get_label()): list(line.get_xdata()) for line in ax.get_lines()}
    assert drawn["a fp32, context 512"] == [11.0, 12.0, 14.0]
    assert set(drawn) == {"Pareto front", "a fp32, context 512", "b, served"}
    only_one = build_report([], speeds=speeds[2:])
    assert plan_plots(only_one) == []


def test_names_cover_neither_each_other_nor_a_point() -> None:
    with style(LIGHT):
        figure, (ax,) = panels([3.0])
        places = [(1.0, 1.0), (1.05, 1.02), (1.1, 1.0), (3.0, 2.0), (2.98, 2.02), (0.99, 2.01)]
        ax.plot([x for x, _ in places], [y for _, y in places], ls="none", marker="o")
        ax.margins(0.2)
        place_labels([Named(ax, [Label(x, y, f"model number {n}", "black") for n, (x, y) in enumerate(places)])])
        canvas: Any = figure.canvas
        figure.draw_without_rendering()
        boxes = [note.get_window_extent(canvas.get_renderer()) for note in ax.texts]
        spots = [ax.transData.transform(place) for place in places]
        frame = ax.get_window_extent(canvas.get_renderer())
    assert [note.get_text() for note in ax.texts] == [f"model number {n}" for n in range(6)]
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])
        assert not any(box.contains(*spot) for spot in spots)
        assert frame.x0 <= box.x0
        assert box.x1 <= frame.x1


def test_two_precisions_of_a_model_have_a_place_and_a_name_each() -> None:
    runs = [make_run("a", 30), make_run("a", 20, model={"name": "a", "source": "a", "dtype": "bfloat16"})]
    report = build_report(runs, Choice(published="none"))
    assert [point.label for point in report.sections[0].points] == ["a fp32", "a bf16"]
    with style(LIGHT):
        (ax,) = plan_plots(report)[0].draw(LIGHT).axes
    heights = {float(line.get_ydata()[0]) for line in ax.get_lines() if line.get_marker() == "o"}
    assert heights == {0.0, 1.0}

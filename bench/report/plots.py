"""The plots of a report: scores, scores against cost, energy and speed, and throughput against latency.

Of scores there is a panel a task. Runs that nothing beats in both score and cost (or energy, or speed) are joined: the
Pareto front. Published scores, made under other settings, have neither cost nor speed.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.report.drawing.canvas import DARK, LIGHT, Theme, style
from bench.report.drawing.fronts import MEASURES, draw_front
from bench.report.drawing.scores import draw_scores
from bench.report.drawing.throughput import draw_throughput
from bench.report.sheet import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DARK", "LIGHT", "Plot", "plan_plots"]


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot to be drawn.

    Attributes:
        name: of its file.
        title: what it shows, for readers and for those who cannot see it.
        draw: makes it with a theme's colours.
    """

    name: str
    title: str
    draw: Callable[[Theme], Figure]

    def svg(self, theme: Theme = LIGHT) -> str:
        """As SVG, its letters drawn as shapes: it needs no font and holds no text that could be more than text."""
        out = io.StringIO()
        with style(theme):
            self.draw(theme).savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        return out.getvalue()

    def data_uri(self, theme: Theme) -> str:
        """As an address that holds the SVG; an image so loaded runs no script."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.svg(theme).encode()).decode()}"

    def write(self, folder: Path) -> list[Path]:
        """Write it as SVG and PNG, on white."""
        paths = [folder / f"{self.name}.svg", folder / f"{self.name}.png"]
        paths[0].write_text(self.svg(), encoding="utf-8")
        with style(LIGHT):
            self.draw(LIGHT).savefig(paths[1], dpi=200, facecolor="white", metadata={"Software": None})
        return paths


def plan_plots(report: Report) -> list[Plot]:
    """The plots that a report has enough for: of what is set against each other there must be two."""
    sections = [section for section in report.sections if any(not point.is_published for point in section.points)]
    plots = [Plot("scores", "Scores with 95 % intervals", partial(draw_scores, sections))] if sections else []
    for name, measure in MEASURES.items():
        if panels := [section for section in sections if len(measure.placed(section)) > 1]:
            plots.append(Plot(name, measure.title, partial(draw_front, panels, measure)))
    sizes = Counter(point.line for point in report.speed_points)
    points = [point for point in report.speed_points if sizes[point.line] > 1]
    if points:
        title = "Throughput against latency"
        plots.append(Plot("throughput", title, partial(draw_throughput, points)))
    return plots

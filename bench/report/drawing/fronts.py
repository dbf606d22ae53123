"""Scores against cost, energy or speed, with the runs that nothing beats in both: the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from bench.report.drawing.canvas import Theme, log_axis, panels, short, title
from bench.report.drawing.labels import Label, Named, place_labels
from bench.report.sheet import Point, Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_LABELS = 12  # beyond it only the front is named


@dataclass(frozen=True, slots=True)
class Measure:
    """What scores are plotted against.

    Attributes:
        field: the attribute of `Point` that holds it.
        axis: what its axis says.
        title: of the plot.
        less_is_better: otherwise more is.
    """

    field: str
    axis: str
    title: str
    less_is_better: bool

    def placed(self, section: Section) -> list[tuple[float, Point]]:
        """The runs that have a place on the axis."""
        values = ((getattr(point, self.field), point) for point in section.points)
        return [(value, point) for value, point in values if value]


MEASURES = {
    "cost": Measure("usd", "USD for 1,000 questions", "Scores against cost", less_is_better=True),
    "energy": Measure("wh", "Wh for 1,000 questions", "Scores against energy", less_is_better=True),
    "speed": Measure("per_s", "questions a second", "Scores against speed", less_is_better=False),
}


def pareto_front(points: Sequence[tuple[float, float]], *, less_is_better: bool) -> list[int]:
    """Places of the points (x, score) that no other point beats, or equals and beats in one; by rising x."""
    sign = 1 if less_is_better else -1
    order = sorted(range(len(points)), key=lambda place: (sign * points[place][0], -points[place][1]))
    front: list[int] = []
    for place in order:
        if not front or points[place][1] > points[front[-1]][1]:
            front.append(place)
    return sorted(front, key=lambda place: points[place][0])


def draw_front(sections: Sequence[Section], measure: Measure, theme: Theme) -> Figure:
    """The plot: a panel a task."""
    figure, axes = panels([2.9] * len(sections))
    drawn = []
    for section, ax in zip(sections, axes, strict=True):
        ax.set_title(title(section.results.title))
        placed = measure.placed(section)
        better = "less" if measure.less_is_better else "more"
        ax.set_xlabel(f"{measure.axis} ({better} is better; line: the Pareto front)")
        ax.set_ylabel("score, %")
        ax.grid()
        ax.margins(x=0.18, y=0.18)
        log_axis(ax, "x", [x for x, _ in placed])
        drawn.append(_draw(ax, placed, theme, less_is_better=measure.less_is_better))
    place_labels(drawn)
    return figure


def _draw(ax: Axes, placed: Sequence[tuple[float, Point]], theme: Theme, *, less_is_better: bool) -> Named:
    """The points with their intervals, and the front; returns the points' names."""
    xs, ys = [x for x, _ in placed], [100 * point.score for _, point in placed]
    front = pareto_front(list(zip(xs, ys, strict=True)), less_is_better=less_is_better)
    corners = _steps([(xs[place], ys[place]) for place in front], is_late=less_is_better)
    ax.plot([x for x, _ in corners], [y for _, y in corners], color=theme.run, lw=1.2, alpha=0.6)
    lines = [corners]
    for place, (x, point) in enumerate(placed):
        color = theme.run if place in front else theme.published
        if point.ci95 is not None:
            ends = [(x, 100 * end) for end in point.ci95]
            ax.plot([x, x], [y for _, y in ends], color=color, lw=1.4, alpha=0.4)
            lines.append(ends)
        ax.plot(x, ys[place], marker="o", markersize=5.5, color=color, ls="none")
    others = [place for place in range(len(placed)) if place not in front] if len(placed) <= _MOST_LABELS else []
    labels = [Label(xs[place], ys[place], short(placed[place][1].label), theme.ink) for place in (*front, *others)]
    return Named(ax, labels, lines)


def _steps(points: Sequence[tuple[float, float]], *, is_late: bool) -> list[tuple[float, float]]:
    """The corners of a staircase through points; `is_late`: it rises where the next point is."""
    corners = list(points[:1])
    for (x, y), (to_x, to_y) in pairwise(points):
        corners += [(to_x, y) if is_late else (x, to_y), (to_x, to_y)]
    return corners

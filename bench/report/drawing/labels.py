"""Names beside points that cover neither each other nor any point or line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NEAR, _FAR = 5.0, 13.0  # points between a point and its name
_AWAY = 9.0  # what it costs a name to be far from its point, in square points that it would cover elsewhere
_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
_ALIGNED = {"x": {1: "left", 0: "center", -1: "right"}, "y": {1: "bottom", 0: "center", -1: "top"}}
_SIZE = 3.5  # half of a point's box
_OUTSIDE = 8.0  # a square point outside of the panel counts as so many that are covered


@dataclass(frozen=True, slots=True)
class Label:
    """A name to be set beside a point; x and y are data."""

    x: float
    y: float
    text: str
    color: str


@dataclass(frozen=True, slots=True)
class _Box:
    """A box on the figure, in points."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: _Box) -> float:
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.top, other.top) - max(self.bottom, other.bottom)
        return wide * high if wide > 0 and high > 0 else 0.0

    @property
    def area(self) -> float:
        return (self.right - self.left) * (self.top - self.bottom)


@dataclass(frozen=True, slots=True)
class Named:
    """A panel and the names that are to be set in it.

    Attributes:
        labels: the most important first.
        lines: what they should not cover, each a line through data points.
    """

    ax: Axes
    labels: Sequence[Label]
    lines: Sequence[Sequence[tuple[float, float]]] = ()


def place_labels(panels: Sequence[Named], size: float = 7.5) -> None:
    """Set names where they cover the least, in letters of so many points.

    Call it once everything else of the figure is drawn: the layout is settled here.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure: Any = panels[0].ax.figure
    canvas: Any = FigureCanvasAgg(figure)
    renderer = canvas.get_renderer()
    figure.draw_without_rendering()
    for panel in panels:
        _place(panel, renderer, size)


def _place(panel: Named, renderer: Any, size: float) -> None:
    ax, figure = panel.ax, panel.ax.figure
    scale = 72.0 / figure.dpi  # of a pixel, in points

    def at(x: float, y: float) -> tuple[float, float]:
        left, bottom = ax.transData.transform((x, y))
        return left * scale, bottom * scale

    frame = ax.get_window_extent(renderer)
    inside = _Box(frame.x0 * scale, frame.y0 * scale, frame.x1 * scale, frame.y1 * scale)
    taken = [_around(*at(label.x, label.y)) for label in panel.labels]
    taken += [_around(*spot, half=1.5) for line in panel.lines for spot in _along([at(*point) for point in line])]
    for label in panel.labels:
        note = ax.annotate(label.text, (label.x, label.y), (0, 0), textcoords="offset points", fontsize=size)
        extent = note.get_window_extent(renderer)
        wide, high = extent.width * scale, extent.height * scale
        offsets = [offset for gap in (_NEAR, _FAR) for offset in _offsets(gap)]
        boxes = [_box(at(label.x, label.y), wide, high, offset) for offset in offsets]
        costs = [_cost(box, taken, inside) + (_AWAY if place >= len(_SIDES) else 0) for place, box in enumerate(boxes)]
        best = costs.index(min(costs))
        right, up = offsets[best]
        # anchored at the end that is next to its point, since letters are as wide as each renderer makes them
        ha, va = _ALIGNED["x"][_sign(right)], _ALIGNED["y"][_sign(up)]
        note.set(position=offsets[best], ha=ha, va=va, color=label.color, in_layout=False)
        taken.append(boxes[best])


def _around(x: float, y: float, half: float = _SIZE) -> _Box:
    return _Box(x - half, y - half, x + half, y + half)


def _along(points: Sequence[tuple[float, float]], step: float = 4.0) -> list[tuple[float, float]]:
    """Spots along a line, every few points."""
    spots = []
    for (x, y), (to_x, to_y) in pairwise(points):
        num = max(1, int(max(abs(to_x - x), abs(to_y - y)) / step))
        spots += [(x + (to_x - x) * k / num, y + (to_y - y) * k / num) for k in range(num)]
    return spots


def _offsets(gap: float) -> list[tuple[float, float]]:
    """Where a name may begin, from its point, so that it is about `gap` away from it."""
    return [(side[0] * near, side[1] * near) for side in _SIDES for near in [gap if 0 in side else 0.7 * gap]]


def _box(point: tuple[float, float], wide: float, high: float, offset: tuple[float, float]) -> _Box:
    """The box of a name."""
    (x, y), (right, up) = point, offset
    left = x + right - wide * {1: 0.0, 0: 0.5, -1: 1.0}[_sign(right)]
    bottom = y + up - high * {1: 0.0, 0: 0.5, -1: 1.0}[_sign(up)]
    return _Box(left, bottom, left + wide, bottom + high)


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)


def _cost(box: _Box, taken: Sequence[_Box], inside: _Box) -> float:
    return sum(map(box.overlap, taken)) + _OUTSIDE * (box.area - box.overlap(inside))

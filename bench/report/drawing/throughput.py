"""Tokens a second against the time of a token: what more work at once gains, and what each sequence pays for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.report.drawing.canvas import Theme, log_axis, panels, short
from bench.report.drawing.fronts import pareto_front
from bench.report.drawing.labels import Label, Named, place_labels
from bench.report.sheet import SpeedPoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKERS = "osD^vP"
_MOST_IN_LEGEND = 12


def draw_throughput(points: Sequence[SpeedPoint], theme: Theme) -> Figure:
    """The plot: a line a model, through batch sizes or concurrencies, and the Pareto front of all points."""
    lines: dict[str, list[SpeedPoint]] = {}
    for point in points:
        lines.setdefault(point.line, []).append(point)
    figure, (ax,) = panels([3.6 + 0.17 * min(len(lines), _MOST_IN_LEGEND)])
    xs, ys = [1000 * point.tpot_s for point in points], [point.per_s for point in points]
    ax.set_title("Throughput against latency")
    log_axis(ax, "x", xs)
    log_axis(ax, "y", ys)
    ax.set_xlabel("TPOT, ms, median (less is better)")
    ax.set_ylabel("tokens a second (more is better)")
    ax.grid()
    ax.margins(x=0.12, y=0.14)
    front = [(xs[place], ys[place]) for place in pareto_front(list(zip(xs, ys, strict=True)), less_is_better=True)]
    if len(front) > 1:
        told: Any = {"lw": 5.5, "alpha": 0.8, "solid_capstyle": "round", "zorder": 1, "label": "Pareto front"}
        ax.plot([x for x, _ in front], [y for _, y in front], color=theme.faint, **told)
    labels, drawn = [], []
    for number, (name, own) in enumerate(lines.items()):
        places = [(1000 * point.tpot_s, point.per_s) for point in own]
        color, marker = theme.lines[number % len(theme.lines)], _MARKERS[number % len(_MARKERS)]
        told = {"marker": marker, "markersize": 5, "lw": 1.3, "color": color, "label": short(name, 60)}
        ax.plot([x for x, _ in places], [y for _, y in places], **told)
        labels += [Label(x, y, point.label, color) for (x, y), point in zip(places, own, strict=True)]
        drawn.append(places)
    handles, names = ax.get_legend_handles_labels()
    title = "numbers: sequences at once"
    told = {"frameon": False, "fontsize": 7.5, "title": title, "title_fontsize": 7.5, "alignment": "left"}
    figure.legend(handles[: _MOST_IN_LEGEND + 1], names[: _MOST_IN_LEGEND + 1], loc="outside lower left", **told)
    place_labels([Named(ax, labels, [*drawn, front])], size=7)
    return figure

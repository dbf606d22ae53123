"""Scores with their intervals, a panel a task; what others published is hollow and stands below the runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.report.drawing.canvas import Theme, panels, short, title
from bench.report.sheet import Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INCHES_A_ROW = 0.235
_GAP = ("", True)


def draw_scores(sections: Sequence[Section], theme: Theme) -> Figure:
    """The plot."""
    rows = [_rows(section) for section in sections]
    figure, axes = panels([0.8 + _INCHES_A_ROW * len(labels) for labels in rows])
    for section, labels, ax in zip(sections, rows, axes, strict=True):
        ax.set_title(title(section.results.title))
        for point in section.points:
            row, score = labels.index((short(point.label), point.is_published)), 100 * point.score
            if point.is_published:
                ax.plot(score, row, marker="D", markersize=4.2, mfc="none", mec=theme.published, mew=1.1, ls="none")
                continue
            low, high = (100 * end for end in point.ci95 or (point.score, point.score))
            ax.plot([low, high], [row, row], color=theme.run, lw=1.8, alpha=0.55, solid_capstyle="round")
            ax.plot(score, row, marker="o", markersize=5.2, color=theme.run, ls="none")
        if _GAP in labels:
            note: Any = {"ha": "right", "va": "center", "fontsize": 7.5, "color": theme.published}
            ax.text(99.5, labels.index(_GAP), "published by others under settings of their own", **note)
        _mark_chance(ax, section, theme)
        ax.set_yticks(range(len(labels)), [label for label, _ in labels])
        ax.set_ylim(len(labels) - 0.4, -0.7)
        ax.set_xlim(0, 100)
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x")
        ax.set_xlabel("score, %")
    return figure


def _rows(section: Section) -> list[tuple[str, bool]]:
    """Labels from top to bottom: the runs, then after a gap the systems that others published of, each once."""
    labels = [(short(point.label), point.is_published) for point in section.points]
    runs = [label for label in labels if not label[1]]
    published = dict.fromkeys(label for label in labels if label[1])
    return [*runs, _GAP, *published] if published else runs


def _mark_chance(ax: Axes, section: Section, theme: Theme) -> None:
    if section.chance:
        ax.axvline(100 * section.chance, color=theme.ink, lw=0.9, ls=(0, (2, 2.5)), alpha=0.7)
        ax.annotate(
            "chance",
            (100 * section.chance, 1),
            (3, -2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            va="top",
            fontsize=7,
        )

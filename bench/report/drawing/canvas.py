"""What all plots share: colours, style, panels under each other, and axes whose numbers are written out."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INCHES_WIDE = 7.2
_TITLE_CHARS = 62
_NEARLY_EVEN = 2.5  # where a logarithmic axis is nearly an even one, so that round numbers stand on it evenly
_STEPS = ((6, (1, 1.5, 2, 3, 5, 7)), (300, (1, 2, 5)), (1e300, (1,)))
"""The numbers of an axis, by how many times its least value the greatest is."""


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours.

    Attributes:
        lines: of things that are told apart by colour; of Okabe and Ito's palette, which the colour-blind can tell
            apart, those that show on this paper.
    """

    name: str
    ink: str
    faint: str
    run: str
    published: str
    lines: tuple[str, ...]
    paper: str = "none"


LIGHT = Theme(
    "light",
    "#1c2430",
    "#c9d1db",
    "#2563a8",
    "#b4581c",
    ("#2563a8", "#b4581c", "#0f8a6a", "#a8487f", "#8a6d00", "#3f87b5"),
)
DARK = Theme(
    "dark",
    "#e6e9ef",
    "#3d4756",
    "#7cb3f0",
    "#eba063",
    ("#7cb3f0", "#eba063", "#4fc7a5", "#e39ac4", "#e8d26a", "#a9dcf5"),
)


@contextmanager
def style(theme: Theme) -> Iterator[None]:
    """Within this context, matplotlib draws as all plots here are drawn."""
    import matplotlib as mpl

    style: Any = {  # its type would be a list of all names there are
        "font.family": ["DejaVu Sans"],
        "font.size": 8.5,
        "text.parse_math": False,  # a name with a dollar sign is a name
        "text.color": theme.ink,
        "axes.labelcolor": theme.ink,
        "axes.edgecolor": theme.faint,
        "axes.titlesize": 8.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.facecolor": "none",
        "axes.axisbelow": True,
        "figure.facecolor": theme.paper,
        "savefig.facecolor": theme.paper,
        "grid.color": theme.faint,
        "grid.linewidth": 0.6,
        "xtick.color": theme.ink,
        "ytick.color": theme.ink,
        "svg.fonttype": "path",
        "svg.hashsalt": "steelyard",
        "svg.id": "plot",
    }
    with mpl.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a letter that the font lacks is drawn as a box
        yield


def panels(heights: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """A figure with panels under each other, so many inches high."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_INCHES_WIDE, sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)
    return figure, [row[0] for row in axes]


def title(text: str) -> str:
    """A panel's title, in lines that fit."""
    return textwrap.fill(text, _TITLE_CHARS)


def short(label: str, length: int = 38) -> str:
    """A label whose middle is cut out if it is long."""
    return label if len(label) <= length else f"{label[: length // 2]}…{label[-(length // 2 - 1) :]}"


def log_axis(ax: Axes, which: Literal["x", "y"], values: Sequence[float]) -> None:
    """Make an axis logarithmic, with numbers that are written out and as many as the range of values needs."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    axis = ax.xaxis if which == "x" else ax.yaxis
    span = max(values) / min(values)
    if span < _NEARLY_EVEN:
        axis.set_major_locator(MaxNLocator(5))
    else:
        axis.set_major_locator(LogLocator(subs=next(steps for most, steps in _STEPS if span < most)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}" if x >= 1000 else f"{x:g}"))

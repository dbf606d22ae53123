"""Numbers and foreign text as a reader wants them, and the screen they go to."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

MISSING = "–"
PIPE_WIDTH = 120
LABEL_WIDTH = 13  # of the labels on the left of what `bench show` prints
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")

# C0 and C1 controls but for newline and tab; marks that turn the direction of the text after them
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Screen:
    """Where text goes: how wide it is, and whether it shows colour."""

    width: int = PIPE_WIDTH
    has_color: bool = False

    @classmethod
    def of(cls, stream: TextIO | None = None) -> Screen:
        """The screen behind a stream, stdout by default; a pipe or a file is 120 columns wide and has no colour."""
        if not (stream or sys.stdout).isatty():
            return cls()
        has_color = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        return cls(shutil.get_terminal_size((80, 24)).columns, has_color)

    def render(self, lines: Iterable[Text]) -> str:
        """Return `lines` as one string, wrapped where they are too long; with ANSI codes only where colour is shown."""
        console = Console(
            file=io.StringIO(),
            width=self.width,
            force_terminal=self.has_color,
            color_system="standard" if self.has_color else None,
            legacy_windows=False,
        )
        wrapped = [part for line in lines for part in line.wrap(console, self.width, tab_size=4) or [Text()]]
        for line in wrapped:
            line.rstrip()
        if not self.has_color:
            return "\n".join(line.plain for line in wrapped)
        with console.capture() as capture:
            for line in wrapped:
                console.print(line, no_wrap=True, overflow="ignore", crop=False, highlight=False)
        return capture.get().rstrip("\n")


def hanging(screen: Screen, head: Text, body: Text) -> list[Text]:
    """`head`, and `body` beside it, its lines wrapped and standing under each other."""
    indent = head.cell_len
    console = Console(file=io.StringIO(), width=screen.width)
    lines = body.wrap(console, max(20, min(screen.width, PIPE_WIDTH) - indent), tab_size=4)
    return [Text.assemble(" " * indent if index else head, line) for index, line in enumerate(lines)] or [head]


def pack_items(text: str, screen: Screen, indent: int) -> list[str]:
    """Break a text of items separated by ` · ` into lines, between items only."""
    lines = pack(text.split(" · "), screen, indent + len(" ·"), " · ")
    return [f"{line} ·" for line in lines[:-1]] + lines[-1:]


def pack(items: Sequence[str], screen: Screen, indent: int, separator: str) -> list[str]:
    """Put items into lines, as many into each as there is room for."""
    room = min(screen.width, PIPE_WIDTH) - indent
    lines: list[str] = []
    for item in items:
        if lines and cell_len(lines[-1]) + len(separator) + cell_len(item) <= room:
            lines[-1] += f"{separator}{item}"
        else:
            lines.append(item)
    return lines


def printable(text: object) -> str:
    """Foreign text that cannot do anything to a terminal: control characters are shown as escapes."""
    return _UNPRINTABLE.sub(lambda match: match.group().encode("unicode_escape", "replace").decode(), str(text))


def one_line(text: object) -> str:
    """Foreign text on one line."""
    return " ".join(printable(text).split())


def look_up(info: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, None where there is none."""
    value: Any = info
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def percent(share: float | None, decimals: int = 2) -> str:
    """0.3142 → `31.42`."""
    return MISSING if share is None else f"{100 * share:.{decimals}f}"


def metric_text(value: float | None, unit: object, decimals: int = 2) -> str:
    """A metric's value: in percent if its unit is a share (as in runs that name none), else the number itself."""
    if value is None or unit in (None, "share"):
        return percent(value, decimals)
    return f"{value:.4g}"


def count(number: float | None) -> str:
    """14042 → `14,042`."""
    return MISSING if number is None else f"{number:,.0f}"


def plural(number: int, noun: str) -> str:
    """`1 sample`, `14,042 samples`."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def rate(number: float | None) -> str:
    """A number a second, with three digits or more."""
    if number is None:
        return MISSING
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def duration(seconds: float | None) -> str:
    """`0.32 s`, `43.1 s`, `2.1 min`, `3.4 h`."""
    if seconds is None:
        return MISSING
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5997 else f"{seconds / 3600:.1f} h"


def memory(num_bytes: float | None) -> str:
    """`812 MiB`, `1.2 GiB`."""
    if num_bytes is None:
        return MISSING
    return f"{num_bytes / 2**20:.0f} MiB" if num_bytes < 2**30 else f"{num_bytes / 2**30:.1f} GiB"


def scaled(number: float | None, unit: str) -> str:
    """2.1e12 and `FLOP/s` → `2.10 TFLOP/s`."""
    if number is None:
        return MISSING
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g} {prefix}{unit}"
    return f"{number:.3g} {unit}"


def short_dtype(dtype: object) -> str:
    """The usual short name of a dtype."""
    known = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
    return MISSING if dtype is None else known.get(str(dtype), str(dtype))


_BACKENDS = {"vllm": "vLLM"}  # as they write themselves


def short_precision(model: Mapping[str, Any]) -> str:
    """What the weights of run.json's `model` are: `fp32`, `bf16 bnb-4bit`, `fp32 GGUF Q4_1`, `bf16 +LoRA`.

    Who computed with them stands there, too, where that was not transformers: `bf16 · vLLM 0.33.0`.
    """
    stored, backend = model.get("gguf"), model.get("backend")
    parts = [f"GGUF {stored}" if stored else None, model.get("quantization"), "+LoRA" if model.get("adapter") else None]
    name, _, version = str(backend or "").partition("+")[0].partition(" ")
    parts.append(f"· {_BACKENDS.get(name, name)} {version}" if backend else None)
    return one_line(" ".join([short_dtype(model.get("dtype")), *(str(part) for part in parts if part)]))


def quotient(number: float | None, divisor: float | None) -> float | None:
    """`number / divisor`, None where one is missing or the divisor is 0."""
    return None if number is None or not divisor else number / divisor


def align(cells: list[tuple[str, str]], separator: str) -> list[str]:
    """Pairs of numbers around a separator, each side aligned to the right; a pair of two missing ones is one dash."""
    left = max((len(a) for a, _ in cells), default=0)
    right = max((len(b) for _, b in cells), default=0)
    return [MISSING if a == b == MISSING else f"{a:>{left}}{separator}{b:>{right}}" for a, b in cells]

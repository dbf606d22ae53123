"""What `bench doctor` found."""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text

from bench.report.text import LABEL_WIDTH, Screen, hanging, one_line


def render_machine(findings: Iterable[tuple[str, str]], screen: Screen) -> str:
    """(subject, finding) lines, subjects on the left."""
    lines: list[Text] = []
    for subject, finding in findings:
        lines += hanging(screen, Text(f"{subject:{LABEL_WIDTH}}", "cyan"), Text(one_line(finding)))
    return screen.render(lines)

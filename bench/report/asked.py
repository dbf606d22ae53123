"""One sample as a model is asked it, on a screen."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from bench.asked import Asked
from bench.completer import GenerationSettings
from bench.records import Sample
from bench.report.text import LABEL_WIDTH, Screen, count, hanging, one_line, pack, printable


def render_asked(asked: Asked, screen: Screen) -> str:
    """The prompt, then its tokens with the split between context and continuation, the shots and the hashes."""
    sample, prompt = asked.sample.sample, asked.sample.prompt.text
    lines = [Text.assemble((one_line(sample.id), "bold"), f" · {asked.title}"), Text("─" * screen.width, "dim")]
    lines += [Text(line) for line in printable(prompt).split("\n")]
    lines += [Text("─" * screen.width, "dim"), Text()]
    scored = [repr(request.continuation) for request in asked.sample.requests if request.continuation]
    facts = [
        ("prompt", [f"{count(len(prompt))} characters"]),
        ("shots", [one_line(", ".join(asked.shots)) or "none"]),
        ("scored", _joined(scored)),
        ("asked for", _wishes(asked.settings)),
        ("right", _joined(_right(sample))),
        *((name, [value]) for name, value in asked.hashes.items()),
    ]
    for tokens in asked.requests[:1]:
        facts.append(("context", [f"{count(len(tokens.context))} tokens:", *_listed(tokens.context)]))
    facts += [("then", _listed(tokens.continuation)) for tokens in asked.requests if tokens.continuation]
    for label, items in facts:
        head = Text(f"{label:{LABEL_WIDTH}} ", "cyan")
        for line in pack([printable(item) for item in items], screen, LABEL_WIDTH + 1, " "):
            lines += hanging(screen, head, Text(line))
            head = Text(" " * (LABEL_WIDTH + 1))
    return screen.render(lines)


def _joined(items: Sequence[str]) -> list[str]:
    """Items with a dot after each but the last, so that lines may end there."""
    return [f"{item} ·" for item in items[:-1]] + list(items[-1:])


def _right(sample: Sample) -> list[str]:
    """The right options, or the right answers' texts."""
    labels = sample.variables.get("labels", ())
    return [f"{labels[gold]} {sample.choices[gold]!r}" for gold in sample.golds] + [
        repr(one) for one in sample.references
    ]


def _wishes(settings: GenerationSettings | None) -> list[str]:
    if settings is None:
        return []
    greedy = "greedy" if settings.temperature == 0 else f"temperature {settings.temperature:g}"
    stops = [f"stops at {', '.join(map(repr, settings.stop))}"] if settings.stop else []
    return _joined([f"at most {count(settings.max_tokens)} tokens", greedy, *stops])


def _listed(tokens: Sequence[tuple[int, str]]) -> list[str]:
    """Each token's id and text; blanks count, so nothing in it is changed, and no line ends within one."""
    return [f"{number} {text!r}" for number, text in tokens]

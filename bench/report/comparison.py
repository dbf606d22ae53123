"""Comparisons on a screen: the scores of the shared questions, then each model against the best or the baseline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from bench.comparison.compared import Compared, Comparison, Entry, Pair
from bench.report.blocks import likelihood_remark, model_names
from bench.report.grid import Column, draw_row, draw_rule, draw_titles, fit
from bench.report.tables import Footnotes
from bench.report.text import MISSING, Screen, align, count, hanging, look_up, one_line, percent, plural
from bench.stats.paired import ALPHA
from bench.stats.ranks import NUM_RESAMPLES

_MINUS = "−"
_TEST_NAMES = {
    "mcnemar": "McNemar's exact test",
    "t": "Student's t on the differences",
    "binomial": "published scores: exact binomial test",
}


def render_comparisons(compared: Compared, screen: Screen) -> str:
    """All tasks' comparisons, and below them what their columns mean."""
    comparisons = compared.tasks
    lines: list[Text] = []
    hidden: dict[str, None] = {}
    for comparison in comparisons:
        lines += [Text()] if lines else []
        drawn, dropped = _draw(comparison, screen)
        lines += drawn
        hidden |= dict.fromkeys(dropped)
    if compared.alone:
        left_out = f"left out, with one run each: {', '.join(map(one_line, compared.alone))}"
        lines += [Text(), *hanging(screen, Text(), Text(left_out))]
    lines.append(Text())
    absent = {title.removesuffix(" %") for title in hidden} - {"p"}  # p Holm is always there
    legend = [(name, text) for name, text in _legend(comparisons) if name not in absent]
    if hidden:
        legend.append(("hidden", ", ".join(hidden)))
    for name, text in legend:
        lines += hanging(screen, Text(f"{name:10}  ", "dim"), Text(text, "dim"))
    return screen.render(lines)


def _draw(comparison: Comparison, screen: Screen) -> tuple[list[Text], list[str]]:
    notes = Footnotes()
    names = [one_line(name) for name in model_names([entry.run for entry in comparison.entries])]
    lines = [*hanging(screen, Text(), _heading(comparison)), Text()]
    scores, dropped = fit(_score_columns(comparison, names, notes), screen.width)
    lines += _table(scores, len(names))
    pairs = comparison.against_reference
    if pairs:
        against = "the baseline" if comparison.has_baseline else "the best"
        head = Text.assemble("against ", (names[comparison.reference], "bold"), f", {against}")
        columns, more_dropped = fit(_pair_columns(comparison, pairs, names), screen.width)
        lines += [Text(), *hanging(screen, Text(), head), Text(), *_table(columns, len(pairs))]
        dropped += more_dropped
    if comparison.published:
        head = Text("against published scores, of which nothing but the number is known: no question is paired")
        columns, _ = fit(_published_columns(comparison, names), screen.width)
        lines += [Text(), *hanging(screen, Text(), head), Text(), *_table(columns, len(comparison.published))]
    lines += notes.draw(screen)
    if comparison.published and _is_part(comparison):
        warning = (
            f"These {plural(comparison.num_common, 'question')} are a part of the task; a published score is of all."
        )
        lines += [Text(), *hanging(screen, Text(), Text(warning, "yellow"))]
    if any(entry.settings for entry in comparison.entries):
        words = " and ".join(dict.fromkeys(name for entry in comparison.entries for name in entry.settings))
        warning = f"Unlike settings: {words}. A difference may be one of settings as much as of models."
        lines += [Text(), *hanging(screen, Text(), Text(warning, "yellow"))]
    return lines, dropped


def _heading(comparison: Comparison) -> Text:
    metrics = " or ".join(dict.fromkeys(entry.metric for entry in comparison.entries))
    parts = [metrics, f"{plural(comparison.num_common, 'question')} shared and scored by all"]
    if comparison.num_clusters is not None:
        parts.append(f"in {plural(comparison.num_clusters, 'cluster')}")
    if num_failed := comparison.num_shared - comparison.num_common:
        parts.append(f"{count(num_failed)} more failed somewhere")
    if comparison.num_left_out:
        parts.append(f"{count(comparison.num_left_out)} not put to all, left out")
    if comparison.num_differing:
        parts.append(f"{count(comparison.num_differing)} of one id but different content, left out")
    return Text.assemble((one_line(comparison.task), "bold"), " · " + " · ".join(parts))


def _table(columns: Sequence[Column], num_rows: int) -> list[Text]:
    return [draw_titles(columns), draw_rule(columns), *(draw_row(columns, index) for index in range(num_rows))]


def _score_columns(comparison: Comparison, names: Sequence[str], notes: Footnotes) -> list[Column]:
    entries = comparison.entries
    is_share = comparison.unit == "share"
    labels = [f"{name}{notes.mark(_remarks(entry))}" for name, entry in zip(names, entries, strict=True)]
    ends = [entry.ci95 or (None, None) for entry in entries]
    ranks = [entry.rank for entry in entries]
    return [
        Column("model", tuple(labels), is_number=False),
        Column(
            "score %" if is_share else "score",
            tuple(_number(entry.value, is_share, 2) for entry in entries),
            0,
            style="bold",
        ),
        Column("95 %", tuple(align([(_number(a, is_share, 1), _number(b, is_share, 1)) for a, b in ends], " – ")), 3),
        Column("rank", tuple(str(low) if low == high else f"{low} – {high}" for low, high in ranks), 1),
        Column("tied", tuple(letters(entry.groups) for entry in entries), 2, is_number=False, style="cyan"),
        Column("failed", tuple(count(entry.num_failed) if entry.num_failed else "" for entry in entries), 4),
    ]


def _pair_columns(comparison: Comparison, pairs: Sequence[Pair], names: Sequence[str]) -> list[Column]:
    is_share = comparison.unit == "share"
    found = [pair.difference for pair in pairs]
    ends = [one.ci95 or (None, None) for one in found]
    numbers = {pair.difference.num for pair in pairs}
    has_own_numbers = numbers != {comparison.num_common}  # some failed for one pair only
    return [
        Column("model", tuple(names[pair.first] for pair in pairs), is_number=False),
        Column("difference", tuple(_signed(one.value, is_share, 2) for one in found), style="bold"),
        Column("95 %", tuple(align([(_signed(a, is_share, 1), _signed(b, is_share, 1)) for a, b in ends], " to ")), 4),
        Column(
            "better : worse", tuple(align([(count(one.num_better), count(one.num_worse)) for one in found], " : ")), 5
        ),
        Column("p", tuple(_p(one.p) for one in found), 6),
        Column("p Holm", tuple(_starred(pair.p_holm) for pair in pairs)),
        Column("MDE", tuple(_number(one.mde, is_share, 1) for one in found), 3),
        Column("same %", tuple(_same(pair) for pair in pairs), 7),
        Column("κ", tuple(_kappa(pair) for pair in pairs), 8),
        Column("n", tuple(count(one.num) for one in found) if has_own_numbers else ("",) * len(found), 2),
    ]


def _published_columns(comparison: Comparison, names: Sequence[str]) -> list[Column]:
    tests = comparison.published
    ends = [test.found.ci95 or (None, None) for test in tests]
    return [
        Column("model", tuple(names[test.entry] for test in tests), is_number=False),
        Column("published", tuple(one_line(test.name) for test in tests), is_number=False),
        Column("score %", tuple(percent(test.found.published) for test in tests)),
        Column("difference", tuple(_signed(test.found.value, True, 2) for test in tests), style="bold"),
        Column("95 %", tuple(align([(_signed(a, True, 1), _signed(b, True, 1)) for a, b in ends], " to ")), 2),
        Column("p", tuple(_p(test.found.p) for test in tests), 3),
        Column("p Holm", tuple(_starred(test.p_holm) for test in tests)),
    ]


def _is_part(comparison: Comparison) -> bool:
    """Whether the task has more questions than are compared, as far as its runs say."""
    infos = [entry.run.info for entry in comparison.entries]
    num_available = max(look_up(info, "task.num_available") or 0 for info in infos)
    is_cut = any(look_up(info, key) for info in infos for key in ("task.subjects", "task.limit"))
    return is_cut or comparison.num_common < num_available


def _remarks(entry: Entry) -> Iterator[str]:
    """What a reader must know of this run's numbers."""
    info = entry.run.info
    if entry.settings:
        yield " · ".join(f"{words}: {value}" for words, value in entry.settings.items())
    if source := look_up(info, "import.source"):
        yield f"answers of {source}"
    if entry.num_no_answer:
        yield f"{plural(entry.num_no_answer, 'completion')} without an answer, which is wrong"
    if remark := likelihood_remark(entry.run):
        yield remark
    if (status := info.get("status")) != "finished":
        yield f"the run is {'still going on, or was stopped' if status == 'running' else status}"
    yield from entry.run.problems


def _legend(comparisons: Sequence[Comparison]) -> Iterator[tuple[str, str]]:
    """What the columns mean, as far as they are there."""
    pairs = [pair for comparison in comparisons for pair in comparison.pairs]
    is_clustered = any(comparison.num_clusters is not None for comparison in comparisons)
    num_tests = comparisons[0].num_tests
    yield (
        "score",
        "over the shared questions; 95 %: " + ("clustered errors, Student's t" if is_clustered else "Wilson interval"),
    )
    yield "rank", f"95 % interval over {count(NUM_RESAMPLES)} resamples of the questions"
    if any(len(comparison.entries) > 1 and not comparison.has_baseline for comparison in comparisons):
        yield "tied", "models with a letter in common do not differ significantly (p Holm ≥ 0.05)"
    if pairs:
        yield "difference", "points; better : worse: questions that only this model, or only the other, gets right"
    yield "p", f"{name_tests(comparisons)}; p Holm: adjusted for {plural(num_tests, 'test')}; *: below 0.05"
    if pairs:
        yield "MDE", "smallest true difference that these questions would show with 80 % probability"
    if any(pair.has_answers for pair in pairs):
        yield "same", "questions given the same answer, of those both answered; κ: Cohen's, 0 for as often as by chance"
    if any(pair.agreement and not pair.has_answers for pair in pairs):
        yield "same", "where answers are not recorded: both right or both wrong"


def name_tests(comparisons: Sequence[Comparison]) -> str:
    """The tests that were made, in words."""
    tests = {pair.difference.test for comparison in comparisons for pair in comparison.pairs}
    tests |= {test.found.test for comparison in comparisons for test in comparison.published}
    return "; ".join(name for test, name in _TEST_NAMES.items() if test in tests)


def letters(groups: Sequence[int]) -> str:
    """Tied groups as a table has them: `a b`."""
    return " ".join(chr(ord("a") + number) if number < 26 else str(number + 1) for number in groups)


def _number(value: float | None, is_share: bool, decimals: int) -> str:
    if value is None:
        return MISSING
    return percent(value, decimals) if is_share else f"{value:.{decimals + 2}g}"


def _signed(value: float | None, is_share: bool, decimals: int) -> str:
    if value is None:
        return MISSING
    text = f"{100 * value:+.{decimals}f}" if is_share else f"{value:+.{decimals + 2}g}"
    return text.replace("-", _MINUS)


def _p(value: float) -> str:
    return "<0.0001" if value < 0.0001 else f"{value:.4f}"


def _starred(p: float) -> str:
    return f"{_p(p)} {'*' if p < ALPHA else ' '}"


def _same(pair: Pair) -> str:
    return MISSING if pair.agreement is None else percent(pair.agreement.share, 0)


def _kappa(pair: Pair) -> str:
    kappa = pair.agreement.kappa if pair.agreement else None
    return MISSING if kappa is None else f"{kappa:.2f}".replace("-", _MINUS)

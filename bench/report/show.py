"""One run in full: its numbers, where they come from, what they cost and how fast they could have been."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.text import Text

from bench.report.blocks import describe_task, is_pll
from bench.report.power import describe_power
from bench.report.text import (
    LABEL_WIDTH,
    MISSING,
    Screen,
    count,
    duration,
    hanging,
    look_up,
    memory,
    metric_text,
    one_line,
    pack_items,
    percent,
    plural,
    quotient,
    rate,
    scaled,
)
from bench.runs.reading import Run

_NUM_ERRORS_SHOWN = 5


def render_run(run: Run, screen: Screen) -> str:
    """Everything a run folder says of its run: numbers, provenance, settings, time and how fast it could have been."""
    status = one_line(run.info.get("status", "unknown"))
    name = one_line(look_up(run.info, "model.name") or run.path.name)
    lines = hanging(screen, Text(), Text.assemble((name, "bold"), f" · {describe_task(run)}"))
    lines += hanging(screen, Text(), Text(f"{one_line(run.path)}  ({status})", "dim"))
    for part in (_results, _what, _effort, _where, _remarks):
        facts = [(label, text) for label, text in part(run) if text]
        lines += [Text()] if facts else []
        for label, text in facts:
            head, *more = pack_items(one_line(text), screen, LABEL_WIDTH)
            lines += hanging(screen, Text(f"{label:{LABEL_WIDTH - 1}} ", "cyan"), Text(head))
            for line in more:
                lines += hanging(screen, Text(" " * LABEL_WIDTH), Text(line))
    return screen.render(lines)


def _results(run: Run) -> Iterator[tuple[str, str | None]]:
    for name, part in (run.info.get("metrics") or {}).items():
        yield (
            name,
            _joined(
                _with_stderr(part, part.get("unit")),
                _interval(part.get("ci95"), part.get("unit")),
                "by PLL" if is_pll(run) else None,
                f"{count(part.get('num_scored'))} samples ({part.get('average')})",
                f"chance {percent(part.get('chance'), 0)} %" if part.get("chance") is not None else None,
                *_counts(part),
            ),
        )
        macro = look_up(run.info, f"macro.{name}") or {}
        if macro.get("value") is not None:
            yield "", f"macro {_with_stderr(macro, part.get('unit'))} over {count(macro.get('num_subjects'))} subjects"


def _counts(part: Mapping[str, Any]) -> list[str]:
    names = {
        "num_failed": "failed",
        "num_no_answer": "without an answer",
        "num_cut_off": "cut off",
        "num_refused": "refused",
        "num_truncated": "shortened",
        "num_fewer_shots": "with fewer shots",
        "num_ties": "tied",
    }
    return [f"{count(part[key])} {name}" for key, name in names.items() if part.get(key)]


def _what(run: Run) -> Iterator[tuple[str, str | None]]:
    def get(path: str) -> Any:
        return look_up(run.info, path)

    facts = {
        "model": _joined(
            get("model.source"),
            _labelled("kind", get("model.kind")),
            _labelled("revision", get("model.revision")),
            _parameters(get("model.num_parameters")),
            get("model.dtype"),
            get("model.quantization"),
            _labelled("GGUF", get("model.gguf")),
            _labelled("fingerprint", get("model.fingerprint"), 16),
        ),
        "answers": _joined(
            get("import.source"),
            get("import.licence"),
            get("import.settings"),
            _labelled("read as", get("import.format")),
            _labelled("sha256", get("import.sha256"), 16),
        ),
        "adapter": _joined(
            get("model.adapter.source"),
            _labelled("revision", get("model.adapter.revision")),
            _labelled("made for", get("model.adapter.base")),
            _labelled("fingerprint", get("model.adapter.fingerprint"), 16),
        ),
        "task": _joined(get("task.title"), _labelled("version", get("task.version")), get("task.licence")),
        "data": _joined(
            get("task.data.origin"),
            _labelled("revision", get("task.data.revision")),
            _labelled("sha256", get("task.data.sha256"), 16),
        ),
        "prompts": _labelled("hash", get("task.prompt_hash"), 16),
        "engine": _joined(*_flat(get("engine") or {})),
        "settings": None if get("import") else _joined(*_flat(get("config") or {})),
        "identity": get("identity"),
    }
    yield from facts.items()


def _effort(run: Run) -> Iterator[tuple[str, str | None]]:
    yield from _tokens(run)
    timing: Mapping[str, Any] = run.info.get("timing") or {}
    sittings = run.info.get("num_sittings") or 1
    parts = [f"{name.removesuffix('_s').replace('_', ' ')} {duration(value)}" for name, value in timing.items()]
    yield "time", _joined(*parts, f"over {sittings} sittings" if sittings > 1 and parts else None)
    seconds, distinct = timing.get("score_s"), look_up(run.info, "tokens.distinct")
    written = look_up(run.info, "tokens.completion")
    num_scored = [part.get("num_scored") for part in (run.info.get("metrics") or {}).values()][:1]
    if seconds and (distinct or written):
        tokens = f"{rate(distinct / seconds)} distinct" if distinct else f"{rate(written / seconds)} written"
        per_question = [f"{rate(quotient(number, seconds))} questions/s" for number in num_scored]
        yield "speed", _joined(f"{tokens} tokens/s", *per_question)
    yield "floor", _floor(run.info.get("floor") or {}, seconds)
    peak, total = run.info.get("peak_memory_bytes"), look_up(run.info, "environment.memory_bytes")
    if peak:
        yield "memory", f"peak {memory(peak)}" + (f" of {memory(total)}" if total else "")
    yield from describe_power(run)


def _tokens(run: Run) -> Iterator[tuple[str, str]]:
    tokens, requests, packs = (run.info.get(key) or {} for key in ("tokens", "requests", "packs"))
    if distinct := tokens.get("distinct"):
        logical, forwarded = tokens.get("logical"), tokens.get("forwarded")
        fewer = f"{count(distinct)} distinct" + (f" ({logical / distinct:.1f} times fewer)" if logical else "")
        more = f" ({percent(forwarded / distinct - 1, 1)} % more)" if forwarded else ""
        yield "tokens", _joined(f"{count(logical)} logical", fewer, f"{count(forwarded)} forwarded{more}")
    if written := tokens.get("completion"):
        parts = [f"{count(tokens[name])} {name}" for name in ("cached", "reasoning") if tokens.get(name)]
        yield "tokens", _joined(f"{count(tokens.get('prompt'))} read", f"{count(written)} written", *parts)
    num_sequences, max_rows = requests.get("num_sequences"), packs.get("max_rows")
    if requests.get("num"):
        yield "requests", count(requests["num"]) + (f" in {count(num_sequences)} sequences" if num_sequences else "")
    if packs.get("num"):
        rows = f" and {count(max_rows)} rows" if max_rows else ""
        yield "packs", f"{count(packs['num'])} of at most {count(packs.get('max_batch_tokens'))} tokens{rows}"


def _floor(floor: Mapping[str, Any], seconds: float | None) -> str | None:
    if floor.get("floor_s") is None:
        return None
    attention = quotient(floor.get("attention_flops"), floor.get("flops"))
    share, flops = floor.get("share"), scaled(floor.get("flops"), "FLOP")
    ends = [floor.get(f"matmul_flops_per_s_{end}") for end in ("lowest", "highest")]
    spread = "measured from " + " to ".join(scaled(end, "FLOP/s") for end in ends)
    return _joined(
        f"{duration(floor['floor_s'])} at the least",
        f"{flops} at {scaled(floor.get('matmul_flops_per_s'), 'FLOP/s')}",
        spread if all(ends) else None,
        f"attention is {percent(attention, 0)} % of it" if attention else None,
        f"scoring took {duration(seconds)}" + (f": {percent(share, 0)} %" if share else ""),
    )


_MACHINE_KEYS = ("gpu", "driver", "cpu", "num_threads", "num_cpus", "platform", "memory_bytes", "commit", "is_dirty")


def _where(run: Run) -> Iterator[tuple[str, str | None]]:
    place: Mapping[str, Any] = run.info.get("environment") or {}
    commit = _labelled("commit", place.get("commit"), 12)
    dirty = " with uncommitted changes" if place.get("is_dirty") else ""
    started, finished = run.info.get("started_at"), run.info.get("finished_at")
    facts = {
        "machine": _joined(
            place.get("gpu"),
            _labelled("driver", place.get("driver")),
            place.get("cpu"),
            plural(place["num_cpus"], "core") if place.get("num_cpus") else None,
            plural(place["num_threads"], "thread") if place.get("num_threads") else None,
            place.get("platform"),
        ),
        "software": _joined(
            _labelled("Steelyard", run.info.get("steelyard_version")),
            *_flat({key: value for key, value in place.items() if key not in _MACHINE_KEYS}),
            commit and commit + dirty,
        ),
        "when": started and (f"{started} to {finished}" if finished else f"since {started}"),
    }
    yield from facts.items()


def _remarks(run: Run) -> Iterator[tuple[str, str | None]]:
    yield "reason", run.info.get("reason")
    for problem in run.problems:
        yield "problem", problem
    if num_damaged := run.info.get("num_damaged_lines"):
        yield (
            "repaired",
            f"damaged lines dropped from the journal and scored again: {count(num_damaged)}",
        )
    for note in run.info.get("notes") or ():
        yield "note", note
    yield "verify", _joined(*_flat(run.info.get("verify") or {}))
    failed = [score for score in run.scores if score.error is not None]
    for score in failed[:_NUM_ERRORS_SHOWN]:
        yield "error", f"{score.id}: {score.error}"
    if len(failed) > _NUM_ERRORS_SHOWN:
        yield "", f"and {count(len(failed) - _NUM_ERRORS_SHOWN)} more errors in samples.jsonl"


def _with_stderr(part: Mapping[str, Any], unit: object) -> str:
    texts = [metric_text(part[key], unit) for key in ("value", "stderr") if part.get(key) is not None]
    return " ± ".join(texts or [MISSING]) + (" %" if unit in (None, "share") else "")


def _interval(ends: Sequence[float] | None, unit: object) -> str | None:
    return None if ends is None else "95 % " + " – ".join(metric_text(end, unit, 1) for end in ends)


def _labelled(label: str, value: object, length: int | None = None) -> str | None:
    return None if value is None else f"{label} {str(value)[:length]}"


def _parameters(number: float | None) -> str | None:
    if number is None:
        return None
    return f"{number / 1e9:.2f} B parameters" if number >= 1e9 else f"{number / 1e6:.1f} M parameters"


def _joined(*parts: object) -> str:
    return " · ".join(str(part) for part in parts if part)


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """`key value` for every leaf of nested mappings and lists; what is None or empty is left out."""
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{prefix}{key}.")
        elif isinstance(inner, list) and any(isinstance(item, Mapping) for item in inner):
            names = [key] if len(inner) == 1 else [f"{key}.{number}" for number in range(1, len(inner) + 1)]
            yield from _flat(dict(zip(names, inner, strict=True)), prefix)
        elif isinstance(inner, list):
            yield from [f"{prefix}{key} {', '.join(map(str, inner))}"] if inner else []
        elif inner is not None:
            yield f"{prefix}{key} {inner:.3g}" if isinstance(inner, float) else f"{prefix}{key} {inner}"

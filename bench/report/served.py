"""What speed runs measured of servers and APIs: a row a load."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from bench.report.grid import Column
from bench.report.text import MISSING, count, look_up, one_line, percent, plural, rate
from bench.speed.figures import describe_goodput, read_taken
from bench.speed.spec import Objective

SERVED_LEGEND = (
    "load: requests always under way, or requests a second at random moments (/s). Times are medians, and p99 beside "
    "them: TTFT from sending to the first piece of text, TPOT of each token after it, ITL between two pieces, in ms; "
    "latency to the last piece, in s. tokens/s and req/s: written and answered between the first request and the last "
    "answer; goodput: of these requests/s, those within the objective."
)
_LATE_S = 0.01  # beyond which it is the client that is measured
_FULL = 0.98  # of the tokens asked for; below it, completions are shorter than asked
_MOST_CONNECTIONS = 1000  # of the SDKs; what is beyond them waits in the client

_NAMES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "latency_s": "latency"}


def served_columns(infos: Sequence[Mapping[str, Any]], points: Sequence[Mapping[str, Any]]) -> list[Column]:
    """The columns of the table of loads.

    Args:
        infos: run.json of each row's run.
        points: each row's point.
    """

    def column(title: str, drop: int, cell: Callable[[Mapping[str, Any]], str]) -> Column:
        return Column(title, tuple(map(cell, points)), drop)

    def time(key: str, share: int, unit: float) -> Callable[[Mapping[str, Any]], str]:
        return lambda point: MISSING if point[key] is None else rate(point[key][f"p{share}"] * unit)

    return [
        Column("model", tuple(one_line(look_up(info, "model.name")) for info in infos), 0, is_number=False),
        column("load", 0, lambda point: load_text(point["load"])),
        column("TTFT", 0, time("ttft_s", 50, 1000)),
        column("p99", 4, time("ttft_s", 99, 1000)),
        column("TPOT", 0, time("tpot_s", 50, 1000)),
        column("p99", 5, time("tpot_s", 99, 1000)),
        column("ITL", 6, time("itl_s", 50, 1000)),
        column("p99", 7, time("itl_s", 99, 1000)),
        column("latency", 1, time("latency_s", 50, 1)),
        column("p99", 8, time("latency_s", 99, 1)),
        column("tokens/s", 0, lambda point: rate(point["tokens_per_s"])),
        column("req/s", 2, lambda point: rate(point["requests_per_s"])),
        column("goodput", 1, lambda point: rate(look_up(point, "goodput.requests_per_s"))),
        column("failed", 3, lambda point: count(sum(point["failures"].values())) if point["failures"] else ""),
    ]


def load_text(load: Mapping[str, float]) -> str:
    """`16`, or `2.5/s`."""
    return count(load["concurrency"]) if "concurrency" in load else f"{load['request_rate_per_s']:g}/s"


def _objective(info: Mapping[str, Any]) -> Objective:
    """What the plan last asked for: points may be older, and are judged by it again."""
    return Objective.model_validate(look_up(info, "config.speed.served.objective") or {})


def judged(info: Mapping[str, Any], points: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Points with the goodput of loads by the objective that the plan last had, which asks nothing again."""
    for point in points:
        if point["phase"] == "served":
            taken = [read_taken(one) for one in point["requests"]]
            yield {**point, "goodput": describe_goodput(taken, _objective(info), point["duration_s"])}
        else:
            yield point


def remarks_on_served(info: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What a reader of the loads' figures must know, the service first."""
    model, spec = info["model"], look_up(info, "config.speed.served")
    yield f"{model['provider']} at {model['base_url']}{f'; {_lengths(points)}' if points else ''}"
    asked = _objective(info).model_dump(exclude_none=True)
    words = ", ".join(f"{_NAMES[name]} {limit:g} s" for name, limit in asked.items())
    yield f"goodput's objective: {words}" if asked else "no goodput: the plan has no objective (speed.served.objective)"
    loads: dict[str, list[str]] = {}
    for point in points:
        for text in _of_point(point):
            loads.setdefault(text, []).append(load_text(point["load"]))
    yield from (f"at {', '.join(where)}: {text}" for text, where in loads.items())
    yield from _behind(points)
    costs = [point["cost_usd"] for point in points if point["cost_usd"] is not None]
    if any(costs):
        yield f"cost {sum(costs):.4f} USD, warm-up included; price by {model['price']}"
    if spec["warm_up_requests"] == 0:
        yield "no warm-up: first requests open their connections while they are timed"


def _lengths(points: Sequence[Mapping[str, Any]]) -> str:
    """Tokens of prompts and completions, as counted."""
    parts = []
    for key, noun in (("prompt", "prompts"), ("completion", "completions")):
        means = [point["tokens"][key] / point["num_answered"] for point in points if point["tokens"][key] is not None]
        if means:
            ends = sorted({round(min(means)), round(max(means))})
            parts.append(f"{noun} of {' to '.join(map(count, ends))} tokens on average")
    return ", ".join(parts) or "nobody says how many tokens there were"


def _of_point(point: Mapping[str, Any]) -> Iterator[str]:
    """What must be known of one point."""
    if point["failures"]:
        kinds = ", ".join(f"{num} {kind} ({point['why_failed'][kind]})" for kind, num in point["failures"].items())
        yield f"{sum(point['failures'].values())} of {plural(point['num_requests'], 'request')} failed: {kinds}"
    tokens = point["tokens"]
    num_written = tokens["completion"]
    if num_written is not None and num_written < _FULL * point["completion_tokens"] * point["num_answered"]:
        yield f"completions are shorter than the {count(point['completion_tokens'])} tokens asked for"
    if num_written is not None and point["num_pieces"] < _FULL * (num_written - tokens["reasoning"]):
        yield f"{num_written / point['num_pieces']:.1f} tokens a piece, so ITL is between pieces and not tokens"
    if tokens["cached"]:
        share = percent(tokens["cached"] / tokens["prompt"], 0)
        yield f"{share} % of prompt tokens came from the provider's cache, though prompts begin differently"
    if tokens["reasoning"]:
        yield f"{count(tokens['reasoning'])} tokens of reasoning are among those written"
    yield from (f"{key} not measured: {why}" for key, why in point["not_measured"].items())
    if (most := point["most_under_way"]) > _MOST_CONNECTIONS:
        yield f"{count(most)} requests under way, and SDKs keep those beyond {_MOST_CONNECTIONS:,} back"


def _behind(points: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Where the client was too busy to be a good clock."""
    late = {load_text(one["load"]): (one["late_s"]["p99"], (one["lag_s"] or {}).get("p99", 0.0)) for one in points}
    late = {load: seconds for load, seconds in late.items() if max(seconds) > _LATE_S}
    if late:
        sent, noted = (rate(1000 * max(column)) for column in zip(*late.values(), strict=True))
        yield (
            f"at {', '.join(late)}: the client itself fell behind: p99 of how late requests were sent up to {sent} ms, "
            f"of how late pieces were noted up to {noted} ms"
        )

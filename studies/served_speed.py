"""Does `bench speed` find the delays that a server was programmed with? And does another client find the same?

A server on the loopback interface, in a process of its own, sends the first piece of an answer after a known time and
the others at known distances; every fourth answer begins late. TTFT, ITL, TPOT, latency, throughput and goodput must
come out within 2 % of what follows from that, at fixed numbers of requests under way and at random moments, through
each official SDK, and with several tokens in a piece. With `--peer COMMAND`, aiperf (https://github.com/ai-dynamo/aiperf)
measures such a server in turn with `bench speed`, and both must agree within 5 %.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from common import model_folder, positive_int, publish, run_study, table, verdict
from loopback import KEY, ApiServer, Said, Tempo, hear, loopback

from bench.errors import ScoringError
from bench.plan import resolve_plan
from bench.runner import Silence
from bench.speed.folder import read_points
from bench.speed.load import arrivals
from bench.speed.runner import run_speed
from bench.stats.medians import quantile

_NUM_TOKENS = 16
_FIRST_S, _LATE_FIRST_S, _GAP_S = 2.0, 4.0, 0.1
_SPREAD_S = 0.5  # first pieces come so far apart, as a real server's do: equal delays would keep requests in step
_EVERY = 4  # of so many requests, the last begins late
_OBJECTIVE_S = 3.0  # of TTFT: those that begin late do not meet it
_PER_PIECE = 4
_OWN_GOAL, _PEER_GOAL = 0.02, 0.05
_PEER_CONCURRENCY = 8
_PATIENCE_S = 600


@dataclass(frozen=True, slots=True)
class Check:
    """One figure: what was programmed, or found by another, and what `bench speed` found."""

    point: str
    figure: str
    expected: float
    found: float

    @property
    def difference(self) -> float:
        """Of what was found, as a share of what was expected."""
        return self.found / self.expected - 1


def _is_late(number: int) -> bool:
    return number % _EVERY == _EVERY - 1


def _first_s(number: int) -> float:
    """When the first piece of a request's answer is sent: around one of two moments, evenly spread."""
    return (_LATE_FIRST_S if _is_late(number) else _FIRST_S) + _SPREAD_S * (number * 0.618034 % 1 - 0.5)


def _stream(per_piece: int, has_late: bool, server: ApiServer) -> None:
    """Program the server; the number of a request stands before the colon of its prompt."""
    server.key = None
    server.answer = lambda _: Said(" ".join(["word"] * _NUM_TOKENS), "length", num_tokens=_NUM_TOKENS)

    def tempo(prompt: str) -> Tempo:
        found = re.search(r"-(\d+): ", prompt) if has_late else None
        return Tempo(_first_s(int(found[1])) if found else _FIRST_S, _GAP_S, per_piece)

    server.tempo = tempo


def _measure(address: str, provider: str, **served: Any) -> list[dict[str, Any]]:
    """The points of `bench speed`."""
    base_url = address + ("/v1" if provider in ("openai", "vllm") else "")
    speed = {"prompt_tokens": 64, "completion_tokens": _NUM_TOKENS, "objective": {"ttft_s": _OBJECTIVE_S}, **served}
    with tempfile.TemporaryDirectory() as folder:
        data = {
            "models": [{"source": f"{provider}:programmed", "api": {"base_url": base_url}}],
            "tasks": ["pocket"],
            "speed": {"served": {"request_rates": [], **speed}},
            "out": folder,
        }
        (outcome,) = run_speed(resolve_plan(data, (), "studies/served_speed.py"), Silence())
        if outcome.error is not None or outcome.path is None:
            raise ScoringError(f"{provider}: {outcome.error}")
        return list(read_points(outcome.path).values())


def _ideal_s(load: Mapping[str, float], num: int, service_s: Callable[[int], float]) -> float:
    """How long a load takes if nothing but the programmed delays takes time."""
    if "request_rate_per_s" in load:
        moments = islice(arrivals(load["request_rate_per_s"], 0), num)
        return max(moment + service_s(number) for number, moment in enumerate(moments))
    ends = [0.0] * int(load["concurrency"])
    for number in range(num):
        heapq.heappush(ends, heapq.heappop(ends) + service_s(number))
    return max(ends)


def _checks(title: str, point: Mapping[str, Any], per_piece: int) -> list[Check]:
    """What was programmed beside what was found."""
    num, gaps = point["num_requests"], (_NUM_TOKENS - 1) // per_piece
    rest_s = gaps * _GAP_S
    firsts = [_first_s(number) for number in range(num)]
    duration_s = _ideal_s(point["load"], num, lambda number: firsts[number] + rest_s)
    num_good = sum(not _is_late(number) for number in range(num))
    expected = {
        "TTFT p50, s": (quantile(firsts, 0.5), point["ttft_s"]["p50"]),
        "TTFT p90, s": (quantile(firsts, 0.9), point["ttft_s"]["p90"]),
        "ITL p50, s": (_GAP_S, point["itl_s"]["p50"]),
        "TPOT p50, s": (rest_s / (_NUM_TOKENS - 1), point["tpot_s"]["p50"]),
        "latency p50, s": (quantile(firsts, 0.5) + rest_s, point["latency_s"]["p50"]),
        "tokens/s": (num * _NUM_TOKENS / duration_s, point["tokens_per_s"]),
        "goodput, requests/s": (num_good / duration_s, point["goodput"]["requests_per_s"]),
    }
    return [Check(title, figure, *pair) for figure, pair in expected.items()]


def programmed(options: argparse.Namespace) -> list[Check]:
    """Measure servers that are programmed, one after the other."""
    num = options.requests
    loads: list[tuple[str, int, dict[str, Any]]] = [
        ("openai", 1, {"concurrencies": [4, 8], "request_rates": [3.0]}),
        ("anthropic", 1, {"concurrencies": [8]}),
        ("gemini", 1, {"concurrencies": [8]}),
        ("openai", _PER_PIECE, {"concurrencies": [8]}),
    ]
    checks = []
    for provider, per_piece, served in loads:
        print(f"{provider}, {per_piece} tokens a piece ...", file=sys.stderr)
        with loopback(partial(_stream, per_piece, True)) as pipe:
            points = _measure(hear(pipe), provider, num_requests=num, **served)
            pipe.send(None)
        for point in points:
            how = ", ".join(f"{name.partition('_per')[0]} {value:g}" for name, value in point["load"].items())
            several = f", {per_piece} tokens a piece" if per_piece > 1 else ""
            checks += _checks(f"{provider}, {how}{several}", point, per_piece)
    return checks


def _ours(address: str, num: int) -> dict[str, float]:
    (point,) = _measure(address, "vllm", num_requests=num, concurrencies=[_PEER_CONCURRENCY], warm_up_requests=8)
    return {
        "TTFT p50, s": point["ttft_s"]["p50"],
        "TPOT p50, s": point["tpot_s"]["p50"],
        "latency p50, s": point["latency_s"]["p50"],
        "tokens/s": point["tokens_per_s"],
        "requests/s": point["requests_per_s"],
    }


def _theirs(command: str, address: str, num: int) -> dict[str, float]:
    """The same by aiperf, whose inter-token latency is what others call TPOT."""
    with tempfile.TemporaryDirectory() as folder:
        words = [
            command,
            "profile",
            "--model",
            "programmed",
            "--url",
            address,
            "--endpoint-type",
            "chat",
            "--streaming",
        ]
        words += ["--use-server-token-count", "--tokenizer", str(model_folder("embedded")), "--isl", "64"]
        words += ["--osl", str(_NUM_TOKENS), "--concurrency", str(_PEER_CONCURRENCY), "--request-count", str(num)]
        words += ["--warmup-request-count", "8", "--ui", "none", "--no-server-metrics", "--no-gpu-telemetry"]
        done = subprocess.run(
            [*words, "--artifact-dir", folder], capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
        file = Path(folder) / "profile_export_aiperf.json"
        if not file.is_file():
            raise ScoringError(f"{command} left no result: {done.stderr.strip()[-300:] or done.stdout.strip()[-300:]}")
        found = json.loads(file.read_text())
    return {
        "TTFT p50, s": found["time_to_first_token"]["p50"] / 1000,
        "TPOT p50, s": found["inter_token_latency"]["p50"] / 1000,
        "latency p50, s": found["request_latency"]["p50"] / 1000,
        "tokens/s": found["output_token_throughput"]["avg"],
        "requests/s": found["request_throughput"]["avg"],
    }


def beside_peer(options: argparse.Namespace) -> list[Check]:
    """Both clients on one server, in turn, each first every other time."""
    ours: list[dict[str, float]] = []
    theirs: list[dict[str, float]] = []
    with loopback(partial(_stream, 1, False)) as pipe:
        address = hear(pipe)
        for number in range(options.rounds):
            steps: list[Callable[[], None]] = [
                lambda: ours.append(_ours(address, options.requests)),
                lambda: theirs.append(_theirs(options.peer, address, options.requests)),
            ]
            for step in steps if number % 2 == 0 else steps[::-1]:
                step()
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
        pipe.send(None)

    def median(runs: Sequence[Mapping[str, float]], figure: str) -> float:
        return statistics.median(run[figure] for run in runs)

    return [Check("aiperf", figure, median(theirs, figure), median(ours, figure)) for figure in ours[0]]


def _rows(checks: Sequence[Check]) -> list[list[str]]:
    return [
        [check.point, check.figure, f"{check.expected:.4g}", f"{check.found:.4g}", f"{100 * check.difference:+.2f} %"]
        for check in checks
    ]


def study(options: argparse.Namespace) -> int:
    """Measure and publish."""
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"):
        os.environ[name] = KEY
    checks = programmed(options)
    goals = {f"within {_OWN_GOAL:.0%} of what was programmed": _are_within(checks, _OWN_GOAL)}
    lines = [
        "# Servers: programmed delays, found again",
        "",
        f"{options.requests} requests a point, {_NUM_TOKENS} tokens each; the first piece after {_FIRST_S:g} s (every "
        f"{_EVERY}th: {_LATE_FIRST_S:g} s), spread over {_SPREAD_S:g} s, one every {_GAP_S:g} s after it; goodput: "
        f"TTFT within {_OBJECTIVE_S:g} s. The server is another process of the same machine. Expected tokens/s and "
        "goodput are those of the load if nothing but the delays took time.",
        "",
        *table(["point", "figure", "programmed", "found", "difference"], _rows(checks)),
        "",
    ]
    beside = beside_peer(options) if options.peer else []
    if beside:
        goals[f"within {_PEER_GOAL:.0%} of aiperf on the same server"] = _are_within(beside, _PEER_GOAL)
        lines += [
            f"Beside aiperf, {_PEER_CONCURRENCY} requests at once, {options.rounds} runs of each in turn, medians:",
            "",
            *table(["client", "figure", "aiperf", "bench speed", "difference"], _rows(beside)),
            "",
        ]
    result = {"checks": [_published(check) for check in [*checks, *beside]], "goals": goals}
    publish(options, "served_speed", result, [*lines, *verdict(goals)])
    return 0 if all(goals.values()) else 1


def _are_within(checks: Sequence[Check], share: float) -> bool:
    return all(abs(check.difference) <= share for check in checks)


def _published(check: Check) -> dict[str, Any]:
    return {"point": check.point, "figure": check.figure, "expected": check.expected, "found": check.found}


def main() -> int:
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=positive_int, default=32, metavar="N", help="of each point")
    parser.add_argument("--peer", metavar="COMMAND", help="aiperf's command, such as ~/aiperf/bin/aiperf")
    parser.add_argument("--rounds", type=positive_int, default=3, metavar="N", help="of both clients, in turn")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "results", metavar="DIR")
    return run_study(study, parser)


if __name__ == "__main__":
    sys.exit(main())

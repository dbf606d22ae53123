"""Measures points with a loaded model: times, the floor beside them, memory and energy."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bench.engine.estimate import Cost
from bench.errors import ModelInputError
from bench.session import Session
from bench.speed.points import Point, Work, count_work
from bench.speed.repeating import Repeats, repeat, summarise
from bench.speed.spec import SpeedSpec
from bench.speed.steps import Stepper, weight_bytes
from bench.telemetry.bandwidth import measure_bandwidth
from bench.telemetry.matmul import MatmulProbe
from bench.telemetry.summary import sum_energy, summarise_energy
from bench.watching import describe_telemetry, start_recorder

log = logging.getLogger(__name__)

_NUM_PROBES = 3
_PROBE_TOKENS = {"cpu": 2048, "cuda": 8192}


class Meter:
    """Measures with one session's model, which is loaded when this is made."""

    def __init__(self, session: Session, spec: SpeedSpec) -> None:
        cost = session.cost
        if not isinstance(cost, Cost):
            raise ModelInputError(f"model {session.spec.name}: its kind, {session.kind.name}, decodes no text")
        start_recorder(session).close()  # for the idle power, which is taken before the model is loaded
        session.load()
        self._session = session
        self._spec = spec
        self._cost = cost
        self._stepper = Stepper(session.model, session.config.get_text_config().vocab_size)
        is_quantised = session.precision.quantization is not None
        self._weight_bytes = None if is_quantised else weight_bytes(session.model)

    def measure(self, point: Point) -> dict[str, Any]:
        """What `points.jsonl` holds of a point: rates of the machine around it, times, shares, energy."""
        session = self._session
        probe = session.probe(_PROBE_TOKENS[session.device.type])
        bandwidths: list[float] = []
        self._take_rates(probe, bandwidths)
        session.reset_peak_memory()
        recorder = start_recorder(session)
        with contextlib.closing(recorder):
            repeats = repeat(lambda: self._stepper.steps(point), self._spec)
            for moments in repeats.spans:
                recorder.count(moments[0], moments[-1])
            recorder.stop()
            telemetry, peak_bytes = describe_telemetry(session, recorder), session.peak_memory_bytes()
        self._take_rates(probe, bandwidths)
        # The highest: whatever else used the machine meanwhile made a rate lower, and a floor is the least time.
        rates = {"flops_per_s": max(probe.rates), "bytes_per_s": max(bandwidths)}
        work = count_work(point, self._cost, self._weight_bytes, self._stepper.token_bytes)
        log.info("%s: %d repeats", point.key, len(repeats.spans))
        return {
            **describe_point(point, repeats, work, rates),
            "peak_memory_bytes": peak_bytes,
            "memory": telemetry["memory"],
            "energy": _energy(telemetry, repeats, point.num_tokens),
        }

    def _take_rates(self, probe: MatmulProbe, bandwidths: list[float]) -> None:
        for _ in range(_NUM_PROBES):
            probe.measure()
        bandwidths.append(measure_bandwidth(self._session.device))


def describe_point(point: Point, repeats: Repeats, work: Work, rates: Mapping[str, float]) -> dict[str, Any]:
    """Times of a point, and what they are of what the machine can do.

    Args:
        point: the point.
        repeats: how it went.
        work: of one repeat.
        rates: `flops_per_s` of matrix products and `bytes_per_s` of memory, measured.
    """
    repeat_s = summarise(repeats.repeat_s)
    median_s = repeat_s["p50"]
    floor_s = work.floor_s(rates["flops_per_s"], rates["bytes_per_s"])
    ends = repeat_s["median_ci95"]
    return {
        "key": point.key,
        **asdict(point),
        "warm_up_s": repeats.warm_up_s,
        "repeat_s": repeat_s,
        ("ttft_s" if point.phase == "prefill" else "tpot_s"): summarise(repeats.step_s),
        "tokens_per_s": point.num_tokens / median_s,
        "tokens_per_s_ci95": None if ends is None else [point.num_tokens / end for end in reversed(ends)],
        "is_tight": repeats.is_tight,
        "flops": work.flops,
        "num_bytes": work.num_bytes,
        "matmul_flops_per_s": rates["flops_per_s"],
        "memory_bytes_per_s": rates["bytes_per_s"],
        "floor_s": floor_s,
        "share": floor_s / median_s,
        "mfu": work.flops / median_s / rates["flops_per_s"],
        "mbu": None if work.num_bytes is None else work.num_bytes / median_s / rates["bytes_per_s"],
    }


def _energy(telemetry: Mapping[str, Any], repeats: Repeats, num_tokens: int) -> dict[str, Any]:
    counts = {"token": num_tokens * len(repeats.spans)}
    return summarise_energy(sum_energy({}, telemetry), telemetry, sum(repeats.repeat_s), counts)

"""Energy, power and devices of a run in words; what was not measured says why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.report.text import MISSING, count, duration, look_up, memory, percent, scaled
from bench.runs.reading import Run
from bench.telemetry.summary import remark_on

_PER = {
    "question": "question",
    "correct": "correct answer",
    "distinct_token": "distinct token",
    "logical_token": "logical token",
    "prompt_token": "prompt token",
    "completion_token": "completion token",
}


def joules(number: float | None) -> str:
    """`0.32 J`, `43.1 J`, `12.3 kJ`."""
    return scaled(number, "J")


def energy_cell(run: Run) -> str:
    """Joules a question, as a table has them; a dash where they were not measured."""
    per_question = look_up(run.info, "energy.per_question_j")
    return MISSING if per_question is None else joules(per_question)


def why_no_energy(run: Run) -> str | None:
    """Why a run's energy is not known; None where it is, and for runs that recorded nothing."""
    energy: Mapping[str, Any] = run.info.get("energy") or {}
    if "scope" not in energy or energy.get("total_j") is not None:
        return None
    return str((energy.get("not_measured") or {}).get(energy["scope"], "no reading"))


def device_remarks(run: Run) -> list[str]:
    """What a reader of a run's time and energy must know of its devices."""
    return remark_on(run.info.get("telemetry") or {})


def describe_power(run: Run) -> Iterator[tuple[str, str | None]]:
    """Label and text of each line on energy, power, memory and devices."""
    energy: Mapping[str, Any] = run.info.get("energy") or {}
    reason = why_no_energy(run)
    if reason is not None:
        yield "energy", f"not measured: {reason}"
    elif energy.get("total_j") is not None:
        whose = "GPU" if energy["scope"] == "gpu" else "processor"
        per = [f"{joules(energy[key])} a {text}" for name, text in _PER.items() if energy.get(key := f"per_{name}_j")]
        yield "energy", " · ".join([f"{joules(energy['total_j'])} ({whose}, while scoring)", *per])
    yield "power", _power(energy)
    telemetry: Mapping[str, Any] = run.info.get("telemetry") or {}
    yield "held", _memory(telemetry.get("memory") or {})
    for device in telemetry.get("devices") or ():
        yield "device", _device(device)
    if telemetry:
        cost = f"watching took {percent(telemetry['sampler_share_of_core'])} % of a core"
        yield (
            "watched",
            f"{duration(telemetry['cpu_s'])} of processor time in all"
            + (f" · {count(telemetry['num_readings'])} readings, {cost}" if telemetry.get("devices") else ""),
        )
    for remark in device_remarks(run):
        yield "device note", remark


def _power(energy: Mapping[str, Any]) -> str | None:
    scope = energy.get("scope")
    names = {"average_w": "average", f"{scope}_peak_w": "peak", f"{scope}_idle_w": "idle before"}
    parts = [f"{text} {energy[key]:,.0f} W" for key, text in names.items() if energy.get(key) is not None]
    other = "cpu" if scope == "gpu" else None
    if other and energy.get(f"{other}_j") is not None:
        parts.append(f"the processors used {joules(energy[f'{other}_j'])} besides")
    return " · ".join(parts) or None


def _memory(peaks: Mapping[str, Any]) -> str | None:
    names = {
        "allocated_bytes": "allocated by torch",
        "reserved_bytes": "reserved by torch",
        "rss_bytes": "of the process",
    }
    return " · ".join(f"{memory(peaks[key])} {text}" for key, text in names.items() if peaks.get(key)) or None


def _device(device: Mapping[str, Any]) -> str:
    def spread(key: str, text: str, unit: str, scale: float = 1) -> str | None:
        values: Sequence[float] | None = device.get(key)
        if values is None:
            return None
        low, mean, high = (value * scale for value in values)
        return f"{text} {mean:,.0f} {unit}" + (f" ({low:,.0f} to {high:,.0f})" if high > low else "")

    used = device.get("memory_bytes")
    parts = [
        device.get("model") or device["name"],
        f"limit {device['power_limit_w']:,.0f} W" if device.get("power_limit_w") else None,
        None if device.get("has_ecc") is None else f"ECC {'on' if device['has_ecc'] else 'off'}",
        "MIG instance" if device.get("is_mig") else None,
        spread("utilization", "busy", "%", 100),
        spread("sm_clock_mhz", "SM", "MHz"),
        spread("memory_clock_mhz", "memory", "MHz"),
        spread("temperature_c", "", "°C"),
        f"{memory(used[2])} used on it" if used else None,
        *(f"{name.rpartition('_')[0]} not measured: {why}" for name, why in device.get("missing", {}).items()),
    ]
    return " · ".join(part.strip() for part in parts if part)

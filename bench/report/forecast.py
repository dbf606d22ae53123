"""What a dry run found."""

from __future__ import annotations

from rich.text import Text

from bench.dryrun import Forecast
from bench.engine.estimate import USUAL_SHARE
from bench.report.text import LABEL_WIDTH, Screen, count, duration, hanging, memory, percent, scaled


def render_forecast(forecast: Forecast, screen: Screen) -> str:
    """One model on one task, counted and predicted."""
    fewer = forecast.num_logical / max(1, forecast.num_distinct)
    share = forecast.flops.attention / max(1, forecast.flops.total)
    distinct = count(forecast.num_distinct)
    shared = f" by {forecast.num_processes} processes" if forecast.num_processes > 1 else ""
    usual = percent(USUAL_SHARE, 0)
    rate = forecast.matmul_flops_per_s
    facts = [
        ("requests", f"{count(forecast.num_samples)} samples, {count(forecast.num_requests)} requests"),
        ("tokens", f"{count(forecast.num_logical)} logical, {distinct} distinct ({fewer:.1f} times fewer)"),
        ("packs", f"{count(forecast.num_packs)} of at most {count(forecast.max_batch_tokens)} tokens"),
        ("shortened", f"{count(forecast.num_shortened)} prompts do not fit whole" if forecast.num_shortened else ""),
        ("work", f"{scaled(forecast.flops.total, 'FLOP')}, {percent(share, 0)} % of it attention"),
        ("machine", f"{scaled(rate, 'FLOP/s')} in {forecast.precision.dtype} matrix products, measured now"),
        ("memory", _memory(forecast)),
        ("predicted", f"{duration(forecast.predicted_s)} of scoring{shared}, at the usual {usual} % of that rate"),
    ]
    lines = hanging(screen, Text(), Text.assemble((forecast.model, "bold"), f" · {forecast.task}"))
    for label, text in facts:
        if text:
            lines += hanging(screen, Text(f"{label:{LABEL_WIDTH}}", "cyan"), Text(text))
    return screen.render(lines)


def _memory(forecast: Forecast) -> str:
    need = forecast.memory
    parts = [f"{memory(need.weights_bytes)} of weights ({forecast.precision})", f"{memory(need.pack_bytes)} a pack"]
    parts += [f"{memory(need.trunk_bytes)} of shared prefix"] if need.trunk_bytes >= 2**20 else []
    fits = "" if need.total_bytes <= forecast.free_bytes else ": does not fit"
    return f"{', '.join(parts)}; {memory(forecast.free_bytes)} free on {forecast.device}{fits}"

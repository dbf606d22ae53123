"""How fast tasks are scored, on a screen: `bench speed --scoring`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.report.grid import Column
from bench.report.speed_cells import energy_cell, half_width
from bench.report.text import count, duration, look_up, memory, one_line, percent, rate, short_precision

SCORING_LEGEND = (
    "scoring: from prompts to scores, model loaded; n: questions; tokens/s: distinct ones; logical/s: of all requests, "
    "each whole; encode and plan: in threads beside scoring; idle: the model had no packs; questions/s, tokens/s and "
    "floor go by idle + score, at the median of all repeats."
)
_SPLIT = {"encode": "encode_s", "plan": "plan_s", "idle": "wait_s", "score": "score_s"}


def scoring_columns(infos: Sequence[Mapping[str, Any]], points: Sequence[Mapping[str, Any]]) -> list[Column]:
    """The columns of points with phase `scoring`; `infos` are the run.json of each."""

    def column(title: str, drop: int, cells: list[str], *, is_number: bool = True) -> Column:
        return Column(title, tuple(cells), drop, is_number)

    tasks = [point["task"] for point in points]
    return [
        column("model", 0, [one_line(look_up(info, "model.name")) for info in infos], is_number=False),
        column("weights", 9, [short_precision(info["model"]) for info in infos], is_number=False),
        column("scoring", 0, [one_line(task["title"]) for task in tasks], is_number=False),
        column("n", 1, [count(point["num_questions"]) for point in points]),
        column("questions/s", 0, [rate(point["questions_per_s"]) for point in points]),
        column("± %", 2, [half_width(point) for point in points]),
        column("tokens/s", 3, [rate(point["tokens_per_s"]) for point in points]),
        column("logical/s", 7, [rate(point["logical_tokens_per_s"]) for point in points]),
        column("floor %", 0, [percent(point["share"], 0) for point in points]),
        *(
            column(title, drop, [duration(point["split_s"][key]) for point in points])
            for (title, key), drop in zip(_SPLIT.items(), (6, 6, 5, 4), strict=True)
        ),
        column("J/question", 8, [energy_cell(point, "question") for point in points]),
        column("peak", 10, [memory(point["peak_memory_bytes"]) for point in points]),
    ]

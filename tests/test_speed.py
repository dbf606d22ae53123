"""`bench speed`: it measures what a model really does, measures nothing twice, and its runs are no scored ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from runs import Bench, only_run, read_info

from bench.errors import ModelLoadError
from bench.models.fake import fake_config, fake_model
from bench.speed import measure, runner
from bench.speed.folder import POINTS_FILE, append_point, drop_damaged_lines, read_points
from bench.speed.measure import describe_point
from bench.speed.points import Point, Work
from bench.speed.repeating import Repeats
from bench.speed.steps import Stepper, weight_bytes

SPEED: dict[str, Any] = {
    "prompt_lengths": [8],
    "batch_sizes": [1, 2],
    "contexts": [12],
    "decode_tokens": 3,
    "min_s": 0.001,
    "max_s": 0.002,
    "repeats": 6,
}
KEYS = ["prefill 1x8", "prefill 2x8", "decode 1x12+3", "decode 2x12+3"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "measure_bandwidth", lambda _: 1e10)
    monkeypatch.setitem(measure._PROBE_TOKENS, "cpu", 64)


def write_speed_plan(folder: Path, *, models: Any = None, **changes: Any) -> Path:
    plan = {
        "models": models or [{"source": "fake"}],
        "tasks": ["pocket"],
        "speed": {**SPEED, **changes},
        "out": str(folder / "results"),
    }
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan))
    return path


def test_every_point_is_measured_and_shown(cli: Bench, tmp_path: Path) -> None:
    done = cli("speed", write_speed_plan(tmp_path))
    assert done.code == 0
    info, points = read_info(only_run(tmp_path / "results")), read_points(only_run(tmp_path / "results"))
    assert (info["status"], info["lane"], info["num_points"]) == ("finished", "speed", 4)
    assert list(points) == KEYS
    for point in points.values():
        step = point["ttft_s" if point["phase"] == "prefill" else "tpot_s"]
        assert step["num"] == len(step["values"]) == point["num_steps"] * point["repeat_s"]["num"]
        assert point["repeat_s"]["num"] >= 6
        assert 0 < step["p50"] <= step["p90"] <= step["p99"]
        tokens = point["batch_size"] * (point["length"] if point["phase"] == "prefill" else 3)
        assert point["tokens_per_s"] == pytest.approx(tokens / point["repeat_s"]["p50"])
        assert point["warm_up_s"] > 0
        assert point["peak_memory_bytes"] > 2**20
        energy = point["energy"]
        assert energy["total_j"] is not None or energy["not_measured"][energy["scope"]]
    for shown in (done, cli("show", only_run(tmp_path / "results")), cli("table", tmp_path / "results")):
        rows = [line.split() for line in shown.out.splitlines() if line.startswith("fake  ")]
        assert [row[2:5] for row in rows] == [
            ["prefill", "1", "8"],
            ["prefill", "2", "8"],
            ["decode", "1", "12"],
            ["decode", "2", "12"],
        ]


def test_a_finished_sweep_is_not_measured_again_and_a_larger_one_goes_on(cli: Bench, tmp_path: Path) -> None:
    cli("speed", write_speed_plan(tmp_path))
    before = (only_run(tmp_path / "results") / POINTS_FILE).read_bytes()
    again = cli("speed", write_speed_plan(tmp_path))
    assert "nothing to measure" in again.err
    assert (only_run(tmp_path / "results") / POINTS_FILE).read_bytes() == before
    more = cli("speed", write_speed_plan(tmp_path), "--set", "speed.contexts=[12,16]")
    assert more.code == 0
    after = (only_run(tmp_path / "results") / POINTS_FILE).read_bytes()
    assert after.startswith(before)
    assert set(read_points(only_run(tmp_path / "results"))) - set(KEYS) == {"decode 1x16+3", "decode 2x16+3"}
    info = read_info(only_run(tmp_path / "results"))
    assert (info["status"], info["num_points"], info["num_sittings"]) == ("finished", 6, 2)
    assert info["config"]["speed"]["contexts"] == [12, 16]


def test_killed_amid_a_line_only_what_is_missing_is_measured(
    cli: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = runner.append_point

    def kill(path: Path, record: dict[str, Any]) -> None:
        write(path, record)
        if record["key"] == KEYS[1]:
            raise KeyboardInterrupt

    monkeypatch.setattr(runner, "append_point", kill)
    assert cli("speed", write_speed_plan(tmp_path)).code == 130
    assert read_info(only_run(tmp_path / "results"))["status"] == "running"
    journal = only_run(tmp_path / "results") / POINTS_FILE
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"key":"decode 1x12+3","pha')
    measured: list[str] = []

    def note(path: Path, record: dict[str, Any]) -> None:
        measured.append(record["key"])
        write(path, record)

    monkeypatch.setattr(runner, "append_point", note)
    assert cli("speed", write_speed_plan(tmp_path)).code == 0
    assert measured == KEYS[2:]
    assert journal.read_bytes().startswith(whole)
    assert list(read_points(journal.parent)) == KEYS
    assert read_info(only_run(tmp_path / "results"))["num_sittings"] == 2


def test_a_point_without_memory_is_no_zero_and_is_tried_again(
    cli: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Stepper.steps

    def refuse(self: Stepper, point: Point) -> list[float]:
        if point.key == KEYS[1]:
            raise torch.OutOfMemoryError("no memory")
        return steps(self, point)

    monkeypatch.setattr(Stepper, "steps", refuse)
    done = cli("speed", write_speed_plan(tmp_path))
    assert done.code == 1
    assert done.complaint == "fake · speed: 1 of 4 points were not measured: prefill 2x8: out of memory"
    assert read_info(only_run(tmp_path / "results"))["status"] == "failed"
    assert "out of memory" in done.out
    assert set(read_points(only_run(tmp_path / "results"))) == {KEYS[0], *KEYS[2:]}
    monkeypatch.setattr(Stepper, "steps", steps)
    assert cli("speed", write_speed_plan(tmp_path)).code == 0
    assert read_info(only_run(tmp_path / "results"))["status"] == "finished"


def test_a_model_that_does_not_load_has_no_figures_and_no_none(
    cli: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ModelLoadError("a weight is missing")

    monkeypatch.setattr("bench.session.Session.load", refuse)
    done = cli("speed", write_speed_plan(tmp_path))
    assert done.code == 1
    assert "nothing measured; not loaded; " in done.out
    assert "failed, a weight is missing" in " ".join(done.out.split())
    assert "None" not in done.out


def test_commands_for_scores_say_what_a_speed_run_is(cli: Bench, tmp_path: Path) -> None:
    cli("speed", write_speed_plan(tmp_path))
    for command in ("verify", "compare"):
        done = cli(command, only_run(tmp_path / "results"))
        assert done.code == 2
        assert "is a speed run and has no scores; bench show" in done.complaint
    assert "only speed runs" in cli("compare", tmp_path / "results").complaint


@pytest.mark.parametrize(
    ("speed", "complaint"),
    [
        ({"repeats": 5}, "plan.yaml:15: speed.repeats: should be greater than or equal to 6, not 5"),
        ({"contexts": []}, "speed.contexts: is empty; at least one is needed"),
        ({"batch_sizes": [1, 1]}, "speed: batch_sizes has a number twice"),
        ({"prompt_length": [1]}, "speed.prompt_length: unknown key; did you mean 'prompt_lengths'?"),
        ({"min_s": 3.0, "max_s": 2.0}, "max_s 2.0 is less than min_s 3.0"),
    ],
)
def test_a_mistake_in_the_section_is_one_line(
    cli: Bench, tmp_path: Path, speed: dict[str, Any], complaint: str
) -> None:
    done = cli("speed", write_speed_plan(tmp_path, **speed))
    assert done.code == 2
    assert complaint in done.complaint
    assert not (tmp_path / "results").exists()


def test_what_cannot_be_measured_is_refused_in_one_line(cli: Bench, tmp_path: Path) -> None:
    done = cli("speed", write_speed_plan(tmp_path, contexts=[4095]))
    assert done.code == 2
    assert "decode 1x4095+3 is 4098 tokens, and the model reads 4096" in done.complaint
    done = cli("speed", write_speed_plan(tmp_path, models=[{"source": "fake", "parallel": "tensor"}]))
    assert done.code == 2
    assert "bench speed is one process" in done.complaint


@pytest.fixture(scope="module")
def model() -> Any:
    return fake_model(fake_config())


@pytest.mark.parametrize("point", [Point("prefill", 2, 9), Point("decode", 2, 9, 4)])
def test_the_steps_are_those_that_plain_generate_takes(
    model: Any, point: Point, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    chosen: list[torch.Tensor] = []
    step = Stepper._step

    def note(self: Stepper, tokens: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
        seen.append(tuple(tokens.shape))
        following, cache = step(self, tokens, cache)
        chosen.append(following)
        return following, cache

    monkeypatch.setattr(Stepper, "_step", note)
    clock = iter(range(100))
    stepper = Stepper(model, 257, clock=lambda: float(next(clock)))
    moments = stepper.steps(point)
    assert len(moments) == point.num_steps + 1
    num_tokens = 1 + (point.num_steps if point.phase == "decode" else 0)
    assert seen == [(2, 9), *[(2, 1)] * (num_tokens - 1)]
    prompt = stepper._prompt(point)
    told = {"max_new_tokens": num_tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = model.generate(prompt, attention_mask=torch.ones_like(prompt), **told)[:, 9:]
    assert torch.cat(chosen, 1).equal(expected)
    # 4 layers × keys and values × 2 heads of 16 numbers × 4 bytes
    assert stepper.token_bytes == pytest.approx(4 * 2 * 2 * 16 * 4, rel=0.11)


def test_weights_are_counted_as_a_step_reads_them(model: Any) -> None:
    looked_up = model.get_input_embeddings().weight.nbytes
    norms = sum(weight.nbytes for weight in model.parameters() if weight.ndim == 1)
    assert weight_bytes(model) == sum(weight.nbytes for weight in model.parameters()) - looked_up - norms


def test_shares_against_numbers_by_hand() -> None:
    # 2 sequences × 2 steps: every repeat takes 0.5 s; 100 FLOP at 1,000/s, 80 bytes at 400/s: a floor of 0.2 s
    repeats = Repeats(3.0, ((0.0, 0.25, 0.5),) * 6, is_tight=True)
    found = describe_point(Point("decode", 2, 7, 2), repeats, Work(100, 80), {"flops_per_s": 1e3, "bytes_per_s": 400.0})
    expected = {"tokens_per_s": 8.0, "floor_s": 0.2, "share": 0.4, "mfu": 0.2, "mbu": 0.4, "warm_up_s": 3.0}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["tpot_s"]["p50"] == 0.25
    assert found["tpot_s"]["num"] == 12
    assert found["tokens_per_s_ci95"] == [8.0, 8.0]


def test_a_changed_line_is_not_believed(tmp_path: Path) -> None:
    for key in ("a", "b"):
        append_point(tmp_path, {"key": key, "tokens_per_s": 1.5})
    file = tmp_path / POINTS_FILE
    file.write_bytes(file.read_bytes().replace(b'"a","tokens_per_s":1.5', b'"a","tokens_per_s":9.5'))
    assert list(read_points(tmp_path)) == ["b"]
    drop_damaged_lines(tmp_path)
    assert file.read_bytes().count(b"\n") == 1

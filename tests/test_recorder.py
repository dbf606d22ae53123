"""The thread that watches: what it finds, what it costs, and that nothing of a driver can end a run."""

from __future__ import annotations

import csv
import io
import time

import pynvml
import pytest
from fake_nvml import UUID, FakeNvml, Gpu

from bench.telemetry.device import Reading
from bench.telemetry.nvml import open_gpus
from bench.telemetry.recorder import Recorder, open_devices


def record(*gpus: Gpu, idle_w: dict[str, float] | None = None) -> tuple[Recorder, FakeNvml]:
    nvml = FakeNvml(*gpus)
    devices, reason = open_gpus([gpu.uuid for gpu in gpus], nvml)
    assert reason is None
    return Recorder(devices, {}, idle_w), nvml


def busy(recorder: Recorder, seconds: float) -> float:
    """A timed span of at least so many seconds; returns how many it took."""
    began = time.perf_counter()
    time.sleep(seconds)
    ended = time.perf_counter()
    recorder.count(began, ended)
    return ended - began


def test_energy_of_the_timed_spans_only() -> None:
    recorder, nvml = record(Gpu(power_w=200.0), idle_w={})
    took_s = busy(recorder, 0.25)
    time.sleep(0.3)  # nobody's
    took_s += busy(recorder, 0.25)
    recorder.stop()
    (found,) = recorder.describe()["devices"]
    assert found["measured_s"] == pytest.approx(took_s, rel=0.3)
    assert found["energy_j"] == pytest.approx(200 * found["measured_s"], rel=0.1)
    assert found["power_integral_j"] == pytest.approx(found["energy_j"], rel=0.1)
    assert nvml.num_open == 0


def test_idle_power_is_taken_before_and_only_once() -> None:
    gpu = Gpu(power_w=70.0)
    recorder, _ = record(gpu)
    recorder.stop()
    assert recorder.idle_w == {UUID: 70.0}
    again, _ = record(Gpu(power_w=500.0), idle_w=recorder.idle_w)
    again.stop()
    assert again.describe()["devices"][0]["idle_w"] == 70.0


def test_a_gpu_lost_midway_leaves_what_was_known_and_the_others() -> None:
    first, second = Gpu(), Gpu(uuid="GPU-2")
    recorder, _ = record(first, second, idle_w={})
    busy(recorder, 0.25)
    first.refused["PowerUsage"] = pynvml.NVML_ERROR_GPU_IS_LOST
    busy(recorder, 0.35)
    recorder.stop()
    lost, other = recorder.describe()["devices"]
    assert "GPU is lost" in lost["lost"]
    assert other["lost"] is None
    assert lost["measured_s"] < other["measured_s"]


def test_a_driver_with_a_defect_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, _ = record(Gpu(), idle_w={})
    monkeypatch.setattr("bench.telemetry.nvml.NvmlGpu.read", lambda _: 1 / 0)
    time.sleep(0.25)
    recorder.stop()
    assert "ZeroDivisionError" in recorder.describe()["devices"][0]["lost"]


def test_a_slow_driver_is_asked_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(_: object) -> Reading:
        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass
        return Reading()

    monkeypatch.setattr("bench.telemetry.nvml.NvmlGpu.read", slow)
    recorder, _ = record(Gpu(), idle_w={})
    time.sleep(0.7)
    recorder.stop()
    assert recorder.describe()["num_readings"] <= 3  # the first, one by the thread, which then waits 5 s, the last


def test_readings_as_csv_stay_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.telemetry.recorder._EVERY_S", 0.002)
    monkeypatch.setattr("bench.telemetry.recorder._SHARE_OF_CORE", 1.0)
    monkeypatch.setattr("bench.telemetry.recorder._MOST_ROWS", 32)
    recorder, _ = record(Gpu(), Gpu(uuid="GPU-2"), idle_w={})
    time.sleep(0.6)
    recorder.stop()
    rows = list(csv.DictReader(io.StringIO(recorder.render_csv())))
    assert 16 < len(rows) <= 33
    assert recorder.describe()["num_readings"] > 33
    moments = [float(row["at_s"]) for row in rows if row["device"] == UUID]
    assert moments == sorted(moments)
    assert (float(rows[0]["power_w"]), float(rows[0]["sm_clock_mhz"])) == (100.0, 1980.0)


def test_without_devices_no_thread_runs_and_the_reason_is_told() -> None:
    devices, reasons = open_devices([], with_cpu=False)
    recorder = Recorder(devices, reasons)
    recorder.stop()
    found = recorder.describe()
    assert (found["devices"], found["not_measured"]) == ([], {"gpu": "no GPU is used"})
    assert found["sampler_share_of_core"] == 0.0
    assert recorder.render_csv() == ""

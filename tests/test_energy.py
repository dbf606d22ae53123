from __future__ import annotations

import pynvml
import pytest

from bench.telemetry.energy import total_energy_j

UUID = "6ab5a7b4-0d0e-4f3c-9c3e-8d0c4c6f0a11"


class Counter:
    """One GPU that has used 1,234.567 J; asked for another it answers as NVML does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, has_counter: bool = True) -> None:
        self.has_counter = has_counter
        self.num_open = 0
        monkeypatch.setattr(pynvml, "nvmlInit", self.open)
        monkeypatch.setattr(pynvml, "nvmlShutdown", self.close)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", self.handle)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", self.millijoules)

    def open(self) -> None:
        self.num_open += 1

    def close(self) -> None:
        self.num_open -= 1

    def handle(self, uuid: str) -> str:
        if uuid != f"GPU-{UUID}":
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return uuid

    def millijoules(self, handle: str) -> int:
        assert handle == f"GPU-{UUID}"
        if not self.has_counter:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return 1_234_567


@pytest.mark.parametrize("uuid", [UUID, f"GPU-{UUID}"])
def test_joules_of_the_gpu_that_was_meant(uuid: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = Counter(monkeypatch)
    assert total_energy_j(uuid) == 1234.567
    assert counter.num_open == 0


def test_what_cannot_be_read_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = Counter(monkeypatch)
    assert total_energy_j("another") is None
    counter.has_counter = False
    assert total_energy_j(UUID) is None
    assert counter.num_open == 0

    def no_driver() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_driver)
    assert total_energy_j(UUID) is None

"""Energy that a GPU has used, from the counter that it keeps itself.

NVML's total energy counter (Volta and later) adds up in the GPU what power readings only sample: `nvidia-smi` sees an
A100 or H100 a quarter of the time (arXiv 2312.02741). It is brought up to date every few tens of milliseconds, so what
is measured should last for seconds. It holds all of the board, whoever uses it.
"""

from __future__ import annotations


def total_energy_j(uuid: str) -> float | None:
    """Joules a GPU has used since its driver was loaded; None where it keeps no count or cannot be asked.

    Args:
        uuid: as torch gives it, with or without `GPU-` before it; numbers would depend on CUDA_VISIBLE_DEVICES.
    """
    import pynvml

    name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByUUID(name))) / 1000
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()

"""What this machine can do: how fast it multiplies matrices, measured, and how much memory is free."""

import os
import time
from pathlib import Path

import torch

from alibi_cli.models.loading import first_device

PROBE_SECONDS = 0.1


def speed(device: str, dtype: torch.dtype, tokens: int, width: int) -> float:
    """Operations per second of (tokens, width) x (width, 4 width), as in a block of a model: of the fastest product in a fraction of a
    second, because what else the machine does for a moment says nothing of the hours to come."""
    left = torch.randn(tokens, width, dtype=torch.float32).to(device, dtype)
    right = torch.randn(width, 4 * width, dtype=torch.float32).to(device, dtype)
    with torch.no_grad():
        _finish(left @ right)  # the first product sets things up
        until, best, n = time.monotonic() + PROBE_SECONDS, float("inf"), 0
        while n < 3 or (time.monotonic() < until and n < 1000):
            began = time.perf_counter()
            _finish(left @ right)
            best, n = min(best, time.perf_counter() - began), n + 1
    return 2.0 * tokens * width * 4 * width / max(1e-9, best)


def _finish(product: torch.Tensor) -> None:
    product[0, 0].item()  # a GPU has not computed it before


def free_memory(device: str) -> int | None:
    """Bytes that are free where a model is loaded to `device`; None where that cannot be told.

    Raises:
        AlibiError: there is no such device.
    """
    first = first_device(device)
    if first.startswith("cuda"):
        places = [first] if device == first else range(torch.cuda.device_count())  # a model may be spread over them
        return sum(torch.cuda.mem_get_info(place)[0] for place in places)
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        return int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else None
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # Windows
        return None

"""Times of two ways of doing the same, taken in turn, and what the machine could do at best."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

Work = Callable[[], object]

# A measurement lasts at least this long: shorter ones are mostly noise.
LEAST_SECONDS = 0.05
WARM_UPS = 2
CPU_FLAGS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """What the machine does in this run where nothing is in the way."""

    gemm_float32: float
    """Floating-point operations per second of a large matrix product."""
    gemm_bfloat16: float
    bandwidth: float
    """Bytes per second, read and written, of copying an array that no cache holds."""


def interleaved_medians(
    ways: tuple[Work, ...], repeats: int, device: torch.device
) -> tuple[float, ...]:
    """Median seconds of each way; the ways take turns, so that a busy machine slows all of them."""
    counts = [_calls_for(way, device) for way in ways]
    seconds: list[list[float]] = [[] for _ in ways]
    for _ in range(repeats):
        for way, count, taken in zip(ways, counts, seconds, strict=True):
            taken.append(_seconds(way, count, device) / count)
    return tuple(statistics.median(taken) for taken in seconds)


def measure_ceilings(device: torch.device, repeats: int, size: int) -> Ceilings:
    """Rates of square matrix products and of a copy."""
    rates = []
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        (seconds,) = interleaved_medians((lambda a=a, b=b: a @ b,), repeats, device)
        rates.append(2 * size**3 / seconds)
    source = torch.randn(2**26, device=device)
    target = torch.empty_like(source)
    (seconds,) = interleaved_medians((lambda: target.copy_(source),), repeats, device)
    return Ceilings(
        gemm_float32=rates[0],
        gemm_bfloat16=rates[1],
        bandwidth=2 * source.numel() * source.element_size() / seconds,
    )


def bfloat16_hardware(device: torch.device) -> str:
    """Which of the processor's units bear on bfloat16."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"compute capability {major}.{minor}"
    info = Path("/proc/cpuinfo")
    flags = info.read_text(encoding="utf-8").split() if info.exists() else []
    found = [flag for flag in CPU_FLAGS if flag in flags]
    return ", ".join(found) or "none known"


def _calls_for(way: Work, device: torch.device) -> int:
    """How often to call it per measurement, after warming it up."""
    _seconds(way, WARM_UPS, device)
    return max(1, round(LEAST_SECONDS / max(1e-6, _seconds(way, 1, device))))


def _seconds(way: Work, count: int, device: torch.device) -> float:
    _wait_for(device)
    began = time.perf_counter()
    for _ in range(count):
        way()
    _wait_for(device)
    return time.perf_counter() - began


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

"""How much memory a device has left."""

import os
from pathlib import Path

import torch

_MEMINFO = Path("/proc/meminfo")
_GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_GROUP_USE = Path("/sys/fs/cgroup/memory.current")
_KIB = 1024


def available_bytes(device: torch.device) -> int:
    """Memory that can still be taken: of the GPU, or of the machine and of the group we run in."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    left = _machine_bytes()
    try:
        limit = _GROUP_LIMIT.read_text().strip()
        if limit.isdigit():
            left = min(left, max(0, int(limit) - int(_GROUP_USE.read_text())))
    except (OSError, ValueError):
        # No such groups here: the machine's own figure stands.
        return left
    return left


def _machine_bytes() -> int:
    """What Linux calls available, caches included; elsewhere half of all memory."""
    try:
        for line in _MEMINFO.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * _KIB
    except OSError:
        return _half_of_all()
    return _half_of_all()


def _half_of_all() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2

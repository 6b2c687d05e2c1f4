"""Which kernels a device gets."""

import importlib
import importlib.util
from functools import lru_cache

import torch

from cryogimbal.imaging.kernels import torch_kernels
from cryogimbal.imaging.kernels.contract import SliceKernels

# Older ones have no tuples.
OLDEST_TRITON = (3, 3)


def kernels_for(device: torch.device) -> SliceKernels:
    """The fastest kernels there are for a device."""
    return _kernels_of(device.type)


@lru_cache(maxsize=8)
def _kernels_of(device_type: str) -> SliceKernels:
    if device_type == "cpu" and importlib.util.find_spec("numba") is not None:
        from cryogimbal.imaging.kernels import numba_kernels

        return numba_kernels
    if device_type == "cuda" and _has_triton():
        from cryogimbal.imaging.kernels import triton_kernels

        return triton_kernels
    return torch_kernels


def _has_triton() -> bool:
    if importlib.util.find_spec("triton") is None:
        return False
    version = importlib.import_module("triton").__version__
    return tuple(int(number) for number in version.split(".")[:2]) >= OLDEST_TRITON

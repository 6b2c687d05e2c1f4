"""Which kernels a device gets."""

import importlib.util
from functools import lru_cache

import torch

from cryogimbal.imaging.kernels import torch_kernels
from cryogimbal.imaging.kernels.contract import SliceKernels


def kernels_for(device: torch.device) -> SliceKernels:
    """The fastest kernels there are for a device."""
    return _kernels_of(device.type)


@lru_cache(maxsize=8)
def _kernels_of(device_type: str) -> SliceKernels:
    if device_type == "cpu" and importlib.util.find_spec("numba") is not None:
        from cryogimbal.imaging.kernels import numba_kernels

        return numba_kernels
    return torch_kernels

"""Change of sampling by cropping or padding centred spectra, and padding in real space."""

import torch.nn.functional
from jaxtyping import Float
from torch import Tensor

from cryogimbal.fourier.transforms import density_to_hartley, hartley_to_density


def crop_centred(array: Tensor, box: int, n_axes: int) -> Tensor:
    """Central ``box`` samples of the last ``n_axes`` axes; index ``n // 2`` stays the centre.

    Raises
    ------
    ValueError
        If ``box`` is larger than the array.
    """
    found = array.shape[-1]
    if box > found:
        raise ValueError(f"cannot crop {found} samples to {box}")
    start = found // 2 - box // 2
    for axis in range(-n_axes, 0):
        array = array.narrow(axis, start, box)
    return array


def pad_centred(array: Tensor, box: int, n_axes: int) -> Tensor:
    """Zeros around the last ``n_axes`` axes up to ``box``; index ``n // 2`` stays the centre.

    Raises
    ------
    ValueError
        If ``box`` is smaller than the array.
    """
    found = array.shape[-1]
    if box < found:
        raise ValueError(f"cannot pad {found} samples to {box}")
    before = box // 2 - found // 2
    after = box - found - before
    return torch.nn.functional.pad(array, (before, after) * n_axes)


def resize_centred(array: Tensor, box: int, n_axes: int) -> Tensor:
    """Crop or zero-pad the last ``n_axes`` axes to ``box``, whichever is needed."""
    resize = crop_centred if box <= array.shape[-1] else pad_centred
    return resize(array, box, n_axes)


def centred_by_mass(density: Float[Tensor, "box box box"]) -> Float[Tensor, "box box box"]:
    """The density moved by whole voxels so that the centre of its positive mass is the box centre."""
    box, mass = density.shape[-1], density.clamp_min(0)
    axis = torch.arange(box, device=density.device, dtype=density.dtype) - box // 2
    total = mass.sum().clamp_min(torch.finfo(density.dtype).tiny)
    offset = [
        round(float((mass.sum(dim=others) * axis).sum() / total))
        for others in ((1, 2), (0, 2), (0, 1))
    ]
    return torch.roll(density, [-steps for steps in offset], (0, 1, 2))


def resample_density(
    density: Float[Tensor, "old old old"], box: int
) -> Float[Tensor, "new new new"]:
    """The same field of view on ``box`` voxels a side, by Fourier cropping or padding.

    Values keep their real-space scale: a constant density stays that constant.
    """
    spectrum = resize_centred(density_to_hartley(density), box, 3)
    return hartley_to_density(spectrum) * (box / density.shape[-1]) ** 1.5

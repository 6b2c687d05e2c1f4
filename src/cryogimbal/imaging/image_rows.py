"""From images of any optics group to rows of one disc, freed of what was done to their CTF.

Images of another box or pixel size than the stack's common one are taken as the band-limited functions
that they sample, cut to the common field of view (as an extraction with a smaller box would), and
expanded in its frequencies. With W the common width and W' theirs, a coefficient at q cycles per W is

``H(q) = W / W' sum_k H'(k) sinc(W/W' k_x - q_x) sinc(W/W' k_y - q_y)``,

which leaves white noise white and its variance as it was. Beyond their own Nyquist frequency images say
nothing: rows and CTFs are 0 there.

Phase-flipped images are ``sign(C) H``, multiplied ones ``P = C H``; both are turned back into H before
anything else. The likelihood of H needs ``C H`` and ``C^2`` alone, so nothing is gained or lost by the
division, except that where ``|C|`` is below 0.01 the rounding of P would rule: there H and C are set to
0, which leaves out what weighs 1e-4 and less.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cryogimbal.data.optics import CtfParameters, OpticsGroup
from cryogimbal.data.particles import PIXEL_SIZE_TOLERANCE, ParticleStack
from cryogimbal.fourier.disc import Disc
from cryogimbal.fourier.resample import crop_centred, resize_centred
from cryogimbal.fourier.transforms import image_to_hartley
from cryogimbal.imaging.ctf import transfer_function

LEAST_DIVISOR = 0.01


def places_of_one_kind(
    stack: ParticleStack, index: Int[Tensor, " batch"]
) -> Iterator[tuple[OpticsGroup, Int[Tensor, " chosen"]]]:
    """Places in ``index`` of images with the same sampling and treatment, with one of their groups."""
    kinds: dict[tuple[int, float, str], list[int]] = {}
    for number, group in enumerate(stack.optics):
        size = stack.optics[0].pixel_size_angstrom
        if abs(group.pixel_size_angstrom / size - 1) > PIXEL_SIZE_TOLERANCE:
            size = group.pixel_size_angstrom
        kinds.setdefault((group.box, size, group.treatment), []).append(number)
    if len(kinds) == 1:
        yield stack.optics[0], torch.arange(len(index))
        return
    group_of = stack.optics_index[index]
    for numbers in kinds.values():
        places = torch.isin(group_of, torch.tensor(numbers)).nonzero()[:, 0]
        if len(places):
            yield stack.optics[numbers[0]], places


def rows_of_images(
    images: Float[Tensor, "batch pixel pixel"],
    ctf: CtfParameters,
    group: OpticsGroup,
    disc: Disc,
    width_angstrom: float,
) -> Float[Tensor, "batch coefficient"]:
    """Rows of images of one optics group, on a disc over the common field of view.

    Noise of variance 1 per pixel of the images comes out with variance 1 per coefficient, also where
    images had been multiplied by their CTF.

    Parameters
    ----------
    ctf
        One value of each kind per image.
    width_angstrom
        Width of the disc's box.
    """
    spectrum = image_to_hartley(images)
    if group.treatment != "none":
        transfer = square_transfer(ctf, group, images.shape[-1]).to(spectrum)
        spectrum = _untreated(spectrum, transfer, group)
    if abs(images.shape[-1] * group.pixel_size_angstrom / width_angstrom - 1) < 1e-3 * (
        1 / images.shape[-1]
    ):
        if disc.box <= images.shape[-1]:
            return disc.gather(crop_centred(spectrum, disc.box, 2))
        # An even box's lone Nyquist row has no mate in the larger one, nor do such images reach it.
        rows = disc.gather(resize_centred(spectrum, disc.box, 2))
    else:
        cut = _cut(images.shape[-1], group, disc, width_angstrom).to(spectrum)
        rows = disc.gather(cut @ spectrum @ cut.T)
    return rows * (disc.radius_per_coefficient < reach(group, width_angstrom))


def transfer_rows(
    ctf: Float[Tensor, "batch coefficient"],
    groups: tuple[OpticsGroup, ...],
    group_index: Int[Tensor, " batch"],
    disc: Disc,
    width_angstrom: float,
) -> Float[Tensor, "batch coefficient"]:
    """The CTF that rows of :func:`rows_of_images` have: 0 where they were set to 0."""
    treated = [group.treatment == "multiplied" for group in groups]
    if any(treated):
        is_treated = torch.tensor(treated, device=ctf.device)[group_index]
        ctf = ctf * ~(is_treated[:, None] & (ctf.abs() < LEAST_DIVISOR))
    reaches = torch.tensor([reach(group, width_angstrom) for group in groups], device=ctf.device)
    last = float(disc.radius_per_coefficient[-1])
    if bool((reaches <= last).any()):
        ctf = ctf * (disc.radius_per_coefficient < reaches[group_index][:, None])
    return ctf


def reach(group: OpticsGroup, width_angstrom: float) -> float:
    """Nyquist frequency of a group's images in cycles per common field of view."""
    return width_angstrom / (2 * group.pixel_size_angstrom)


def square_transfer(
    ctf: CtfParameters, group: OpticsGroup, box: int
) -> Float[Tensor, "batch box box"]:
    """CTF at every sample of the centred spectrum of images of a group."""
    axis = torch.arange(box, device=ctf.scale.device) - box // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    frequency = torch.stack([x.flatten(), y.flatten()], dim=1) / (box * group.pixel_size_angstrom)
    return transfer_function(ctf, frequency).unflatten(1, (box, box))


def divisible(transfer: Float[Tensor, "*n"]) -> Bool[Tensor, "*n"]:
    """Where a multiplied spectrum can be divided by its CTF again."""
    return transfer.abs() >= LEAST_DIVISOR


def _untreated(spectrum: Tensor, transfer: Tensor, group: OpticsGroup) -> Tensor:
    """H of ``sign(C) H``, or of ``C H`` whose noise had been brought to 1 per pixel."""
    if group.treatment == "phase_flipped":
        return torch.where(transfer < 0, -spectrum, spectrum)
    # White noise of variance 1 has the mean square of the CTF after multiplication.
    strength = transfer.square().mean((-2, -1), keepdim=True).sqrt()
    divisor = torch.where(divisible(transfer), transfer, torch.inf)
    return spectrum * strength / divisor


def _cut(box: int, group: OpticsGroup, disc: Disc, width_angstrom: float) -> Float[Tensor, "q k"]:
    """One axis of the expansion in the frequencies of a narrower box."""
    ratio = width_angstrom / (box * group.pixel_size_angstrom)
    k = torch.arange(box, dtype=torch.float64) - box // 2
    q = torch.arange(disc.box, dtype=torch.float64) - disc.box // 2
    cut = ratio**0.5 * torch.sinc(ratio * k - q[:, None])
    # An even box's lone Nyquist row stands for both its signs and would break the mirror symmetry.
    return cut * (2 * k.abs() < box)

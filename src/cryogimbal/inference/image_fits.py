"""What the pose found for an image explains of it, and what it leaves, shell by shell."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.imaging.model import ImageModel
from cryogimbal.imaging.noise import shell_mean
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.imaging.volume import Decoder
from cryogimbal.inference.pose_table import PoseTable

IMAGES_AT_ONCE = 1024
# Share of coefficients below which a shell counts as silent.
LEAST_KNOWN = 1e-3


@dataclass(frozen=True, kw_only=True)
class ImageFits:
    """Of some images at their most probable poses, with noise 1 per coefficient."""

    index: Int[Tensor, " particle"]
    """Place of each image in the stack."""
    strength: Float[Tensor, " particle"]
    """Sum of prediction times image."""
    power: Float[Tensor, " particle"]
    """Sum of the prediction squared."""
    left: Float[Tensor, "particle shell"]
    """Mean square of what is left of the image, per shell ``round(|k|)``; 1 if that is noise, and in
    shells that the image lacks."""
    transfer: Float[Tensor, "particle shell"]
    """Mean square of the CTF, which contains the particle's scale."""
    per_shell: Int[Tensor, " shell"]
    """Coefficients of each shell."""


@torch.no_grad()
def image_fits(
    spectra: ParticleSpectra,
    index: Int[Tensor, " particle"],
    table: PoseTable,
    decoder: Decoder,
    radius: float,
) -> ImageFits:
    """Compare images with what a decoder predicts, up to a band limit in cycles per box."""
    model, parts = ImageModel(decoder=decoder), []
    disc = spectra.disc.truncate(radius)
    for chosen in index.split(IMAGES_AT_ONCE):
        batch = spectra.batch(chosen, radius)
        predicted = model.predict(table.propose(chosen), batch)[:, 0]
        left = shell_mean((batch.observed - predicted).square(), disc)
        if spectra.optics:
            # An image from coarser pixels has nothing in the outer shells, so nothing is left there.
            known = shell_mean((batch.ctf != 0).float(), disc)
            left = torch.where(known > LEAST_KNOWN, left / known.clamp_min(LEAST_KNOWN), 1.0)
        parts.append(
            ImageFits(
                index=chosen,
                strength=(predicted * batch.observed).sum(1),
                power=predicted.square().sum(1),
                left=left,
                transfer=shell_mean(batch.ctf.square(), disc),
                per_shell=torch.bincount(disc.shell_per_coefficient),
            )
        )
    return joined_fits(parts)


def joined_fits(parts: Sequence[ImageFits]) -> ImageFits:
    """The images of all parts, one part after the other; the parts have the same shells."""
    return ImageFits(
        index=torch.cat([part.index for part in parts]),
        strength=torch.cat([part.strength for part in parts]),
        power=torch.cat([part.power for part in parts]),
        left=torch.cat([part.left for part in parts]),
        transfer=torch.cat([part.transfer for part in parts]),
        per_shell=parts[0].per_shell,
    )


def in_stack_order(fits: ImageFits) -> ImageFits:
    """The same by growing place in the stack."""
    order = fits.index.argsort()
    return ImageFits(
        index=fits.index[order],
        strength=fits.strength[order],
        power=fits.power[order],
        left=fits.left[order],
        transfer=fits.transfer[order],
        per_shell=fits.per_shell,
    )

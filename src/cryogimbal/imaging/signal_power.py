"""How strong the signal behind images is, and how much of it each image can be expected to hold."""

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.fourier.disc import Disc
from cryogimbal.imaging.spectra import ParticleSpectra

# Power of a shell in which nothing stands out of the noise.
LEAST_POWER = 0.01
IMAGES_AT_ONCE = 1024


def power_above_noise(spectra: ParticleSpectra, disc: Disc) -> Float[Tensor, " coefficient"]:
    """Mean square of the slices behind images of an unknown map, by shells.

    A coefficient is ``H = C S + N(0, 1)``, so that ``<S^2> = <H^2 - 1> / <C^2>``.
    """
    squares, ctf_squares = torch.zeros(2, disc.n_coefficients, device=spectra.device)
    for index in torch.arange(len(spectra), device=spectra.device).split(IMAGES_AT_ONCE):
        batch = spectra.batch(index, disc.radius)
        noise = (batch.ctf != 0).float() if spectra.optics else 1.0
        squares += (batch.observed.square() - noise).sum(0)
        ctf_squares += batch.ctf.square().sum(0)
    shell = disc.shell_per_coefficient
    power, weight = (
        torch.zeros(int(shell.max()) + 1, device=spectra.device).index_add(0, shell, part)
        for part in (squares, ctf_squares)
    )
    return (power / weight).clamp_min(LEAST_POWER)[shell]


def expected_signal(spectra: ParticleSpectra, radius: float) -> Float[Tensor, " particle"]:
    """``sum C^2 <S^2> / 2`` of every image: no more can it say of its pose, in nats.

    Defocus, scale and noise of an image count, not what it happens to show: bright contaminants do not
    come first. The zero frequency says nothing of a pose.

    Parameters
    ----------
    radius
        Band limit, in cycles per box.
    """
    disc = spectra.disc.truncate(radius)
    power = power_above_noise(spectra, disc)
    power[0] = 0.0
    index = torch.arange(len(spectra), device=spectra.device)
    return torch.cat(
        [
            spectra.batch(part, radius).ctf.square() @ power / 2
            for part in index.split(IMAGES_AT_ONCE)
        ]
    )
